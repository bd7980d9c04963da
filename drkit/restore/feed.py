"""Contents for the writer: blobs are read, decoded and checked, where that pays on a thread, while files are made."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

from msgspec import Struct

from drkit.errors import IntegrityError
from drkit.format.limits import MIB
from drkit.model import Entry, Place
from drkit.repo.reader import BlobReader
from drkit.restore.report import Lost
from drkit.restore.select import Batch, Item

_QUEUED = 2
_BATCH_BYTES = MIB
_CACHED = 64 * MIB

Content = bytes | str | Iterator[bytes]
"""A file's content: whole, or in pieces if it is large, or, as a string, why it is lost.

The iterator raises IntegrityError where a piece is lost.
"""


class _End(Struct, frozen=True):
    """The end of a large file's pieces, and why it came too early, if it did."""

    reason: str = ""


_Message = list[tuple[Item, bytes | str | None]] | bytes | _End | Lost


class Feed:
    """Gives each selected item together with its content, in order; iterate once, inside a `with` block.

    A Lost among them says that a stretch of the manifest is missing there. With `ahead` a thread goes before; what goes
    wrong in it is raised where the feed is read, and leaving the block ends it. Where some of the tree was left out,
    `aside` reads what is needed more than once and lies in frames of which nothing else may be needed.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        reader: BlobReader,
        repeats: dict[str, int],
        *,
        ahead: bool = True,
        aside: BlobReader | None = None,
    ) -> None:
        self._batches = batches
        self._blobs = _Blobs(reader, repeats, aside or reader)
        self._queue: queue.Queue[_Message | BaseException | None] = queue.Queue(_QUEUED)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if ahead:
            self._thread = threading.Thread(target=self._produce, name="drkit-restore-feed", daemon=True)

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        self._stop.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._queue.get(timeout=0.02)  # makes room for the message that the thread waits with
        self._thread.join()

    def __iter__(self) -> Iterator[tuple[Item, Content | None] | Lost]:
        messages = self._messages() if self._thread is None else self._queued()
        for message in messages:
            if isinstance(message, Lost):
                yield message
                continue
            assert isinstance(message, list)
            last = message.pop()
            yield from message
            if last[1] is None and _is_large(last[0][1]) and last[0][2] is None:
                pieces = _pieces(messages)
                yield last[0], pieces
                with contextlib.suppress(IntegrityError):
                    for _ in pieces:  # what the writer did not take
                        pass
            else:
                yield last

    def _queued(self) -> Iterator[_Message]:
        while (message := self._queue.get()) is not None:
            if isinstance(message, BaseException):
                raise message
            yield message

    def _produce(self) -> None:
        """Be the thread."""
        try:
            for message in self._messages():
                self._queue.put(message)
                if self._stop.is_set():
                    return
            self._queue.put(None)
        except BaseException as error:  # noqa: BLE001  # it is raised in the main thread
            self._queue.put(error)

    def _messages(self) -> Iterator[_Message]:
        for batch in self._batches:
            if batch.lost is not None:
                yield batch.lost
            yield from self._contents(batch)

    def _contents(self, batch: Batch) -> Iterator[_Message]:
        out: list[tuple[Item, bytes | str | None]] = []
        size = 0
        for item in batch.items:
            entry = item[1]
            if item[2] is not None or not entry.size or entry.type != "f":
                out.append((item, None if item[2] is not None or entry.type != "f" else b""))
                continue
            if _is_large(entry):
                yield [*out, (item, None)]
                out, size = [], 0
                yield from self._large(entry, batch.places)
                continue
            content = self._blobs.whole(entry, batch.places)
            out.append((item, content))
            size += len(content)
            if size >= _BATCH_BYTES:
                yield out
                out, size = [], 0
        if out:
            yield out

    def _large(self, entry: Entry, places: Mapping[str, Place]) -> Iterator[bytes | _End]:
        left = entry.size
        try:
            for piece in self._blobs.reader.content(entry, places):
                left -= len(piece)
                if left < 0:
                    break
                yield piece
        except IntegrityError as error:
            yield _End(str(error))
            return
        yield _End("" if left == 0 else f"its blobs do not add up to its {entry.size} bytes")


def _pieces(messages: Iterator[_Message]) -> Iterator[bytes]:
    for message in messages:
        if isinstance(message, _End):
            if message.reason:
                raise IntegrityError(message.reason)
            return
        assert isinstance(message, bytes)
        yield message


def _is_large(entry: Entry) -> bool:
    return bool(entry.blobs or entry.lists)


class _Blobs:
    """Files of one blob. What is needed again is kept, up to 64 MiB, until its last use."""

    def __init__(self, reader: BlobReader, repeats: dict[str, int], aside: BlobReader) -> None:
        self.reader = reader
        self._aside = aside
        self._repeats = repeats
        self._cache: dict[str, bytes] = {}
        self._size = 0
        self._lost: dict[str, str] = {}

    def whole(self, entry: Entry, places: Mapping[str, Place]) -> bytes | str:
        """Return the content, or why it is lost."""
        blob_id = entry.sha256
        uses = self._repeats.get(blob_id, 0)
        data = self._cache.get(blob_id) if uses else None
        if data is None:
            if reason := self._lost.get(blob_id):
                return reason
            try:
                place = places.get(blob_id)
                reader = self.reader if not uses or (place and self.reader.holds(place)) else self._aside
                data = reader.blob(blob_id, place)
            except IntegrityError as error:
                self._lost[blob_id] = str(error)
                return str(error)
            if uses > 1 and self._size + len(data) <= _CACHED:
                self._cache[blob_id] = data
                self._size += len(data)
        if uses:
            self._repeats[blob_id] = uses - 1
            if uses == 1:
                self._size -= len(self._cache.pop(blob_id, b""))
        if len(data) != entry.size:
            return f"its content has {len(data)} bytes where the manifest says {entry.size}"
        return data
