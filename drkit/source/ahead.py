"""Walking and reading a large source in a second process, ahead of the first, which makes a snapshot of what it sees.

Each of the two holds an interpreter's lock of its own. The second process is told what to walk, and from where on, in
one message on its standard input. It writes batches of what it saw to its standard output, in the order of the walk,
each after its length. The content of small files it reads into slots of memory that both share, one for each batch;
the number of a slot that the first process has emptied comes back on standard input. Pipe and slots bound how far
ahead it gets. What it could not settle it sends without content: then the first process looks itself, as it does where
there is no second one.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import IO, Self

import msgspec
from msgspec import Struct

from drkit.source.globs import Globs
from drkit.source.read import read_into, read_xattrs
from drkit.source.walk import MAGIC, Nested, PluginRules, Position, Seen, Status, Walker

_PROGRAM = "import sys; sys.path[:] = {path!r}; from drkit.source.ahead import serve; serve()"
MANY = 2000
"""Files of a tree for which a second process is started; fewer are read in the time that this takes."""
_BATCH = 256
"""Paths of a batch, at most."""
_SLOTS = 8
_SLOT = 1 << 20
"""Bytes of a slot. A file that does not fit into one is left to the first process."""
_LENGTH = 4


class Task(Struct, array_like=True):
    """What the second process is told. Files of `limit` bytes are not read, nor those of a (device, inode) in use.

    `slots` is the descriptor of the shared memory.
    """

    root: bytes
    excludes: tuple[bytes, ...]
    markers: tuple[bytes, ...]
    globs: tuple[bytes, ...]
    repository: tuple[int, int] | None
    limit: int
    in_use: frozenset[tuple[int, int]]
    after: Position | None = None
    slots: int = -1


class _Sent(Seen, array_like=True, gc=False):
    """A path; a file that was read lies `at` an offset in the batch's slot."""

    stat: Status
    at: int = -1


class _Batch(Struct, array_like=True):
    """Some paths; after them a problem (path, errno, strerror), or the repository, or the end of the walk.

    `slot` is the number of the slot that holds what was read of them, -1 if nothing was.
    """

    seen: list[_Sent]
    slot: int = -1
    problem: tuple[bytes, int | None, str | None] | None = None
    nested: bytes | None = None
    ends: bool = False


class Ended(Exception):
    """The second process is gone before it came to the end."""


