"""WebSocket through a pair of agents by the `websockets` library.

usage: ws_client.py mesh=ADDRESS:PORT app=ADDRESS:PORT [only=WORD] [big=BYTES]
       ws_client.py mesh=ADDRESS:PORT one=PATH

`mesh` is the caller's port; `app` the application itself, which is asked what it saw. With `one` a single
connection is opened and its end told; the line "open" says that it stands.
"""

import asyncio
import json
import time
import urllib.request
import uuid

from cases import arguments, equal, eventually, rule, run
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

# For whatever is to come soon, on a busy machine.
SOON = 20


class Pair:
    """The way through the mesh, and the application's own word."""

    def __init__(self, mesh, app, big):
        self.mesh, self.app, self.big = mesh, app, int(big)

    def connect(self, path, **more):
        more = {"max_size": None, "proxy": None, "open_timeout": SOON, "ping_interval": None, **more}
        return connect(f"ws://{self.mesh}{path}", **more)

    def seen(self, call):
        with urllib.request.urlopen(f"http://{self.app}/seen?id={call}", timeout=SOON) as answer:
            return json.load(answer)


def asynchronous(body):
    """A rule whose body is a coroutine, with a limit so that nothing hangs."""

    def run_it(pair):
        return asyncio.run(asyncio.wait_for(body(pair), 120))

    run_it.__name__ = body.__name__
    return rule(run_it)


@asynchronous
async def text_and_binary_messages_come_back(pair):
    async with pair.connect("/echo") as ws:
        for message in ("hello", "naïve ✓", "", b"", bytes(range(256)) * 300):
            await ws.send(message)
            equal(await asyncio.wait_for(ws.recv(), SOON), message)


@asynchronous
async def messages_are_not_held_back_and_keep_their_order(pair):
    async with pair.connect("/echo", compression=None) as ws:
        sender = asyncio.create_task(send_all(ws, [str(n) for n in range(3000)]))
        for n in range(3000):
            equal(await asyncio.wait_for(ws.recv(), SOON), str(n))
        await sender


async def send_all(ws, messages):
    for message in messages:
        await ws.send(message)


@asynchronous
async def pings_of_either_side_are_answered_by_the_other(pair):
    async with pair.connect("/echo") as ws:
        await asyncio.wait_for(await ws.ping(b"client"), SOON)
    async with pair.connect("/ping") as ws:
        return await asyncio.wait_for(ws.recv(), SOON)


@asynchronous
async def fragments_stay_fragments_both_ways(pair):
    async with pair.connect("/frames", compression=None) as ws:
        # The library ends a message of parts with an empty frame of its own: four in all.
        await ws.send(["a" * 1000, "b" * 1000, "c" * 1000])
        equal(json.loads(await asyncio.wait_for(ws.recv(), SOON)), {"fragments": 4, "size": 3000})
    async with pair.connect("/fragments", compression=None) as ws:
        parts = [part async for part in ws.recv_streaming()]
        equal(parts, ["one ", "two ", "three", ""])


