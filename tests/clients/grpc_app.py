"""The application behind gRPC endpoints, by the official library: it does what a call's metadata says.

usage: grpc_app.py ADDRESS:PORT

Messages are bytes; no protoc is needed. Methods of hearth.test.Echo: Unary, ServerStream, ClientStream,
Bidi, Hang (answers nothing), HangStream (one message, then nothing), and Seen, which tells as JSON what
became of the calls of one id, with times of the monotonic clock that a client on this machine shares.
Metadata of a request: x-id (whose call it is), x-status, x-details, x-pushback-ms (how it is to end),
x-after (messages before that end), x-sleep-ms. All other x-… metadata comes back, as initial and as trailing.
"""

import hashlib
import json
import sys
import threading
import time
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

CODES = {code.value[0]: code for code in grpc.StatusCode}
ORDERS = {"x-id", "x-status", "x-details", "x-details-bin", "x-pushback-ms", "x-after", "x-sleep-ms"}

# What the mesh adds to a request on its way is not the client's.
ADDED = {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id"}

lock = threading.Lock()
seen = {}


def note(call, event, **more):
    entry = {"event": event, "at": time.monotonic(), **more}
    with lock:
        seen.setdefault(call, []).append(entry)


class Call:
    """What one call's metadata orders."""

    def __init__(self, context, method):
        self.context = context
        self.metadata = [(m.key, m.value) for m in context.invocation_metadata()]
        self.orders = dict((k, v) for k, v in self.metadata if k in ORDERS)
        self.id = self.orders.get("x-id", "")
        self.ended = threading.Event()
        remaining = context.time_remaining()
        agent = dict(self.metadata).get("user-agent", "")
        note(self.id, "call", method=method, remaining=remaining, user_agent=agent, peer=context.peer())
        if not context.add_callback(self._end):
            self._end()
        time.sleep(int(self.orders.get("x-sleep-ms", "0")) / 1000)

    def _end(self):
        note(self.id, "end")
        self.ended.set()

    def echoed(self):
        return [(k, v) for k, v in self.metadata if k.startswith("x-") and k not in ORDERS | ADDED]

    def open(self):
        """Sends initial metadata, unless the call is to end without any."""
        back = self.echoed()
        if back:
            self.context.send_initial_metadata([(k.replace("x-", "x-initial-", 1), v) for k, v in back])

    def finish(self):
        """Ends the call the way it asked for."""
        trailing = self.echoed()
        if "x-pushback-ms" in self.orders:
            trailing.append(("grpc-retry-pushback-ms", self.orders["x-pushback-ms"]))
        self.context.set_trailing_metadata(trailing)
        status = int(self.orders.get("x-status", "0"))
        if status:
            details = self.orders.get("x-details", "")
            details = self.orders.get("x-details-bin", details.encode()).decode()
            self.context.abort(CODES[status], details)


def unary(request, context):
    call = Call(context, "Unary")
    call.open()
    call.finish()
    return request


def server_stream(request, context):
    call = Call(context, "ServerStream")
    order = json.loads(request)
    call.open()
    for n in range(order["count"]):
        if "x-after" in call.orders and n == int(call.orders["x-after"]):
            break
        yield bytes([n % 256]) * order["size"]
    call.finish()


def client_stream(requests, context):
    call = Call(context, "ClientStream")
    call.open()
    count, size, digest = 0, 0, hashlib.sha256()
    for message in requests:
        count, size = count + 1, size + len(message)
        digest.update(message)
    call.finish()
    return json.dumps({"count": count, "size": size, "sha256": digest.hexdigest()}).encode()


def bidi(requests, context):
    call = Call(context, "Bidi")
    call.open()
    for message in requests:
        yield message
    call.finish()


def hang(_request, context):
    Call(context, "Hang").ended.wait()
    return b""


def hang_stream(_request, context):
    call = Call(context, "HangStream")
    yield b"first"
    call.ended.wait()


def tell(request, _context):
    with lock:
        return json.dumps(seen.get(request.decode(), [])).encode()


def main(address):
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=128), options=options)
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
        "Hang": grpc.unary_unary_rpc_method_handler(hang),
        "HangStream": grpc.unary_stream_rpc_method_handler(hang_stream),
        "Seen": grpc.unary_unary_rpc_method_handler(tell),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("hearth.test.Echo", handlers),))
    checks = health.HealthServicer(experimental_non_blocking=True)
    checks.set("hearth.test.Echo", health_pb2.HealthCheckResponse.SERVING)
    checks.set("asleep", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    server.add_insecure_port(address)
    server.start()
    print("listening", flush=True)
    server.wait_for_termination()


main(sys.argv[1])
