"""One store for S3, GCS and Azure, through obstore. It asks once: what retries is drkit.store.wrap.Retrying."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from drkit.errors import (
    EndsBefore,
    ObjectExists,
    ObjectNotFound,
    StoreCorrupt,
    StoreUnavailable,
    UsageError,
)
from drkit.store.base import ObjectInfo
from drkit.store.checks import check_name, check_prefix, check_range
from drkit.store.vendor import RangeIgnored, RangeOutside, translated

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore as Client

_PROOF_SIZE = 64 * 1024
_PROVED = 4
"""Which small put is repeated to find out: a backup puts at most three besides its packs."""
_KEPT_SIZE = 64 * 1024 * 1024
_LAST = 2**63 - 1


_OF_ONE_WRITER = re.compile(r"inventory/[0-9a-f]{32}-[0-9]+-[0-9a-f]{8}\.jsonl\.zst(?:\.enc)?")
"""Names that one writer gives, to what it may only put again as it is: there is nothing to look for."""


class ObjectStore:
    """A bucket, or a folder of one, as a store.

    A put is one request, so that nothing half-done stays behind where nobody sees it. `keeps_precondition` says
    whether the server refuses to create what is there already; where it is not known, an object is looked for before
    it is put, and the fourth small put is repeated, which a server that keeps the precondition refuses: a command that
    puts a few objects does not pay for it. Where it is not kept, one process at a time is safe: between look and put
    another one may come.

    A server that answers a range with the whole object is worked round: the last such object is kept in memory.
    """

    def __init__(
        self, client: Client, url: str, *, keeps_precondition: bool | None = None, tells_of_missing: bool = True
    ) -> None:
        self._client = client
        self._url = url
        self._keeps_precondition = keeps_precondition
        self._tells_of_missing = tells_of_missing  # on delete: S3 calls it done
        self._ignores_ranges = False
        self._kept: tuple[str, object, bytes] | None = None
        self._claims: set[str] = set()
        self._small_puts = 0
        self._changed = threading.Condition()

    @property
    def url(self) -> str:
        """As the user wrote it; credentials are never part of it."""
        return self._url

    @property
    def directory(self) -> None:
        """Nowhere in the file system."""
        return

    @property
    def keeps_precondition(self) -> bool | None:
        """Whether the server refuses to create what is there; None if that is not known yet."""
        return self._keeps_precondition

    @property
    def ignores_ranges(self) -> bool:
        """Whether the server was seen to answer a range with the whole object."""
        return self._ignores_ranges

    def prepare(self) -> None:
        """Nothing has to be made: the bucket is the user's, and folders are parts of names."""

    def clean_leftovers(self) -> int:
        """Return 0: a put that was cut off leaves nothing."""
        return 0

    def put(self, name: str, data: bytes | bytearray | memoryview, *, overwrite: bool = False) -> None:
        """Store `data` under `name` with one request, or two or three while the server is not known."""
        _check_name(name)
        view = memoryview(data).cast("B")
        if overwrite:
            self._put(name, view, "overwrite")
        elif self._keeps_precondition or _OF_ONE_WRITER.fullmatch(name):
            self._put(name, view, "create")
        else:
            with self._claimed(name):
                self._put_after_look(name, view)

    def get(self, name: str) -> bytes:
        """Return the whole object."""
        import obstore

        _check_name(name)
        with translated("read", name, self.url):
            result = obstore.get(self._client, name)
            size = result.meta["size"]
            data = bytes(result.bytes())
        if len(data) != size:
            raise StoreCorrupt(f"{name} in {self.url} came with {len(data)} of {size} bytes")
        return data

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Return the bytes of [offset, offset+length). StoreCorrupt if the object ends before that."""
        import obstore

        _check_name(name)
        check_range(offset, length)
        if length == 0 or offset + length > _LAST:  # no request can ask for it
            size = self.stat(name).size
            if offset + length > size:
                raise self._outside(name, offset, length)
            return b""
        if not self._ignores_ranges:
            try:
                with translated("read", name, self.url):
                    data = bytes(obstore.get_range(self._client, name, start=offset, length=length))
            except RangeIgnored:
                self._ignores_ranges = True
            except RangeOutside:
                raise self._outside(name, offset, length) from None
            else:
                if len(data) != length:
                    raise self._outside(name, offset, length, data)
                return data
        data = self._whole(name)[offset : offset + length]
        if len(data) != length:
            raise self._outside(name, offset, length, data)
        return data

    def stat(self, name: str) -> ObjectInfo:
        """Return size and stamp, in whole seconds."""
        return _info(self._head(name))

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Yield what is there when the first is asked for, in order of names, whatever the server's order is."""
        check_prefix(prefix)
        return self._list(prefix, after)

    def delete(self, name: str) -> None:
        """Remove the object. Where the server does not tell whether it was there, it is looked for first."""
        import obstore

        _check_name(name)
        if not self._tells_of_missing:
            self._head(name)
        with translated("delete", name, self.url):
            obstore.delete(self._client, name)

    def close(self) -> None:
        """Forget what was kept in memory; connections end with the process."""
        self._kept = None

    def _put(self, name: str, view: memoryview, mode: Literal["create", "overwrite"]) -> None:
        import obstore

        with translated("write", name, self.url):
            obstore.put(self._client, name, view, mode=mode, use_multipart=False)

    def _put_after_look(self, name: str, view: memoryview) -> None:
        """Put what must not be there yet, and find out whether the server would have seen to that."""
        try:
            self._head(name)
        except ObjectNotFound:
            self._put_new(name, view)
        else:
            raise ObjectExists(f"{name} is already in {self.url}")

    def _put_new(self, name: str, view: memoryview) -> None:
        try:
            self._put(name, view, "create")
        except ObjectExists:
            self._keeps_precondition = True
            raise
        self._small_puts += len(view) <= _PROOF_SIZE
        if self._small_puts == _PROVED and self._keeps_precondition is None and len(view) <= _PROOF_SIZE:
            try:
                self._put(name, view, "create")
            except ObjectExists:
                self._keeps_precondition = True
            except StoreUnavailable:
                return  # it is stored; the next put will find out
            else:
                self._keeps_precondition = False

    @contextmanager
    def _claimed(self, name: str) -> Iterator[None]:
        """Let one thread at a time look and put under a name."""
        with self._changed:
            self._changed.wait_for(lambda: name not in self._claims)
            self._claims.add(name)
        try:
            yield
        finally:
            with self._changed:
                self._claims.discard(name)
                self._changed.notify_all()

    def _head(self, name: str) -> ObjectMeta:
        import obstore

        _check_name(name)
        with translated("read", name, self.url):
            return obstore.head(self._client, name)

    def _whole(self, name: str) -> bytes:
        """Return an object as a whole, from memory if it is the last one that was read and is still the same."""
        meta = self._head(name)
        state = (meta["e_tag"], meta["size"], meta["last_modified"])
        kept = self._kept
        if kept is not None and kept[:2] == (name, state):
            return kept[2]
        data = self.get(name)
        if len(data) == meta["size"] <= _KEPT_SIZE:
            self._kept = (name, state, data)
        return data

    def _outside(self, name: str, offset: int, length: int, data: bytes = b"") -> EndsBefore:
        message = f"{name} in {self.url} ends before byte {offset + length}: {length} at {offset} were asked"
        return EndsBefore(message, data=data)

    def _list(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        import obstore

        folder = prefix.rpartition("/")[0]
        # Only to ask for less: what is not greater than this cannot be what is asked for.
        offset = max(after, prefix[:-1] + chr(ord(prefix[-1]) - 1) + "~" if prefix else "")
        with translated("list", prefix or "objects", self.url):
            found = {
                meta["path"]: _info(meta)
                for chunk in obstore.list(self._client, folder or None, offset=offset or None)
                for meta in chunk
                if meta["path"].startswith(prefix) and meta["path"] > after
            }
        for name in sorted(found):
            yield found[name]


def _info(meta: ObjectMeta) -> ObjectInfo:
    # Some servers give fractions of a second in lists, but not of a single object.
    return ObjectInfo(meta["path"], meta["size"], float(int(meta["last_modified"].timestamp())))


def _check_name(name: str) -> None:
    check_name(name)
    if "\\" in name:  # Azure takes it for a slash
        raise UsageError(f"{name!r} cannot be the name of an object in a bucket")
