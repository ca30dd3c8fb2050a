"""gRPC through a pair of agents by the official library.

usage: grpc_client.py mesh=ADDRESS:PORT app=ADDRESS:PORT [only=WORD] [idle=SECONDS]
       grpc_client.py mesh=ADDRESS:PORT one=METHOD [id=ID] [deadline=SECONDS]

`mesh` is the caller's port; `app` the application itself, which is asked what it saw of a call. With
`one` a single call is made and its end told; the line "called" says that it is on its way.
"""

import hashlib
import itertools
import json
import threading
import time
import uuid

import grpc
from cases import arguments, equal, eventually, rule, run
from grpc_health.v1 import health_pb2, health_pb2_grpc

OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    # Whoever else retries would hide what the mesh does.
    ("grpc.enable_retries", 0),
]
RAISED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
MIB = 1 << 20
# For whatever is to come soon, on a busy machine.
SOON = 20


class Pair:
    """The way through the mesh, and the application's own word."""

    def __init__(self, mesh, app, idle):
        self.mesh, self.idle = mesh, float(idle)
        self.channel = grpc.insecure_channel(mesh, OPTIONS)
        self.direct = grpc.insecure_channel(app, OPTIONS)

    def unary(self, method="Unary", channel=None):
        return (channel or self.channel).unary_unary(f"/hearth.test.Echo/{method}")

    def server_stream(self, method="ServerStream"):
        return self.channel.unary_stream(f"/hearth.test.Echo/{method}")

    def client_stream(self, channel=None):
        return (channel or self.channel).stream_unary("/hearth.test.Echo/ClientStream")

    def bidi(self):
        return self.channel.stream_stream("/hearth.test.Echo/Bidi")

    def seen(self, call):
        return json.loads(self.unary("Seen", self.direct)(call.encode(), timeout=SOON))

    def ended(self, call):
        """When the application saw the call's end; waits for it."""
        ends = lambda: [e["at"] for e in self.seen(call) if e["event"] == "end"]
        return eventually(ends)[0]


def fresh():
    return uuid.uuid4().hex


def failure(call):
    """The status a call ends with."""
    try:
        answer = call()
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"it succeeded: {answer!r:.80}")


@rule
def a_unary_call_is_answered_and_an_empty_message_is_a_message(pair):
    for message in (b"hello", b"", bytes(range(256)) * 300):
        equal(pair.unary()(message, timeout=SOON), message)


@rule
def a_server_stream_arrives_whole_and_in_order(pair):
    order = json.dumps({"count": 2000, "size": 100}).encode()
    got = list(pair.server_stream()(order, timeout=60))
    equal([m[0] for m in got], [n % 256 for n in range(2000)])


@rule
def a_client_stream_arrives_whole_and_in_order(pair):
    messages = [bytes([n % 251]) * (n % 700) for n in range(2000)]
    answer = json.loads(pair.client_stream()(iter(messages), timeout=60))
    digest = hashlib.sha256(b"".join(messages)).hexdigest()
    equal(answer, {"count": 2000, "size": sum(map(len, messages)), "sha256": digest})


@rule
def both_sides_of_a_bidirectional_stream_take_turns(pair):
    turn = threading.Semaphore(1)

    def questions():
        for n in range(200):
            assert turn.acquire(timeout=SOON), "no answer to the question before"
            yield str(n).encode()

    for n, answer in enumerate(pair.bidi()(questions(), timeout=60)):
        equal(answer, str(n).encode())
        turn.release()
    equal(n, 199)


@rule
def a_message_is_passed_on_while_the_stream_stays_open(pair):
    call = pair.server_stream("HangStream")(b"", timeout=SOON, metadata=[("x-id", fresh())])
    equal(next(call), b"first")
    call.cancel()


@rule
def calls_of_one_connection_run_side_by_side(pair):
    slow = pair.unary().future(b"slow", timeout=SOON, metadata=[("x-sleep-ms", "1500")])
    calls = [pair.unary().future(str(n).encode(), timeout=SOON) for n in range(200)]
    equal([c.result() for c in calls], [str(n).encode() for n in range(200)])
    assert not slow.done(), "the slow call had to wait for nobody, nor the others for it"
    equal(slow.result(), b"slow")


