"""A local cache of what never changes in a remote store: bounded, checked on use, and safe to delete at any time."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import OrderedDict
from contextlib import suppress

from drkit.errors import EndsBefore
from drkit.store.base import Store
from drkit.store.wrap import Wrapped

LIMIT = 256 * 1024 * 1024
"""Bytes on disk; the least recently used go first."""
IN_MEMORY = 16 * 1024 * 1024
LARGEST = 8 * 1024 * 1024
"""Larger pieces are not kept: they would push out many small ones."""
AHEAD = 384 * 1024
"""A small piece of a pack is asked for with what lies before it: lists come after what they list."""

_NAMED_BY_HASH = re.compile(r"(?:snapshots/[0-9TZ.]+-|index/)([0-9a-f]{64})\.(?:json|zst)")
_SEALED = re.compile(r"(?:snapshots/[0-9TZ.]+-|index/)[0-9a-f]{96}\.(?:json|zst)\.enc")
_PACK = re.compile(r"packs/[0-9a-f]{2}/(?:[0-9a-f]{64}\.zst|[0-9a-f]{96}\.zst\.enc)")
_DIGEST = 32
_WINDOWS = 64


class CachedStore(Wrapped):
    """Keeps pieces of packs, and index objects and snapshots as wholes, in memory and in the directory `path`.

    Only what is named by a hash is kept; an object that does not hash to its name never is. In a file of the cache
    lies a SHA-256 before the piece, over the piece and what it is a piece of: another piece, or a damaged one, is
    taken for nothing. A piece that was wrong when it came is found out by who decodes it, and who then says `forget`.
    Of a sealed store it keeps the sealed bytes, and where an object ended; who opens them checks them.
    A list, a stat and everything that changes the store go to the store itself. For what proves that the store is
    sound this is the wrong store.

    Several processes may share the directory; one that is killed leaves a file that the next ones push out. A
    directory that cannot be written to is done without.
    """

    def __init__(self, inner: Store, path: bytes, *, limit: int = LIMIT, in_memory: int = IN_MEMORY) -> None:
        super().__init__(inner)
        self._path = path
        self._limit = limit
        self._in_memory = in_memory
        self._memory: OrderedDict[str, bytes] = OrderedDict()
        self._held = 0
        self._windows: dict[str, list[tuple[int, int]]] = {}
        self._size: int | None = None
        self._lock = threading.Lock()

    def get(self, name: str) -> bytes:
        """Return the whole object, from the cache if it is there and hashes to its name."""
        match = _NAMED_BY_HASH.fullmatch(name)
        sealed = _SEALED.fullmatch(name)
        if match is None and sealed is None:
            return self.inner.get(name)
        key = self._key(name, "")
        data = self._find(key)
        if match is None:
            if data is None:
                data = self.inner.get(name)
                self._keep(key, data)
            return data
        if data is None or hashlib.sha256(data).hexdigest() != match[1]:
            data = self.inner.get(name)
            if hashlib.sha256(data).hexdigest() == match[1]:
                self._keep(key, data)
        return data

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Return the bytes of [offset, offset+length), from the cache if they are there."""
        if not _PACK.fullmatch(name) or not 0 < length <= LARGEST:
            return self.inner.get_range(name, offset, length)
        with self._lock:
            for start, end in reversed(self._windows.get(name, ())):
                if start <= offset and offset + length <= end:
                    break
            else:
                start, end = offset, offset + length
                if length <= AHEAD // 2:
                    had = [e for _, e in self._windows.get(name, ()) if e <= offset]
                    start = max(0, end - AHEAD, *had)  # who reads on and on gets nothing twice
        key = self._key(name, f"{start}+{end - start}")
        data = self._find(key)
        sealed = name.endswith(".enc")
        if data is None or (len(data) != end - start and not sealed):
            try:
                data = self.inner.get_range(name, start, end - start)
            except EndsBefore as error:
                data = error.data
            if len(data) == end - start or sealed:
                self._keep(key, data)
        if end - start > length or len(data) < length:
            self._note(name, start, end)
        piece = data[offset - start : offset - start + length]
        if len(piece) != length:
            raise EndsBefore(f"{name} in {self.url} has no {length} bytes at offset {offset}", data=piece)
        return piece

    def _note(self, name: str, start: int, end: int) -> None:
        """Remember what a window holds, as long as it is likely to be in memory."""
        with self._lock:
            windows = self._windows.setdefault(name, [])
            if (start, end) not in windows:
                windows.append((start, end))
                del windows[:-_WINDOWS]
            while len(self._windows) > _WINDOWS:
                del self._windows[next(iter(self._windows))]

    def forget(self, name: str, offset: int, length: int) -> bool:
        """Drop a piece that turned out to be wrong; return whether there was one."""
        there = False
        with self._lock:
            windows = [(offset, offset + length), (max(0, offset + length - AHEAD), offset + length)]
            windows += self._windows.pop(name, ())
            for piece in ("", *(f"{start}+{end - start}" for start, end in windows)):
                key = self._key(name, piece)
                there |= self._drop(key)
                with suppress(OSError):
                    os.unlink(self._file(key))
                    there = True
        return there

    def put(self, name: str, data: bytes | bytearray | memoryview, *, overwrite: bool = False) -> None:
        """Put into the inner store; what is replaced is not looked up in the cache any more."""
        self.inner.put(name, data, overwrite=overwrite)
        if overwrite and _is_kept(name):
            self._forget_pieces()

    def delete(self, name: str) -> None:
        """Delete from the inner store, and from the cache."""
        self.inner.delete(name)
        if _is_kept(name):
            self._forget_pieces()

    def _forget_pieces(self) -> None:
        """Start anew: pieces do not tell which object they are of. Replacing and deleting are rare."""
        with self._lock:
            self._memory.clear()
            self._windows.clear()
            self._held = 0
            for file in self._files():
                with suppress(OSError):
                    os.unlink(file)
            self._size = 0

    def _key(self, name: str, piece: str) -> str:
        return f"{self.url}\n{name}\n{piece}"

    def _file(self, key: str) -> bytes:
        return os.path.join(self._path, hashlib.sha256(key.encode()).hexdigest().encode())

    def _find(self, key: str) -> bytes | None:
        with self._lock:
            if (data := self._memory.get(key)) is not None:
                self._memory.move_to_end(key)
                return data
        path = self._file(key)
        try:
            with open(path, "rb") as file:
                content = file.read(_DIGEST + LARGEST + 1)
            os.utime(path)
        except OSError:
            return None
        data = content[_DIGEST:]
        if content[:_DIGEST] != _checksum(key, data):
            with suppress(OSError):
                os.unlink(path)
            return None
        self._remember(key, data)
        return data

    def _keep(self, key: str, data: bytes) -> None:
        if len(data) > LARGEST:
            return
        self._remember(key, data)
        path = self._file(key)
        temporary = path + b".%d-%s" % (os.getpid(), os.urandom(4).hex().encode())
        try:
            os.makedirs(self._path, mode=0o700, exist_ok=True)
            with open(temporary, "wb", opener=_private) as file:
                file.write(_checksum(key, data) + data)
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            return
        with self._lock:
            self._shrink(_DIGEST + len(data))

    def _remember(self, key: str, data: bytes) -> None:
        with self._lock:
            self._drop(key)
            self._memory[key] = data
            self._held += len(data)
            while self._held > self._in_memory and self._memory:
                self._drop(next(iter(self._memory)))

    def _drop(self, key: str) -> bool:
        data = self._memory.pop(key, None)
        self._held -= len(data or b"")
        return data is not None

    def _shrink(self, added: int) -> None:
        """Push out what was not used for longest, down to nine tenths of the limit, if there is too much."""
        if self._size is not None and self._size + added <= self._limit:
            self._size += added
            return
        files: list[tuple[float, int, bytes]] = []
        for file in self._files():
            with suppress(OSError):
                status = os.stat(file)
                files.append((status.st_mtime, status.st_size, file))
        self._size = sum(size for _, size, _ in files)
        if self._size <= self._limit:
            return
        for _, size, file in sorted(files):
            with suppress(OSError):
                os.unlink(file)
            self._size -= size
            if self._size <= self._limit * 0.9:
                break

    def _files(self) -> list[bytes]:
        try:
            return [os.path.join(self._path, name) for name in os.listdir(self._path)]
        except OSError:
            return []


def _is_kept(name: str) -> bool:
    return any(kind.fullmatch(name) for kind in (_PACK, _NAMED_BY_HASH, _SEALED))


def _checksum(key: str, data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(key.encode()).digest() + data).digest()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
