"""Writing a large tree in two processes: nearly all of a restore's time goes into calls that make small files.

The first process writes what comes before a path in the middle, the second, which it starts, everything from there on.
Both fill the directories above that path, so these are made before, and get what their entries say when both are done.
What the second process is to do lies in a file that is its standard input. On its standard output it tells how far it
is, and at its end what it could not do, in messages after their length. It ends when nobody listens any more.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from select import POLLIN, poll
from typing import Self

import msgspec
from msgspec import Struct

from drkit import osutil
from drkit.errors import DrkitError, IntegrityError, StoreError
from drkit.format.limits import MIB
from drkit.format.settings import Settings
from drkit.model import Entry, Finding, Snapshot, sort_key
from drkit.progress import Progress
from drkit.repo.repository import Repository
from drkit.restore.attrs import Host, set_directory
from drkit.restore.dirs import DirStack, remove
from drkit.restore.feed import Feed
from drkit.restore.plan import Plan
from drkit.restore.report import Outcome
from drkit.restore.select import select
from drkit.restore.writer import Writer
from drkit.seal import SealedStore
from drkit.seal.cipher import KeyRing
from drkit.store import LocalStore, Store

_PROGRAM = "import sys; sys.path[:] = {path!r}; from drkit.restore.halves import serve; serve()"
_LENGTH = 4
_PIECE = 1 << 16
_ASIDE = 8 * MIB
_KINDS = {kind.__name__: kind for kind in (StoreError, IntegrityError)}
"""What an error of the second process, or of a kind below, becomes in the first: that decides the exit code."""
_UNKNOWN = Entry(type="d")
"""Of a directory that is in no segment that could be read: mode -1, without a time."""


class _Task(Struct, array_like=True):
    """What the second process needs: `ring` opens an encrypted repository, `root` is the descriptor of the tree."""

    directory: bytes
    ring: KeyRing | None
    config: Settings
    snapshot: Snapshot
    around: bytes
    start: bytes
    repeats: dict[str, int]
    host: Host
    root: int
    parent: int


class _Told(Struct, array_like=True):
    """What the second process tells: how much more it has written; at its end the outcome, or an error."""

    files: int = 0
    size: int = 0
    outcome: Outcome | None = None
    findings: list[Finding] = []
    error: str = ""
    kind: str = ""
    hint: str = ""
    errno: int | None = None


def write_halves(
    repo: Repository,
    snapshot: Snapshot,
    plan: Plan,
    root_fd: int,
    host: Host,
    outcome: Outcome,
    progress: Progress,
) -> bool:
    """Write a whole snapshot, every segment of which the plan could read, and which has no hard links.

    Return whether that was done: not every store can be opened in a second process, nor every system has one to spare.
    OSError and DrkitError as a Writer and its Feed raise them, in whichever process.
    """
    place = _place(repo.store)
    if place is None or not plan.middle or plan.linked or plan.lost:
        return False
    shared = _above(plan.middle)
    try:
        _make(root_fd, shared)
        paths, process = (plan.around, plan.middle), os.getpid()
        second = _Second(_Task(*place, repo.config, snapshot, *paths, plan.repeats, host, root_fd, process), progress)
    except (OSError, OverflowError):  # a forged snapshot has numbers that no message can hold
        _unmake(root_fd, shared)
        return False
    with second:
        writer = Writer(root_fd, host, outcome, second, sync_each=False, shared=shared)
        _write(writer, repo, snapshot, plan.repeats, b"", plan.middle)
        told = second.finish()
    outcome.add(told.outcome or Outcome())
    repo.findings += (each for each in told.findings if each not in repo.findings)
    _settle(root_fd, shared, writer.left, host, outcome)
    return True


def _write(
    writer: Writer,
    repo: Repository,
    snapshot: Snapshot,
    repeats: dict[str, int],
    start: bytes,
    end: bytes | None,
    around: bytes = b"",
) -> None:
    """Write the segments from the path `start` to before `end`. What lies between `around` and `start` is not read."""
    reader = repo.reader()
    if around != start:
        for segment in repo.segments(snapshot, again=True, within=_between(around, start)):
            for place in segment.places.values():
                reader.pass_over(place)
    batches = select(repo.segments(snapshot, again=True, within=_between(start, end)), again=True)
    with Feed(batches, reader, repeats, ahead=False, aside=repo.reader(_ASIDE) if start else None) as feed:
        writer.run(feed)


def _between(start: bytes, end: bytes | None) -> Callable[[bytes], bool]:
    low, high = sort_key(start), None if end is None else sort_key(end)

    def within(first: bytes) -> bool:
        key = sort_key(first)
        return low <= key and (high is None or key < high)

    return within


def _place(store: Store) -> tuple[bytes, KeyRing | None] | None:
    """Return where a store is and what opens it, if a second process can open it like this one."""
    ring = None
    if isinstance(store, SealedStore):
        ring = store.ring
        store = store.inner
    return (store.directory, ring) if type(store) is LocalStore else None  # and not something that only behaves so


# The directories above the path in the middle


def _above(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[:depth]) for depth in range(1, len(parts))]


def _make(root_fd: int, shared: Sequence[bytes]) -> None:
    """Make the directories. OSError, with some of them made, if one cannot be."""
    stack = DirStack(root_fd)
    try:
        for path in shared:
            name = os.path.basename(path)
            os.mkdir(name, 0o700, dir_fd=stack.fds[-1])
            stack.push(name, path)
    finally:
        stack.close()


def _unmake(root_fd: int, shared: Sequence[bytes]) -> None:
    """Remove those of the directories that are there. An OSError is the restore's: what stays would be in its way."""
    if shared:
        remove(root_fd, shared[0])