@rule
def a_deadline_ends_the_call_for_both_sides(pair):
    call, start = fresh(), time.monotonic()
    error = failure(lambda: pair.unary("Hang")(b"", timeout=1.0, metadata=[("x-id", call)]))
    equal(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
    late = pair.ended(call) - start - 1.0
    assert -0.2 < late < 2.0, f"the application saw the end {late:.3f} s after the deadline"
    return f"application told {late * 1000:.0f} ms after the deadline"


@rule
def the_application_is_told_the_deadline_less_what_passed(pair):
    call = fresh()
    pair.unary()(b"", timeout=30, metadata=[("x-id", call)])
    remaining = pair.seen(call)[0]["remaining"]
    assert remaining is not None and 15 < remaining < 30.5, f"remaining {remaining}"
    return f"{remaining:.3f} s of 30 s remained"


@rule
def the_policys_limit_ends_a_call_too_and_says_so_as_a_deadline(pair):
    # The mesh's own limit until an answer begins is 2 s in this test.
    call, start = fresh(), time.monotonic()
    error = failure(lambda: pair.unary("Hang")(b"", timeout=30, metadata=[("x-id", call)]))
    equal(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
    late = pair.ended(call) - start - 2.0
    assert -0.5 < late < 3.0, f"the application saw the end {late:.3f} s after the limit"


@rule
def a_cancelled_call_is_seen_by_the_application_at_once(pair):
    call = fresh()
    future = pair.unary("Hang").future(b"", timeout=60, metadata=[("x-id", call)])
    eventually(lambda: pair.seen(call))
    cancelled = time.monotonic()
    future.cancel()
    late = pair.ended(call) - cancelled
    assert late < 1.0, f"seen after {late:.3f} s"
    return f"seen after {late * 1000:.1f} ms"


@rule
def a_stream_broken_off_in_the_middle_is_seen_by_the_application_at_once(pair):
    call = fresh()
    stream = pair.server_stream("HangStream")(b"", timeout=60, metadata=[("x-id", call)])
    next(stream)
    cancelled = time.monotonic()
    stream.cancel()
    late = pair.ended(call) - cancelled
    assert late < 1.0, f"seen after {late:.3f} s"
    return f"seen after {late * 1000:.1f} ms"


@rule
def a_message_of_4_mib_passes_with_the_librarys_own_limits(pair):
    message = hashlib.sha256(b"seed").digest() * (4 * MIB // 32)
    equal(pair.unary()(message, timeout=60) == message, True)


@rule
def messages_of_32_mib_pass_both_ways_where_both_ends_allow_them(pair):
    channel = grpc.insecure_channel(pair.mesh, OPTIONS + RAISED)
    message = hashlib.sha256(b"seed").digest() * (32 * MIB // 32)
    equal(pair.unary(channel=channel)(message, timeout=120) == message, True)
    channel.close()


@rule
def every_status_and_its_details_arrive(pair):
    details = "naïve: 100 % of \"it\"\n\t✓"
    for code in grpc.StatusCode:
        number = code.value[0]
        if number == 0:
            continue
        orders = [("x-status", str(number)), ("x-details-bin", details.encode())]
        error = failure(lambda: pair.unary()(b"", timeout=SOON, metadata=orders))
        equal((error.code(), error.details()), (code, details))


@rule
def a_status_after_messages_comes_after_them(pair):
    order = json.dumps({"count": 10, "size": 10}).encode()
    orders = [("x-after", "3"), ("x-status", "9"), ("x-details", "no more")]
    got, call = [], pair.server_stream()(order, timeout=SOON, metadata=orders)
    error = failure(lambda: [got.append(m) for m in call])
    equal((len(got), error.code(), error.details()), (3, grpc.StatusCode.FAILED_PRECONDITION, "no more"))


@rule
def a_method_that_is_not_there_is_unimplemented(pair):
    error = failure(lambda: pair.unary("Nothing")(b"", timeout=SOON))
    equal(error.code(), grpc.StatusCode.UNIMPLEMENTED)


def differ(what, got, wanted):
    lost, new = [m for m in wanted if m not in got], [m for m in got if m not in wanted]
    assert not lost and not new, f"{what} metadata: lost {lost!r:.150}, new {new!r:.150}"


@rule
def metadata_comes_through_in_all_directions_binary_included(pair):
    sent = [("x-a", "one"), ("x-a", "two"), ("x-empty", ""), ("x-long", "l" * 3000), ("x-blob-bin", bytes(range(256)))]
    answer, call = pair.unary().with_call(b"", timeout=SOON, metadata=sent)
    initial = [(m.key, m.value) for m in call.initial_metadata() if m.key.startswith("x-initial-")]
    trailing = [(m.key, m.value) for m in call.trailing_metadata() if m.key.startswith("x-")]
    differ("initial", initial, [(k.replace("x-", "x-initial-", 1), v) for k, v in sent])
    differ("trailing", trailing, sent)


@rule
def the_clients_user_agent_is_the_clients(pair):
    call = fresh()
    pair.unary()(b"", timeout=SOON, metadata=[("x-id", call)])
    agent = pair.seen(call)[0]["user_agent"]
    assert agent.startswith("grpc-python/"), agent


@rule
def compressed_messages_pass_as_they_are(pair):
    message = b"again and again " * 50000
    equal(pair.unary()(message, timeout=SOON, compression=grpc.Compression.Gzip) == message, True)


@rule
def the_health_protocol_is_answered_by_the_application(pair):
    stub = health_pb2_grpc.HealthStub(pair.channel)
    ask = lambda name: stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=SOON).status
    serving, asleep = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    equal([ask(""), ask("hearth.test.Echo"), ask("asleep")], [serving, serving, asleep])
    equal(failure(lambda: ask("nobody")).code(), grpc.StatusCode.NOT_FOUND)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="asleep"), timeout=SOON)
    equal(next(watch).status, asleep)
    watch.cancel()


@rule
def a_call_that_was_executed_is_not_repeated_behind_the_clients_back(pair):
    for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED):
        call = fresh()
        orders = [("x-id", call), ("x-status", str(code.value[0]))]
        error = failure(lambda: pair.unary()(b"", timeout=SOON, metadata=orders))
        equal(error.code(), code)
        equal(len([e for e in pair.seen(call) if e["event"] == "call"]), 1)


