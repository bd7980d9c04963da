"""Walking and reading a large source in a second process, ahead of the first, which makes a snapshot of what it sees.

Each of the two holds an interpreter's lock of its own. The second process is told what to walk, and from where on, in
one message on its standard input. It writes batches of what it made ready to its standard output, in the order of the
walk, each after its length. The content of files it reads into slots of memory that both share, one for each batch;
the number of a slot that the first process is done with comes back on standard input. Pipe and slots bound how far
ahead it gets.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Self

import msgspec
from msgspec import Struct

from drkit import osutil
from drkit.source.globs import Globs
from drkit.source.ready import SLOT, Batch, Preparer
from drkit.source.walk import Nested, PluginRules, Position, Walker

_PROGRAM = "import sys; sys.path[:] = {path!r}; from drkit.source.ahead import serve; serve()"
MANY = 4000
"""Paths of a tree for which a second process is started; fewer are read in the time that this takes."""
_SLOTS = 4
_LENGTH = 4

Problem = Callable[[bytes, OSError], None]


class Task(Struct, array_like=True):
    """What is to be made ready: all below `root`, for a Walker and a Preparer; in the second process, `after` what.

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

    def walker(self, problem: Problem) -> Walker:
        """Return who walks it."""
        return Walker(
            self.root,
            excludes=Globs(map(os.fsdecode, self.excludes)),
            rules=PluginRules(tuple(map(os.fsdecode, self.markers)), tuple(map(os.fsdecode, self.globs))),
            problem=problem,
            repository=self.repository,
        )

    def batches(self, problem: Problem, slot: Callable[[], memoryview]) -> Iterator[tuple[Batch, memoryview]]:
        """Do it, in this process."""
        preparer = Preparer(self.root, limit=self.limit, in_use=self.in_use, slot=slot)
        return preparer.batches(self.walker(problem).walk(after=self.after), self.after)


class _Message(Struct, array_like=True):
    """A batch, and the number of the slot that is its memory, -1 if it has none.

    Before it, problems were met (path, errno, strerror); behind it is the repository, or the end of the walk.
    """

    batch: Batch
    slot: int = -1
    problems: list[tuple[bytes, int | None, str | None]] = []
    nested: bytes | None = None
    ends: bool = False


class Ended(Exception):
    """The second process is gone before it came to the end."""


class ReadProcess:
    """The second process, from the side of the first. A context manager. OSError if there is none to be had."""

    def __init__(self, task: Task) -> None:
        self._decoder = msgspec.msgpack.Decoder(_Message)
        with osutil.memory_file() as slots:
            slots.truncate(_SLOTS * SLOT)
            self._slots = memoryview(mmap.mmap(slots.fileno(), _SLOTS * SLOT))
            message = msgspec.msgpack.encode(msgspec.structs.replace(task, slots=slots.fileno()))
            program = _PROGRAM.format(path=sys.path)
            self._process = osutil.start_python("-c", program, pass_fds=(slots.fileno(),), bufsize=0)
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

    def messages(self) -> Iterator[tuple[_Message, memoryview]]:
        """Yield what the second process sends, each batch with its memory. Ended if it does not send all."""
        assert self._process.stdout is not None
        with open(self._process.stdout.fileno(), "rb", closefd=False) as stdout:
            while True:
                data = stdout.read(int.from_bytes(stdout.read(_LENGTH), "little"))
                try:
                    message = self._decoder.decode(data)
                except msgspec.DecodeError as error:  # cut short, or nothing at all
                    raise Ended from error
                with self._slots[message.slot * SLOT :][:SLOT] as memory:
                    yield message, memory
                if message.slot >= 0:
                    self._tell(bytes((message.slot,)))
                if message.ends:
                    return

    def _tell(self, data: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it is gone: `messages` will tell
            self._process.stdin.write(data)


def read_ahead(task: Task, problem: Problem) -> Generator[tuple[Batch, memoryview], None, None]:
    """Yield batches as `task.batches` does; once there are many, a second process makes them.

    Close the iterator if it is left before its end: that ends the process. `problem` is told what cannot be read.
    """
    told: set[bytes] = set()

    def tell(path: bytes, error: OSError) -> None:
        if path not in told:  # both processes meet the directories that are open when one follows the other
            told.add(path)
            problem(path, error)

    memory = memoryview(bytearray(SLOT))
    left = MANY
    for batch, content in task.batches(tell, lambda: memory) if left > 0 else ():
        yield batch, content
        task.after = batch.after or task.after
        left -= len(batch)
        if left <= 0:
            break
    else:
        if left > 0:
            return
    with contextlib.suppress(OSError, Ended):  # where there is none to be had, this process goes on by itself
        with ReadProcess(task) as process:
            for message, content in process.messages():
                for path, number, text in message.problems:
                    tell(path, OSError(number, text))
                yield message.batch, content
                task.after = message.batch.after or task.after
                if message.nested is not None:
                    raise Nested(message.nested)
        return
    yield from task.batches(tell, lambda: memory)


class _Server:
    """The second process's side."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._encode = msgspec.msgpack.Encoder().encode_into
        self._buffer = bytearray()
        self._slots = memoryview(mmap.mmap(task.slots, _SLOTS * SLOT))
        self._free = deque(range(_SLOTS))
        self._slot = -1
        self._problems: list[tuple[bytes, int | None, str | None]] = []

    def run(self) -> None:
        """Walk, read, and send what is ready."""
        try:
            for batch, _ in self._task.batches(self._problem, self._next_slot):
                self._send(_Message(batch))
        except Nested as error:
            self._send(_Message(Batch(), nested=error.path))
        self._send(_Message(Batch(), ends=True))

    def _next_slot(self) -> memoryview:
        while not self._free:
            freed = os.read(0, _SLOTS)
            if not freed:
                raise BrokenPipeError  # the first process has gone
            self._free.extend(freed)
        self._slot = self._free.popleft()
        return self._slots[self._slot * SLOT :][:SLOT]

    def _problem(self, path: bytes, error: OSError) -> None:
        self._problems.append((path, error.errno, error.strerror))

    def _send(self, message: _Message) -> None:
        message.slot, self._slot = self._slot, -1
        message.problems, self._problems = self._problems, []
        buffer = self._buffer
        self._encode(message, buffer, _LENGTH)
        buffer[:_LENGTH] = (len(buffer) - _LENGTH).to_bytes(_LENGTH, "little")
        with memoryview(buffer) as view:
            osutil.write_all(1, view)


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