def _settle(
    root_fd: int, shared: Sequence[bytes], entries: Mapping[bytes, Entry], host: Host, outcome: Outcome
) -> None:
    """Give the directories what their entries say, each after those in it."""
    stack = DirStack(root_fd)
    try:
        for path in shared:
            stack.push(os.path.basename(path), path)
        for path in reversed(shared):
            set_directory(stack.fds[-1], path, entries.get(path, _UNKNOWN), host, outcome)
            stack.pop()
    finally:
        stack.close()


class _Second:
    """The second process, from the side of the first. A context manager, and the progress of both.

    OSError if there is no second process to be had.
    """

    def __init__(self, task: _Task, progress: Progress) -> None:
        self._progress = progress
        self._decoder = msgspec.msgpack.Decoder(_Told)
        self._data = bytearray()
        self._told: _Told | None = None
        with osutil.memory_file() as stdin:
            stdin.write(msgspec.msgpack.encode(task))
            stdin.seek(0)
            program = _PROGRAM.format(path=sys.path)
            self._process = osutil.start_python("-c", program, stdin=stdin, pass_fds=(task.root,), bufsize=0)
        assert self._process.stdout is not None
        self._poll = poll()  # select takes no descriptor from 1024 on
        self._poll.register(self._process.stdout, POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdout is not None
        self._process.kill()
        self._process.stdout.close()
        self._process.wait()

    def start(self, total_files: int | None, total_bytes: int | None, what: str) -> None:
        """Begin a stage of the progress."""
        self._progress.start(total_files, total_bytes, what)

    def advance(self, files: int, bytes: int) -> None:  # noqa: A002  # the protocol's word
        """Count what was written here, and what the second process has written meanwhile."""
        self._progress.advance(files, bytes)
        self._listen(wait=False)

    def finish(self) -> _Told:
        """Wait for the end, and return what was told last. OSError or DrkitError if that is one."""
        self._listen(wait=True)
        assert self._told is not None
        return self._told

    def _listen(self, *, wait: bool) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        while self._told is None and self._poll.poll(None if wait else 0):
            piece = stdout.read(_PIECE)
            if not piece:
                raise DrkitError(
                    f"the process that writes the second half of the tree ended with {self._process.wait()}",
                    hint="run the command again; nothing was put in place",
                )
            self._data += piece
            while len(self._data) >= _LENGTH:
                end = _LENGTH + int.from_bytes(self._data[:_LENGTH], "little")
                if len(self._data) < end:
                    break
                self._take(self._decoder.decode(self._data[_LENGTH:end]))
                del self._data[:end]

    def _take(self, told: _Told) -> None:
        if told.error:
            raise OSError(told.errno, told.error) if told.errno is not None else _error(told)
        if told.outcome is not None:
            self._told = told
        self._progress.advance(told.files, told.size)


def _error(told: _Told) -> DrkitError:
    return _KINDS.get(told.kind, DrkitError)(told.error, hint=told.hint)


# The side of the second process


class _Telling:
    """Progress that is told to the first process. BrokenPipeError if that has gone."""

    def start(self, total_files: int | None, total_bytes: int | None, what: str) -> None:
        """Do nothing: the first process has begun the stage."""

    def advance(self, files: int, bytes: int) -> None:  # noqa: A002  # the protocol's word
        """Tell it."""
        _tell(_Told(files, bytes))


def serve() -> None:
    """Be the second process."""
    gc.set_threshold(100_000, 50, 50)  # as in the first: what is made here has no cycles
    task = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Task)
    if not osutil.end_with_parent(task.parent):
        return
    store: Store = LocalStore(task.directory)
    if task.ring is not None:
        store = SealedStore(store, task.ring, task.config.repository_id)
    repo = Repository(store, task.config, [])
    outcome = Outcome()
    shared = _above(task.start)
    with contextlib.suppress(BrokenPipeError):
        try:
            writer = Writer(task.root, task.host, outcome, _Telling(), sync_each=False, shared=shared)
            writer.go_down(shared)
            _write(writer, repo, task.snapshot, task.repeats, task.start, None, task.around)
            _tell(_Told(outcome=outcome, findings=repo.findings))
        except BrokenPipeError:
            raise
        except OSError as error:
            _tell(_Told(error=error.strerror or str(error), errno=error.errno))
        except DrkitError as error:
            kind = next((each.__name__ for each in type(error).__mro__ if each.__name__ in _KINDS), "")
            _tell(_Told(error=str(error), kind=kind, hint=error.hint))


def _tell(told: _Told) -> None:
    data = msgspec.msgpack.encode(told)
    osutil.write_all(1, len(data).to_bytes(_LENGTH, "little") + data)