@rule
def pushback_is_honoured_and_passed_on(pair):
    for pushback in ("-1", "400"):
        call = fresh()
        orders = [("x-id", call), ("x-status", "14"), ("x-pushback-ms", pushback)]
        error = failure(lambda: pair.unary()(b"", timeout=SOON, metadata=orders))
        equal(error.code(), grpc.StatusCode.UNAVAILABLE)
        equal(dict(error.trailing_metadata()).get("grpc-retry-pushback-ms"), pushback)
        calls = [e["at"] for e in pair.seen(call) if e["event"] == "call"]
        gaps = [b - a for a, b in itertools.pairwise(calls)]
        if pushback == "-1":
            equal(gaps, [])
        assert all(gap >= 0.4 for gap in gaps), f"repeated after {gaps} s"


@rule
def a_stream_outlives_idle_time(pair):
    go = threading.Event()

    def questions():
        yield b"before"
        go.wait()
        yield b"after"

    answers = pair.bidi()(questions(), timeout=pair.idle + 60)
    equal(next(answers), b"before")
    time.sleep(pair.idle)  # The length of the silence is what is tested.
    go.set()
    equal(list(answers), [b"after"])
    return f"{pair.idle:.0f} s of silence"


def one(mesh, method, call, deadline):
    channel = grpc.insecure_channel(mesh, OPTIONS)
    stream = channel.unary_stream(f"/hearth.test.Echo/{method}")
    start = time.monotonic()
    status, details, got = "OK", "", 0
    answers = stream(b"", timeout=float(deadline), metadata=[("x-id", call)])
    print("called", flush=True)
    try:
        for got, _ in enumerate(answers, 1):
            print("message", flush=True)
    except grpc.RpcError as error:
        status, details = error.code().name, error.details()
    waited = time.monotonic() - start
    print(json.dumps({"status": status, "details": details, "messages": got, "seconds": waited}), flush=True)


def main():
    given = arguments()
    if "one" in given:
        one(given["mesh"], given["one"], given.get("id", ""), given.get("deadline", "60"))
    else:
        run(given.get("only", ""), Pair(given["mesh"], given["app"], given.get("idle", "4")))


main()
