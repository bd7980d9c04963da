"""Reading packs in a second process, while the first walks the trees: a thread would wait for the interpreter.

The process reads lines of JSON from its standard input: what opens an encrypted repository, then one for each pack.
It writes one with the result of each. Keys go this way only: what a process is started with, others see.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from collections.abc import Iterator
from typing import Self

import msgspec
from msgspec import Struct

from drkit import osutil
from drkit.model import Level, PackId
from drkit.seal import SealedStore
from drkit.seal.cipher import KeyRing
from drkit.store import LocalStore, open_store
from drkit.verify.packs import PackResult, verify_pack

_PROGRAM = "import sys; sys.path[:] = {path!r}; from drkit.verify.apart import serve; serve({url!r}, {level}, {parity})"


class _Keys(Struct, frozen=True):
    ring: KeyRing
    repository_id: str


class _Task(Struct, frozen=True):
    pack: str
    table: str


class _Done(Struct, frozen=True):
    pack: str
    result: PackResult


class PackProcess:
    """The second process, from the side of the first. A context manager. OSError if there is none to be had."""

    def __init__(self, store: LocalStore | SealedStore, level: Level, *, parity: bool) -> None:
        program = _PROGRAM.format(path=sys.path, url=store.url, level=int(level), parity=parity)
        self._process = osutil.start_python("-c", program)
        keys = _Keys(store.ring, store.repository_id) if isinstance(store, SealedStore) else None
        self._write(keys)
        self._done: queue.Queue[_Done | None] = queue.Queue()
        # All that the process says is taken at once, so that neither ever waits for the other to read.
        self._listener = threading.Thread(target=self._listen, name="drkit-verify-listen", daemon=True)
        self._listener.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what it was not told any more
                pipe.close()
        self._process.wait()

    def read(self, pack_id: PackId, table: bytes) -> None:
        """Have a pack read; `table` as `verify_pack` takes it. OSError if the process has ended."""
        self._write(_Task(pack_id.hex(), table.hex()))

    def results(self) -> Iterator[tuple[PackId, PackResult]]:
        """Yield what became of the packs, as they come; of all, unless the process died."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it died, and did not take all
            self._process.stdin.close()
        while (done := self._done.get()) is not None:
            yield PackId(bytes.fromhex(done.pack)), done.result

    def _write(self, message: _Keys | _Task | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(message) + b"\n")
        self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._done.put(msgspec.json.decode(line, type=_Done))
        finally:
            self._done.put(None)


def serve(url: str, level: int, parity: bool) -> None:
    """Be the second process."""
    store = open_store(url)
    if keys := msgspec.json.decode(sys.stdin.buffer.readline(), type=_Keys | None):
        store = SealedStore(store, keys.ring, keys.repository_id)
    for line in sys.stdin.buffer:
        task = msgspec.json.decode(line, type=_Task)
        pack_id, table = PackId(bytes.fromhex(task.pack)), bytes.fromhex(task.table)
        result = verify_pack(store, pack_id, Level(level), table, parity=parity)
        sys.stdout.buffer.write(msgspec.json.encode(_Done(task.pack, result)) + b"\n")
        sys.stdout.buffer.flush()
