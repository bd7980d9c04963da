"""From a path that the walk saw to a manifest entry: content is read, hashed, and handed to the packer if it is new."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from typing import Protocol

from msgspec import Struct, structs

from drkit.backup.live import HEADER, Databases, NotCopied
from drkit.format import chunker
from drkit.format.limits import INLINE_BLOBS, LIST_BLOBS
from drkit.format.manifest import text_or_b64
from drkit.format.settings import ChunkerSettings
from drkit.model import Entry, Kind
from drkit.repo.packer import Packer
from drkit.repo.treewriter import NodeQueue
from drkit.source.read import open_file, read_small, read_still, read_xattrs, same, same_file
from drkit.source.stats import AnyStatus
from drkit.source.walk import MAGIC, Seen

_ATTEMPTS = 3
_I64 = 1 << 63


class Warn(Protocol):
    """Takes a warning about a path; `lost` says that the path is not in the snapshot."""

    def __call__(self, path: bytes, what: str, *, lost: bool = True) -> None:
        """Keep the warning."""
        ...


def _i64(nanoseconds: int) -> int:
    """Return the time that the format can hold: some file systems go beyond the years 1677 to 2262."""
    return nanoseconds if -_I64 <= nanoseconds < _I64 else max(-_I64, min(nanoseconds, _I64 - 1))


def group_of(path: bytes, plugin: bytes | None) -> bytes:
    """Return a file's group for the packer: in plugins of one name, or in files of one name in none, all is alike."""
    return path.rpartition(b"/")[2] if plugin is None else b"/" + plugin.rpartition(b"/")[2]


class _Content(Struct, gc=False):
    """A file's content as it was read: `header` are its first bytes, `still` whether nobody wrote meanwhile."""

    size: int
    sha256: str
    blobs: tuple[bytes, ...]
    stat: AnyStatus
    xattrs: dict[str, str] | None
    still: bool
    header: bytes


