"""A store of which the inner one sees only sealed objects: everything above knows nothing of encryption."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from drkit.errors import EndsBefore, StoreCorrupt, StoreError
from drkit.seal.cipher import CHUNK, STORED, KeyRing, ObjectCipher, plain_size
from drkit.seal.names import STRAY, SealedNames, common_prefix, is_clear
from drkit.store.base import ObjectInfo, Store
from drkit.store.cache import CachedStore
from drkit.store.checks import check_name, check_prefix, check_range
from drkit.store.wrap import Wrapped

T = TypeVar("T")
_LAST = 2**63 - 1


class SealedStore(Wrapped):
    """Seals what is put into `inner`, and opens what comes from it; sizes and names are those of the plaintext.

    What does not authenticate is StoreCorrupt. From a remote store it is asked for once more before: the way here may
    have spoiled it. `ring` and `repository_id` say what it was sealed with.
    """

    def __init__(self, inner: Store, ring: KeyRing, repository_id: str) -> None:
        super().__init__(inner)
        self.ring = ring
        self.repository_id = repository_id
        self._cipher = ObjectCipher(ring, repository_id)
        self._names = SealedNames(ring.name_key)
        self._sizes: dict[str, int] = {}  # of packs as they are stored: they never change

    def seal(self, name: str, data: bytes) -> bytearray:
        """Return bytes as they would be stored under a name."""
        return self._cipher.seal(name, data)

    def unseal(self, name: str, stored: bytes) -> bytes:
        """Return what was sealed under a name. StoreCorrupt if it was not."""
        return self._cipher.open(name, stored)

    def stored_name(self, name: str) -> str:
        """Return the name that an object has in the inner store."""
        check_name(name)
        return self._names.seal(name)

    def put(self, name: str, data: bytes | bytearray | memoryview, *, overwrite: bool = False) -> None:
        """Seal and put."""
        stored = self.stored_name(name)
        content = data if is_clear(name) else self._cipher.seal(name, data)
        with _told(name, stored):
            self.inner.put(stored, content, overwrite=overwrite)
        self._note(name, len(content))

    def get(self, name: str) -> bytes:
        """Get and open."""
        stored = self.stored_name(name)
        if is_clear(name):
            return self.inner.get(name)
        with _told(name, stored):
            return self._again(stored, 0, 0, lambda: self._cipher.open(name, self.inner.get(stored)))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Get the chunks that the range touches, and open them: one request, where the inner store tells how short
        an object is that ends before what was asked for.
        """
        check_range(offset, length)
        stored = self.stored_name(name)
        if is_clear(name):
            return self.inner.get_range(name, offset, length)
        end = offset + length
        if length == 0 or end > _LAST:  # no chunk holds it
            if end > self.stat(name).size:
                raise self._outside(name, offset, length)
            return b""
        first, until = offset // CHUNK, -(-end // CHUNK)
        with _told(name, stored):
            chunks = self._again(
                stored, first * STORED, (until - first) * STORED, lambda: self._chunks(name, stored, first, until)
            )
        piece = chunks[offset - first * CHUNK : end - first * CHUNK]
        if len(piece) != length:
            raise self._outside(name, offset, length, piece)
        return piece

    def stat(self, name: str) -> ObjectInfo:
        """Return the size of the plaintext, and the stamp."""
        stored = self.stored_name(name)
        with _told(name, stored):
            return self._plain(name, self.inner.stat(stored))

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Yield what is there in the order of the plain names; a name that is not sealed with `STRAY` appended."""
        check_prefix(prefix)
        return self._list(prefix, after)

    def delete(self, name: str) -> None:
        """Delete from the inner store."""
        stored = self.stored_name(name)
        with _told(name, stored):
            self.inner.delete(stored)
        self._sizes.pop(name, None)

    def _list(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        found: list[ObjectInfo] = []
        for info in self.inner.list(common_prefix(prefix), after=common_prefix(after)):
            name = self._names.unseal(info.name)
            name = info.name + STRAY if name is None else name
            if name.startswith(prefix) and name > after:
                found.append(self._plain(name, info))
        found.sort(key=lambda info: info.name)
        yield from found

    def _plain(self, name: str, info: ObjectInfo) -> ObjectInfo:
        if is_clear(name) or name.endswith(STRAY):
            return ObjectInfo(name, info.size, info.modified)
        self._note(name, info.size)
        return ObjectInfo(name, plain_size(info.size), info.modified)

    def _note(self, name: str, size: int) -> None:
        if name.startswith("packs/"):
            self._sizes[name] = size

    def _chunks(self, name: str, stored: str, first: int, until: int) -> bytes:
        """Return the plaintext of the chunks from `first` to before `until`, as far as there are any."""
        start, end = first * STORED, until * STORED
        size = self._sizes.get(name, end)
        if size <= start:
            return b""
        try:
            data = self.inner.get_range(stored, start, min(end, size) - start)
            size = self._sizes.get(name, 0)
        except StoreCorrupt as error:
            data = error.data if isinstance(error, EndsBefore) else b""
            size = start + len(data)
            if not data:  # nothing is there, or this store does not give what there is
                size = self.inner.stat(stored).size
                if size >= end:
                    raise
                if size <= start:
                    return b""
                data = self.inner.get_range(stored, start, size - start)
            self._note(name, size)
        return self._cipher.open_part(name, data, first, ends=start + len(data) == size)

    def _again(self, stored: str, start: int, length: int, read: Callable[[], T]) -> T:
        """Read once more what did not authenticate, where that may help."""
        try:
            return read()
        except StoreCorrupt:
            if self.directory is not None:
                raise
        if isinstance(self.inner, CachedStore):
            self.inner.forget(stored, start, length)
        return read()

    def _outside(self, name: str, offset: int, length: int, data: bytes = b"") -> EndsBefore:
        message = f"{name} in {self.url} ends before byte {offset + length}: {length} at {offset} were asked"
        return EndsBefore(message, data=data)


def beside(store: Store, other: Store) -> Store:
    """Return `other` as a copy of `store`: sealed with the same keys, where that one is sealed."""
    if isinstance(store, SealedStore) and not isinstance(other, SealedStore):
        return SealedStore(other, store.ring, store.repository_id)
    return other


def beneath(store: Store, name: str) -> tuple[Store, str]:
    """Return the store that holds an object's stored bytes, and its name there."""
    if isinstance(store, SealedStore):
        return store.inner, store.stored_name(name)
    return store, name


@contextmanager
def _told(name: str, stored: str) -> Iterator[None]:
    """Let errors name the object as the caller does."""
    try:
        yield
    except StoreError as error:
        error.args = (str(error).replace(stored, name),)
        raise
