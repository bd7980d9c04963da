"""A proxy on loopback before a server of objects: it counts requests and bytes, and cuts connections on order."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

MOMENTS = ("before", "half-sent", "unanswered", "half-answered")
"""When a connection is cut: before the server hears of the request, when it heard half of it, when it has done what
it was asked for but the answer is lost, and in the middle of the answer."""


class Proxy:
    """Forwards to `endpoint`; `requests` are method and path of each, `received` is the sum of the answers' bodies."""

    def __init__(self, endpoint: str) -> None:
        self.server = urlsplit(endpoint)
        self.url = ""
        self.requests: list[tuple[str, str]] = []
        self.received = 0
        self.cuts = 0
        self.refuse: dict[str, int] = {}
        """Statuses that are answered to methods, without the server hearing of it."""
        self.rule: Callable[[str, str, Message, bytes], tuple[int, bytes] | None] | None = None
        """Given method, path, headers and body, says what is answered instead of the server; None: let it pass."""
        self.adds: Callable[[Message], Mapping[str, str]] | None = None
        """Given the headers of a request, says which more the server gets."""
        self._cut: dict[int, str] = {}
        self._lock = threading.Lock()

    def reset(self) -> None:
        """Count from nothing again, and cut no more."""
        with self._lock:
            self.requests, self.received, self.cuts, self._cut = [], 0, 0, {}

    def cut(self, number: int, moment: str, times: int = 1) -> None:
        """Cut the connection at request `number` (from 0) since the last reset, and at those after it."""
        self._cut = dict.fromkeys(range(number, number + times), moment)

    def cut_also(self, number: int, moment: str) -> None:
        """Cut one more."""
        self._cut[number] = moment

    def begin(self, method: str, path: str) -> str:
        with self._lock:
            self.requests.append((method, path))
            moment = self._cut.pop(len(self.requests) - 1, "")
            self.cuts += bool(moment)
            return moment

    def answered(self, size: int) -> None:
        with self._lock:
            self.received += size


@contextmanager
def proxied(endpoint: str) -> Iterator[Proxy]:
    """Serve a proxy before `endpoint` for as long as the block runs."""
    proxy = Proxy(endpoint)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy))
    server.daemon_threads = True
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}{proxy.server.path}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else the body of an answer waits for the head to be acknowledged

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            moment = proxy.begin(self.command, self.path)
            if moment == "before":
                self._hang_up()
                return
            if status := proxy.refuse.get(self.command):
                self.send_response_only(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if proxy.rule is not None and (answer := proxy.rule(self.command, self.path, self.headers, body)):
                self.send_response_only(answer[0])
                self.send_header("Content-Length", str(len(answer[1])))
                self.end_headers()
                self.wfile.write(answer[1])
                return
            upstream = socket.create_connection((proxy.server.hostname, proxy.server.port), timeout=30)
            with upstream:
                head = f"{self.command} {self.path} HTTP/1.1\r\n".encode()
                head += b"".join(
                    f"{name}: {value}\r\n".encode() for name, value in self.headers.items() if name != "Connection"
                )
                more = proxy.adds(self.headers) if proxy.adds is not None else {}
                head += b"".join(f"{name}: {value}\r\n".encode() for name, value in more.items())
                upstream.sendall(head + b"Connection: close\r\n\r\n" + (body[: len(body) // 2] if moment else body))
                if moment == "half-sent":
                    self._hang_up()
                    return
                upstream.sendall(body[len(body) // 2 :] if moment else b"")
                response = http.client.HTTPResponse(upstream, method=self.command)
                response.begin()
                data = response.read()
            proxy.answered(len(data))
            if moment == "unanswered":
                self._hang_up()
                return
            self.send_response_only(response.status)
            for name, value in response.getheaders():
                if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                    self.send_header(name, value)
            length = response.getheader("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(data)))
            if moment == "half-answered":
                if data:
                    self.end_headers()
                    self.wfile.write(data[: len(data) // 2])
                else:
                    self.wfile.write(b"HTTP/1.1 2")
                self.wfile.flush()
                self._hang_up()
                return
            self.end_headers()
            self.wfile.write(data)

        def _hang_up(self) -> None:
            """End the connection with a reset, as a line that breaks does."""
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward  # noqa: N815

        def finish(self) -> None:
            if not self.wfile.closed and not self.close_connection:
                self.wfile.flush()

    return Handler
