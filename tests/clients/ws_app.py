"""The application behind WebSocket endpoints, by the `websockets` library.

usage: ws_app.py ADDRESS:PORT

/echo answers each message with itself, /close closes with code 4002 and a reason, /ping pings its client
and tells how that went, /frames tells frame by frame what came, /big sends `?size=` bytes, /deny answers the
upgrade with 403, /seen?id= tells as JSON what became of the connection /echo?id=.
"""

import asyncio
import http
import json
import sys
import time
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

seen = {}


def asked(path):
    url = urlsplit(path)
    return url.path, {key: values[0] for key, values in parse_qs(url.query).items()}


def refuse(connection, request):
    path, given = asked(request.path)
    if path == "/deny":
        response = connection.respond(http.HTTPStatus.FORBIDDEN, "not you\n")
        response.headers["X-Reason"] = "denied by the application"
        return response
    if path == "/seen":
        return connection.respond(http.HTTPStatus.OK, json.dumps(seen.get(given.get("id"))))
    if request.headers.get("Upgrade", "").lower() != "websocket":
        return connection.respond(http.HTTPStatus.OK, "here\n")
    return None


def ended(call, connection):
    seen[call] = {"code": connection.close_code, "reason": connection.close_reason, "at": time.monotonic()}


async def echo(connection, given):
    try:
        async for message in connection:
            await connection.send(message)
    finally:
        ended(given.get("id", ""), connection)


async def ping(connection, _given):
    start = time.monotonic()
    await asyncio.wait_for(await connection.ping(b"are you there"), 20)
    await connection.send(f"pong after {time.monotonic() - start:.3f} s")


async def fragments(connection, _given):
    """Sends one message in three fragments with a ping between them."""

    async def parts():
        yield "one "
        await connection.ping()
        yield "two "
        yield "three"

    await connection.send(parts())
    await connection.recv()


async def frames(connection, _given):
    """Tells how many fragments the next message came in."""
    parts = [part async for part in connection.recv_streaming()]
    await connection.send(json.dumps({"fragments": len(parts), "size": sum(map(len, parts))}))


async def big(connection, given):
    await connection.send(bytes(range(256)) * (int(given["size"]) // 256))
    await connection.recv()


async def close(connection, _given):
    await connection.close(4002, "that is all")


async def about(connection, _given):
    names = [extension.name for extension in connection.protocol.extensions]
    headers = {key.lower(): value for key, value in connection.request.headers.raw_items()}
    await connection.send(json.dumps({"extensions": names, "subprotocol": connection.subprotocol, "headers": headers}))


PLACES = {
    "/echo": echo, "/ping": ping, "/fragments": fragments, "/frames": frames, "/big": big, "/close": close,
    "/about": about,
}


def choose(_connection, offered):
    return next((name for name in offered if name in ("chat", "superchat")), None)


async def handle(connection):
    path, given = asked(connection.request.path)
    try:
        await PLACES[path](connection, given)
    except ConnectionClosed:
        pass


async def main(address):
    host, port = address.rsplit(":", 1)
    more = {"max_size": None, "select_subprotocol": choose, "ping_interval": None, "process_request": refuse}
    async with serve(handle, host, int(port), **more) as server:
        print("listening", flush=True)
        await server.serve_forever()


asyncio.run(main(sys.argv[1]))
