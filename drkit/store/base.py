"""The store: named immutable objects somewhere. What every store MUST do stands on the Protocol.

Names are relative, ASCII, `/`-separated (`packs/ab/<sha256>.zst`), without empty, `.` or `..` components.

Every store MUST
 1. make `put` all or nothing: after a crash the object is whole or not there, and it is durable once put returned;
 2. refuse to put over an existing object unless `overwrite` is true (ObjectExists), except where it cannot, which
    its `facts` then say;
 3. read what it wrote: a get after a put returned gives the new bytes, a list shows the new name;
 4. never return fewer or more bytes than asked for: StoreCorrupt instead;
 5. list in ascending order of the names' bytes, each once, without temporary files;
 6. give sizes and stamps from the store itself, never from the caller's clock;
 7. raise ObjectNotFound for a missing object on get, get_range, stat and delete;
 8. translate every vendor error into a StoreError that says what to do next;
 9. be usable from several threads at once, and safe against other processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct


class ObjectInfo(Struct, frozen=True, gc=False):
    """A stored object: name, size in bytes, and the store's own stamp of its last write (seconds)."""

    name: str
    size: int
    modified: float


class Store(Protocol):
    """Named immutable objects. See the module's list of what a store MUST do."""

    @property
    def url(self) -> str:
        """How a user names this store; never holds credentials."""
        ...

    @property
    def directory(self) -> bytes | None:
        """Where the store lies in this machine's file system, absolute; None if it does not."""
        ...

    def prepare(self) -> None:
        """Make what the first put needs, durably: folders, a table. May be called again."""
        ...

    def clean_leftovers(self) -> int:
        """Remove what killed writers left behind, never what a living one uses; return how many there were."""
        ...

    def put(self, name: str, data: bytes | bytearray | memoryview, *, overwrite: bool = False) -> None:
        """Store `data` under `name`, durably. ObjectExists if it is there and `overwrite` is false."""
        ...

    def get(self, name: str) -> bytes:
        """Return the whole object. ObjectNotFound if there is none."""
        ...

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Return the bytes of [offset, offset+length). StoreCorrupt if the object ends before that."""
        ...

    def stat(self, name: str) -> ObjectInfo:
        """Return size and stamp. ObjectNotFound if there is none."""
        ...

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose names start with `prefix` and are greater than `after`, in order of names."""
        ...

    def delete(self, name: str) -> None:
        """Remove the object. ObjectNotFound if there is none; a refusal is an error, never a success."""
        ...

    def close(self) -> None:
        """Release what the store holds open. May be called twice."""
        ...