@asynchronous
async def a_very_large_message_passes_both_ways(pair):
    message = bytes(range(256)) * (pair.big // 256)
    async with pair.connect("/echo", compression=None) as ws:
        start = time.monotonic()
        sender = asyncio.create_task(ws.send(message))
        equal(await ws.recv() == message, True)
        await sender
        took = time.monotonic() - start
    async with pair.connect(f"/big?size={pair.big}", compression=None) as ws:
        equal(await ws.recv() == message, True)
    return f"{pair.big >> 20} MiB there and back in {took:.1f} s"


@asynchronous
async def the_clients_close_code_and_reason_reach_the_application(pair):
    call = uuid.uuid4().hex
    async with pair.connect(f"/echo?id={call}") as ws:
        await ws.close(4001, "goodbye ✓")
        equal(ws.close_code, 4001)
    saw = await asyncio.to_thread(eventually, lambda: pair.seen(call))
    equal((saw["code"], saw["reason"]), (4001, "goodbye ✓"))


@asynchronous
async def the_applications_close_code_and_reason_reach_the_client(pair):
    async with pair.connect("/close") as ws:
        try:
            await asyncio.wait_for(ws.recv(), SOON)
            raise AssertionError("a message came")
        except ConnectionClosed:
            equal((ws.close_code, ws.close_reason), (4002, "that is all"))


@asynchronous
async def permessage_deflate_is_agreed_upon_and_works(pair):
    async with pair.connect("/about") as ws:
        about = json.loads(await asyncio.wait_for(ws.recv(), SOON))
        equal(about["extensions"], ["permessage-deflate"])
        equal([e.name for e in ws.protocol.extensions], ["permessage-deflate"])
    async with pair.connect("/echo") as ws:
        await ws.send("again and again " * 100_000)
        equal(await asyncio.wait_for(ws.recv(), SOON) == "again and again " * 100_000, True)
    async with pair.connect("/about", compression=None) as ws:
        equal(json.loads(await asyncio.wait_for(ws.recv(), SOON))["extensions"], [])


@asynchronous
async def the_subprotocol_and_the_clients_headers_arrive(pair):
    more = {"subprotocols": ["unknown", "superchat"], "additional_headers": {"X-Mine": "yes", "Cookie": "a=b"}}
    async with pair.connect("/about", origin="https://example.com", **more) as ws:
        about = json.loads(await asyncio.wait_for(ws.recv(), SOON))
        equal((ws.subprotocol, about["subprotocol"]), ("superchat", "superchat"))
        got = {key: about["headers"].get(key) for key in ("x-mine", "cookie", "origin", "sec-websocket-version")}
        equal(got, {"x-mine": "yes", "cookie": "a=b", "origin": "https://example.com", "sec-websocket-version": "13"})


@asynchronous
async def an_upgrade_that_the_application_refuses_is_refused_in_its_words(pair):
    try:
        async with pair.connect("/deny"):
            raise AssertionError("it was accepted")
    except InvalidStatus as refused:
        answer = refused.response
        equal((answer.status_code, answer.body), (403, b"not you\n"))
        equal(answer.headers["X-Reason"], "denied by the application")


@asynchronous
async def many_connections_stand_side_by_side(pair):
    async def one(n):
        async with pair.connect("/echo") as ws:
            for turn in range(10):
                await ws.send(f"{n} {turn}")
                equal(await asyncio.wait_for(ws.recv(), SOON), f"{n} {turn}")

    await asyncio.gather(*(one(n) for n in range(60)))


@asynchronous
async def a_connection_outlives_the_limit_of_a_request(pair):
    # The mesh's own limit of a request is 2 s in this test: it is for the handshake, not for what follows.
    async with pair.connect("/echo") as ws:
        await asyncio.sleep(4)
        await ws.send("still here")
        equal(await asyncio.wait_for(ws.recv(), SOON), "still here")


@asynchronous
async def a_client_that_vanishes_is_gone_for_the_application_at_once(pair):
    call = uuid.uuid4().hex
    async with pair.connect(f"/echo?id={call}") as ws:
        await ws.send("here")
        await asyncio.wait_for(ws.recv(), SOON)
        vanished = time.monotonic()
        ws.transport.abort()
    saw = await asyncio.to_thread(eventually, lambda: pair.seen(call))
    late = saw["at"] - vanished
    equal(saw["code"], 1006)
    assert late < 1.0, f"seen after {late:.3f} s"
    return f"seen after {late * 1000:.1f} ms"


async def one(mesh, path):
    async with connect(f"ws://{mesh}{path}", proxy=None, ping_interval=None, open_timeout=SOON) as ws:
        await ws.send("here")
        await ws.recv()
        print("open", flush=True)
        start = time.monotonic()
        await ws.wait_closed()
        waited = time.monotonic() - start
        print(json.dumps({"code": ws.close_code, "seconds": waited, "at": time.monotonic()}), flush=True)


def main():
    given = arguments()
    if "one" in given:
        asyncio.run(one(given["mesh"], given["one"]))
    else:
        run(given.get("only", ""), Pair(given["mesh"], given["app"], given.get("big", str(4 << 20))))


main()