class EntryReader:
    """Makes entries. `warn` is told of what vanished, could not be read, or changed while it was read.

    `tick` is called for each chunk of a large file.
    """

    def __init__(
        self,
        source: bytes,
        packer: Packer,
        queue: NodeQueue,
        settings: ChunkerSettings,
        warn: Warn,
        tick: Callable[[], None],
        databases: Databases,
    ) -> None:
        self._prefix = source.rstrip(b"/") + b"/"
        self._packer = packer
        self._queue = queue
        self._settings = settings
        self._threshold = settings.threshold
        self._warn = warn
        self._tick = tick
        self._left_out: list[str] = []
        self._databases = databases
        self._links: dict[tuple[int, int], int] = {}
        self._group = b""
        self.data: bytes | None = None
        """Content of the file that was read last, if it was a small one."""
        self.stat: AnyStatus | None = None
        """The stat that belongs to the entry made last."""

    def link_number(self, status: AnyStatus, path: bytes) -> int:
        """Return the hard-link group of a file with several names, numbered by the first that the walk meets."""
        key = (status.st_dev, status.st_ino)
        number = self._links.get(key)
        if number is None:
            number = int.from_bytes(sha256(path).digest()[:6], "big") or 1
            self._links[key] = number
        return number

    def entry(self, seen: Seen, plugin: bytes | None = None) -> Entry | None:
        """Return the entry of a path as it is now; None, with a warning, if it cannot be read.

        `plugin` is the path of the innermost plugin that it belongs to.
        """
        self._group = group_of(seen.path, plugin)
        self.data = None
        self.stat = seen.stat
        entry = None
        try:
            entry = self._file(seen) if seen.kind == "f" else self._other(seen)
        except FileNotFoundError:
            if seen.database in (b"", seen.path):  # a database's journals come and go
                self._warn(seen.path, "vanished while the backup ran")
        except OSError as error:
            self._warn(seen.path, error.strerror or str(error))
        if self._left_out:
            names = "; ".join(dict.fromkeys(self._left_out))
            self._warn(seen.path, f"extended attributes were left out: {names}", lost=False)
            self._left_out.clear()
        return entry

    def _other(self, seen: Seen) -> Entry:
        full = self._prefix + seen.path
        status = seen.stat
        text, b64 = text_or_b64(seen.path)
        target = target_b64 = ""
        if seen.kind == "l":
            target, target_b64 = text_or_b64(os.readlink(full))
        return Entry(
            text,
            b64,
            seen.kind,
            0 if seen.kind == "l" else status.st_mode & 0o7777,
            status.st_uid,
            status.st_gid,
            _i64(status.st_mtime_ns),
            target=target,
            target_b64=target_b64,
            xattrs=read_xattrs(full, self._left_out) if seen.kind == "d" else None,
            link=self.link_number(status, seen.path) if status.st_nlink > 1 and seen.kind != "d" else 0,
            rdev=status.st_rdev if seen.kind in "cb" else 0,
        )

    def _file(self, seen: Seen) -> Entry | None:
        full = self._prefix + seen.path
        databases = self._databases
        if databases.is_open_here(seen.stat) or (seen.database == seen.path and databases.is_live(full)):
            return self._database(seen, None)
        content = self._read(full, seen.stat)
        if content.header.startswith(MAGIC) and not (content.still and databases.rests(seen.path, content.header)):
            return self._database(seen, content)
        if content.size != seen.stat.st_size and seen.database and databases.leaves_out(seen):
            return None
        return self._as_read(seen.path, content)

    def _as_read(self, path: bytes, content: _Content) -> Entry:
        if not content.still:
            self._warn(path, "changed while it was read", lost=False)
        self.stat = content.stat
        return self._entry(path, content.stat, content, content.xattrs)

    def _database(self, seen: Seen, content: _Content | None) -> Entry | None:
        """Return the entry of a live database; where SQLite does not give it, that of its file's bytes."""
        full = self._prefix + seen.path
        try:
            with self._databases.copied(seen.path, seen.stat) as copy:
                whole = self._read(copy, os.lstat(copy))
        except NotCopied as error:
            if self._databases.is_open_here(seen.stat):
                self._warn(seen.path, f"is the inventory in use and could not be copied: {error}")
                return None
            self._warn(seen.path, f"is a live database that SQLite did not give ({error}); stored as bytes", lost=False)
            return self._as_read(seen.path, content or self._read(full, seen.stat))
        self.stat = os.lstat(full)
        if not same_file(self.stat, seen.stat):
            self._warn(seen.path, "was replaced while it was read", lost=False)
        xattrs = read_xattrs(full, self._left_out)
        return structs.replace(self._entry(seen.path, self.stat, whole, xattrs), live=True)

    def _read(self, full: bytes, seen: AnyStatus) -> _Content:
        """Read a file and give the packer what is new of it."""
        if seen.st_size < self._threshold:
            found: tuple[bytes, os.stat_result, dict[str, str] | None] | None = read_still(full, seen, self._left_out)
            still = True
            if found is None and (closer := read_small(full, self._threshold, self._left_out)):
                found, still = (closer.data, closer.stat, closer.xattrs), not closer.changed
            if found is not None:
                data, status, xattrs = found
                digest = sha256(data)
                self._keep(digest.digest(), data)
                return _Content(len(data), digest.hexdigest(), (), status, xattrs, still, data[:HEADER])
        return self._read_large(full)

    def _keep(self, blob_id: bytes, data: bytes) -> None:
        """Give the packer the content of a small file, if it is new."""
        self.data = data
        if data and not self._packer.has(blob_id):
            self._packer.add(blob_id, data, self._group)

    def _read_large(self, full: bytes) -> _Content:
        """Read a file in chunks, again if it changed meanwhile; chunks of a discarded reading are stored in vain."""
        self.data = None
        for _ in range(_ATTEMPTS):
            fd, before = open_file(full)
            # The whole is hashed on a thread of its own, while this one looks for the next chunk and hashes that.
            with open(fd, "rb", buffering=0) as file, ThreadPoolExecutor(1) as hasher:
                digest = sha256()
                hashed: Future[None] | None = None
                size = 0
                blobs: list[bytes] = []
                header = b""
                for chunk in chunker.cut(file, self._settings):
                    header = header or bytes(chunk[:HEADER])
                    if hashed is not None:
                        hashed.result()
                    hashed = hasher.submit(digest.update, chunk)
                    blob_id = sha256(chunk).digest()
                    if not self._packer.has(blob_id):
                        self._packer.add_chunk(blob_id, chunk)
                    blobs.append(blob_id)
                    size += len(chunk)
                    self._tick()
                xattrs = read_xattrs(file.fileno(), self._left_out)
                after = os.fstat(file.fileno())
            still = size == before.st_size and same(before, after)
            if still:
                break
        return _Content(size, digest.hexdigest(), tuple(blobs), after, xattrs, still, header)

    def _entry(
        self,
        path: bytes,
        status: AnyStatus,
        content: _Content,
        xattrs: dict[str, str] | None,
    ) -> Entry:
        text, b64 = text_or_b64(path)
        blobs = content.blobs
        lists: tuple[str, ...] = ()
        if len(blobs) > INLINE_BLOBS:
            parts = [blobs[at : at + LIST_BLOBS] for at in range(0, len(blobs), LIST_BLOBS)]
            lists = tuple(
                self._queue.put(Kind.LIST, b"".join(part), tuple(dict.fromkeys(part))).hex() for part in parts
            )
        return Entry(
            text,
            b64,
            "f",
            status.st_mode & 0o7777,
            status.st_uid,
            status.st_gid,
            _i64(status.st_mtime_ns),
            content.size,
            content.sha256,
            tuple(blob.hex() for blob in blobs) if len(blobs) > 1 and not lists else (),
            lists,
            xattrs=xattrs,
            link=self.link_number(status, path) if status.st_nlink > 1 else 0,
        )
