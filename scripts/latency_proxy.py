"""A proxy on loopback before a server of objects: it adds latency to each request, and counts requests and bytes.

Each connection has one of its own to the server. A request waits, as a whole, as long as a line of that round trip
time would let it; those of other connections wait beside it. What a server does wrong with ranges, to send the part
with status 200 instead of 206 as `rclone serve s3` does, is put right on the way: clients that look at the status
would take it for the whole object.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_BUFFER = 1 << 18
_HEAD_MAX = 1 << 16


@dataclass
class Proxy:
    """Forwards to `server`; `latency` in seconds may change at any time. Counts since the last `reset`."""

    server: str
    latency: float = 0.0
    url: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0
    received: int = 0

    def reset(self) -> None:
        """Count from nothing again."""
        self.requests, self.sent, self.received = [], 0, 0

    @property
    def methods(self) -> dict[str, int]:
        """How many requests there were of each method."""
        return dict(Counter(method for method, _ in self.requests))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until either side ends it."""
        place = urlsplit(self.server)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            up_reader, up_writer = await asyncio.open_connection(place.hostname, place.port, limit=_BUFFER)
            try:
                while await self._one(reader, writer, up_reader, up_writer):
                    pass
            finally:
                up_writer.close()
        writer.close()

    async def _one(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> bool:
        """Forward one request and its answer; return whether another may come."""
        head = await reader.readuntil(b"\r\n\r\n")
        line, headers = _parse(head)
        method, path, _ = line.split(" ", 2)
        self.requests.append((method, path))
        if headers.pop("expect", ""):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = b"\r\n".join(one for one in head.split(b"\r\n") if not one.lower().startswith(b"expect:"))
        await asyncio.sleep(self.latency)
        up_writer.write(head)
        self.sent += await _body(reader, up_writer, headers)
        await up_writer.drain()
        while True:
            head = await up_reader.readuntil(b"\r\n\r\n")
            line, answer = _parse(head)
            status = int(line.split(" ", 2)[1])
            if status >= 200:
                break
        if status == 200 and "content-range" in answer:
            head = b"HTTP/1.1 206 Partial Content\r\n" + head.split(b"\r\n", 1)[1]
        writer.write(head)
        if method != "HEAD" and status not in {204, 304}:
            self.received += await _body(up_reader, writer, answer)
        await writer.drain()
        return "close" not in (headers.get("connection"), answer.get("connection"))


def _parse(head: bytes) -> tuple[str, dict[str, str]]:
    line, *rest = head.decode("latin-1").split("\r\n")
    pairs = (one.partition(":")[::2] for one in rest if one)
    return line, {name.strip().lower(): value.strip().lower() for name, value in pairs}


async def _body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: dict[str, str]) -> int:
    """Pass on the body of a message; return its length."""
    if "chunked" in headers.get("transfer-encoding", ""):
        total = 0
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            writer.write(line)
            total += await _pass(reader, writer, size)
            writer.write(await reader.readuntil(b"\r\n"))
            if not size:
                return total
    return await _pass(reader, writer, int(headers.get("content-length") or 0))


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int) -> int:
    left = size
    while left:
        data = await reader.read(min(left, _BUFFER))
        if not data:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(data)
        writer.write(data)
        await writer.drain()
    return size


@contextmanager
def proxied(server: str, latency: float = 0.0) -> Iterator[Proxy]:
    """Serve a proxy before `server` in a thread for as long as the block runs."""
    proxy = Proxy(server, latency)
    loop = asyncio.new_event_loop()

    async def listen() -> asyncio.Server:
        return await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=max(_BUFFER, _HEAD_MAX))

    listener = loop.run_until_complete(listen())
    proxy.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    thread = threading.Thread(target=loop.run_forever, name="latency-proxy", daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        listener.close()
        loop.call_soon_threadsafe(_end, loop)
        thread.join(10)
        loop.close()


def _end(loop: asyncio.AbstractEventLoop) -> None:
    """End the connections that are open, then the loop."""
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.call_later(0.05, loop.stop)