class WalkProcess:
    """The second process, from the side of the first. A context manager. OSError if there is none to be had."""

    def __init__(self, task: Task) -> None:
        import subprocess

        self._decoder = msgspec.msgpack.Decoder(_Batch)
        with _shared_file() as slots:
            slots.truncate(_SLOTS * _SLOT)
            self._slots = memoryview(mmap.mmap(slots.fileno(), _SLOTS * _SLOT))
            message = msgspec.msgpack.encode(msgspec.structs.replace(task, slots=slots.fileno()))
            self._process = subprocess.Popen(
                [sys.executable or "", "-I", "-S", "-c", _PROGRAM.format(path=sys.path)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(slots.fileno(),),
                process_group=0,  # an interrupt from the keyboard is for the first process; this one ends with it
            )
        self._tell(len(message).to_bytes(_LENGTH, "little") + message)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._slots.release()

    def batches(self) -> Iterator[_Batch]:
        """Yield what the second process sends, with the content of what was read. Ended if it does not send all."""
        assert self._process.stdout is not None
        with open(self._process.stdout.fileno(), "rb", closefd=False) as stdout:
            while True:
                data = stdout.read(int.from_bytes(stdout.read(_LENGTH), "little"))
                try:
                    batch = self._decoder.decode(data)
                except msgspec.DecodeError as error:  # cut short, or nothing at all
                    raise Ended from error
                if batch.slot >= 0:
                    self._empty(batch)
                yield batch
                if batch.ends:
                    return

    def _empty(self, batch: _Batch) -> None:
        start = batch.slot * _SLOT
        slots = self._slots
        for each in batch.seen:
            if each.at >= 0:
                at = start + each.at
                each.data = bytes(slots[at : at + each.stat.st_size])
        self._tell(bytes((batch.slot,)))

    def _tell(self, data: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it is gone: `batches` will tell
            self._process.stdin.write(data)


class AheadWalker(Walker):
    """A walker that, if that `pays`, has a second process go ahead once it has met many files.

    It yields what any walker would, but some of it was read already: files of fewer than `limit` bytes that are none
    of those `in_use` (device and inode). A context manager: leaving it ends the process.
    """

    def __init__(
        self,
        root: bytes,
        *,
        excludes: Globs,
        rules: PluginRules,
        problem: Callable[[bytes, OSError], None],
        repository: tuple[int, int] | None,
        limit: int,
        in_use: frozenset[tuple[int, int]],
        pays: bool,
    ) -> None:
        super().__init__(root, excludes=excludes, rules=rules, problem=self._tell, repository=repository)
        self._task = Task(
            root,
            tuple(map(os.fsencode, excludes.patterns)),
            tuple(map(os.fsencode, rules.markers)),
            tuple(map(os.fsencode, rules.globs)),
            repository,
            limit,
            in_use,
        )
        self._pays = pays
        self._told: set[bytes] = set()
        self._tell_first = problem
        self._plugins: list[bytes] = []
        self._last: Seen | None = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def walk(self, untouched: Callable[[bytes], bool] | None = None, after: Position | None = None) -> Iterator[Seen]:
        """Yield every path below the root, as `Walker.walk` does."""
        if not self._pays:
            return super().walk(untouched, after)
        return self._walk_ahead(super().walk(None, after))

    def _walk_ahead(self, walk: Iterator[Seen]) -> Iterator[Seen]:
        left = MANY
        if left > 0:
            for seen in walk:
                self._follow(seen)
                yield seen
                if seen.kind == "f":  # not at a directory, which this process has listed already
                    left -= 1
                    if not left:
                        break
            else:
                return
        with contextlib.suppress(OSError):  # where there is none to be had, this process goes on by itself
            process = self._open.enter_context(WalkProcess(msgspec.structs.replace(self._task, after=self._position())))
            walk = self._received(process)
        yield from walk

    def _received(self, process: WalkProcess) -> Iterator[Seen]:
        try:
            for batch in process.batches():
                yield from self._take(batch)
            self._open.close()
        except Ended:
            yield from super().walk(after=self._position())

    def _tell(self, path: bytes, error: OSError) -> None:
        """Pass on a problem, unless it is of a directory that both processes met."""
        if path not in self._told:
            self._tell_first(path, error)

    def _take(self, batch: _Batch) -> Iterator[Seen]:
        yield from batch.seen
        for each in batch.seen:
            if each.plugin:
                self._follow(each)
        if batch.seen:
            self._last = batch.seen[-1]
        if batch.problem is not None:
            path, number, text = batch.problem
            self._told.add(path)
            self._tell_first(path, OSError(number, text))
        if batch.nested is not None:
            raise Nested(batch.nested)

    def _follow(self, seen: Seen) -> None:
        self._last = seen
        if seen.closes:
            self._plugins.pop()
        elif seen.plugin:
            self._plugins.append(seen.path)

    def _position(self) -> Position | None:
        last = self._last
        if last is None:
            return None
        return Position(last.path, last.kind == "d" and not last.closes, frozenset(self._plugins))


class _Server:
    """The second process's side."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._seen: list[_Sent] = []
        self._encode = msgspec.msgpack.Encoder().encode_into
        self._buffer = bytearray()
        self._slots = memoryview(mmap.mmap(task.slots, _SLOTS * _SLOT))
        self._free = deque(range(_SLOTS))
        self._slot = -1
        self._used = 0

    def run(self) -> None:
        """Walk, and send what is seen."""
        task = self._task
        walker = Walker(
            task.root,
            excludes=Globs(map(os.fsdecode, task.excludes)),
            rules=PluginRules(tuple(map(os.fsdecode, task.markers)), tuple(map(os.fsdecode, task.globs))),
            problem=self._problem,
            repository=task.repository,
        )
        prefix = task.root.rstrip(b"/") + b"/"
        limit, in_use, seen = min(task.limit, _SLOT), task.in_use, self._seen
        left_out: list[str] = []
        try:
            for each in walker.walk(after=task.after):
                status = each.stat
                data, digest, xattrs, at = None, b"", None, -1
                if each.kind == "d":
                    if not each.closes:
                        xattrs, data = read_xattrs(prefix + each.path, left_out), b""
                elif (
                    each.kind == "f"
                    and status.st_size < limit
                    and not each.database
                    and (not in_use or (status.st_dev, status.st_ino) not in in_use)
                ):
                    at, digest, xattrs = self._read(prefix + each.path, status, left_out)
                if left_out:  # and what to say of these
                    data, at, xattrs = None, -1, None
                    left_out.clear()
                seen.append(
                    _Sent(
                        each.path,
                        Status(
                            status.st_mode,
                            status.st_ino,
                            status.st_dev,
                            status.st_nlink,
                            status.st_uid,
                            status.st_gid,
                            status.st_size,
                            status.st_mtime_ns,
                            status.st_ctime_ns,
                            status.st_rdev,
                        ),
                        each.kind,
                        each.plugin,
                        each.closes,
                        False,
                        each.database,
                        data,
                        digest,
                        xattrs,
                        at,
                    )
                )
                if len(seen) >= _BATCH:
                    self._send(_Batch(seen))
        except Nested as error:
            self._send(_Batch(seen, nested=error.path))
        self._send(_Batch(seen, ends=True))

    def _read(
        self, full: bytes, status: os.stat_result | Status, left_out: list[str]
    ) -> tuple[int, bytes, dict[str, str] | None]:
        """Read a file into the slot; return where it lies, its hash and its extended attributes.

        Where it does not settle, the place is -1: the first process finds out what it is, and says so.
        """
        size = status.st_size
        if self._slot < 0 or self._used + size >= _SLOT:
            self._next_slot()
        start = self._slot * _SLOT + self._used
        room = self._slots[start : start + size + 1]
        try:
            still, xattrs = read_into(room, full, status, left_out)
        except OSError:
            still, xattrs = False, None
        if not still or (size >= len(MAGIC) and room[: len(MAGIC)] == MAGIC):
            return -1, b"", None
        at = self._used
        self._used += size
        return at, sha256(room[:size]).digest(), xattrs

    def _next_slot(self) -> None:
        if self._seen:
            self._send(_Batch(self._seen))
        while not self._free:
            freed = os.read(0, _SLOTS)
            if not freed:
                raise BrokenPipeError  # the first process has gone
            self._free.extend(freed)
        self._slot, self._used = self._free.popleft(), 0

    def _problem(self, path: bytes, error: OSError) -> None:
        self._send(_Batch(self._seen, problem=(path, error.errno, error.strerror)))

    def _send(self, batch: _Batch) -> None:
        if self._used:
            batch.slot, self._slot, self._used = self._slot, -1, 0
        buffer = self._buffer
        self._encode(batch, buffer, _LENGTH)
        buffer[:_LENGTH] = (len(buffer) - _LENGTH).to_bytes(_LENGTH, "little")
        with memoryview(buffer) as view:
            sent = 0
            while sent < len(view):
                sent += os.write(1, view[sent:])
        self._seen.clear()


def serve() -> None:
    """Be the second process."""
    gc.set_threshold(100_000, 50, 50)  # as in the first: what is made here has no cycles
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        length = int.from_bytes(stdin.read(_LENGTH) or b"", "little")
        message = b""
        while len(message) < length and (more := stdin.read(length - len(message))):
            message += more
    # The first process has gone; or a time is one that no message can hold, and the first goes on by itself.
    with contextlib.suppress(BrokenPipeError, OverflowError, msgspec.DecodeError):
        _Server(msgspec.msgpack.decode(message, type=Task)).run()


def _shared_file() -> IO[bytes]:
    """Return an open file that is in memory, where the system has such."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("drkit"), "w+b")
    return tempfile.TemporaryFile()
