"""Walking and reading a large source in a second process, ahead of the first, which makes a snapshot of what it sees.

Each of the two holds an interpreter's lock of its own. The second process is told what to walk, and from where on, in
one message on its standard input. It writes batches of what it saw to its standard output, in the order of the walk,
each after its length; the pipe bounds how far ahead it gets. What it could not settle it sends without content: then
the first process looks itself, as it does where there is no second one.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Self

import msgspec
from msgspec import Struct

from drkit.source.globs import Globs
from drkit.source.read import read_still, read_xattrs
from drkit.source.walk import MAGIC, Nested, PluginRules, Position, Seen, Status, Walker

_PROGRAM = "import sys; sys.path[:] = {path!r}; from drkit.source.ahead import serve; serve()"
MANY = 2000
"""Files of a tree for which a second process is started; fewer are read in the time that this takes."""
_PIPE = 1 << 20
"""What Linux lets anyone have."""
_BATCH = 256
_BATCH_BYTES = 1 << 18
_LENGTH = 4


class Task(Struct, array_like=True):
    """What the second process is told. Files of `limit` bytes are not read, nor those of a (device, inode) in use."""

    root: bytes
    excludes: tuple[bytes, ...]
    markers: tuple[bytes, ...]
    globs: tuple[bytes, ...]
    repository: tuple[int, int] | None
    limit: int
    in_use: frozenset[tuple[int, int]]
    after: Position | None = None


class _Sent(Seen, array_like=True, gc=False):
    stat: Status


class _Batch(Struct, array_like=True):
    """Some paths; after them a problem (path, errno, strerror), or the repository, or the end of the walk."""

    seen: list[_Sent]
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
        self._process = subprocess.Popen(
            [sys.executable or "", "-I", "-S", "-c", _PROGRAM.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # an interrupt from the keyboard is for the first process; this one ends with it
        )
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it is gone: `batches` will tell
            self._process.stdin.write(msgspec.msgpack.encode(task))
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait()

    def batches(self) -> Iterator[_Batch]:
        """Yield what the second process sends. Ended if it does not send all."""
        assert self._process.stdout is not None
        read, decode = self._process.stdout.read, self._decoder.decode
        while True:
            data = read(int.from_bytes(read(_LENGTH), "little"))
            try:
                batch = decode(data)
            except msgspec.DecodeError as error:  # cut short, or nothing at all
                raise Ended from error
            yield batch
            if batch.ends:
                return


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
        self._size = 0
        self._encode = msgspec.msgpack.Encoder().encode_into
        self._buffer = bytearray()

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
        limit, in_use, seen = task.limit, task.in_use, self._seen
        left_out: list[str] = []
        try:
            for each in walker.walk(after=task.after):
                status = each.stat
                data, digest, xattrs = None, b"", None
                if each.kind == "d":
                    if not each.closes:
                        xattrs, data = read_xattrs(prefix + each.path, left_out), b""
                elif (
                    each.kind == "f"
                    and status.st_size < limit
                    and not each.database
                    and (not in_use or (status.st_dev, status.st_ino) not in in_use)
                ):
                    try:
                        found = read_still(prefix + each.path, status, left_out)
                    except OSError:
                        found = None  # the first process finds out what it is, and says so
                    if found is not None and not found[0].startswith(MAGIC):
                        data, _, xattrs = found
                        digest = sha256(data).digest()
                        self._size += len(data)
                if left_out:  # and what to say of these
                    data = xattrs = None
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
                    )
                )
                if len(seen) >= _BATCH or self._size >= _BATCH_BYTES:
                    self._send(_Batch(seen))
        except Nested as error:
            self._send(_Batch(seen, nested=error.path))
        self._send(_Batch(seen, ends=True))

    def _problem(self, path: bytes, error: OSError) -> None:
        self._send(_Batch(self._seen, (path, error.errno, error.strerror)))

    def _send(self, batch: _Batch) -> None:
        buffer = self._buffer
        self._encode(batch, buffer, _LENGTH)
        buffer[:_LENGTH] = (len(buffer) - _LENGTH).to_bytes(_LENGTH, "little")
        with memoryview(buffer) as view:
            sent = 0
            while sent < len(view):
                sent += os.write(1, view[sent:])
        self._seen.clear()
        self._size = 0


def serve() -> None:
    """Be the second process."""
    gc.set_threshold(100_000, 50, 50)  # as in the first: what is made here has no cycles
    with contextlib.suppress(AttributeError, OSError):
        fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, _PIPE)
    with open(0, "rb", closefd=False) as stdin:
        task = msgspec.msgpack.decode(stdin.read(), type=Task)
    # The first process has gone; or a time is one that no message can hold, and the first goes on by itself.
    with contextlib.suppress(BrokenPipeError, OverflowError):
        _Server(task).run()
