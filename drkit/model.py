"""The words of drkit as types: entries, plugins, snapshots, places, findings.

Everything here is plain data. How it is written to bytes is in `drkit.format`; what each field means is in
`docs/format.md`, sections 5 and 7.
"""

from __future__ import annotations

import base64
import enum
import stat
from typing import Any, NewType

from msgspec import Struct, field

BlobId = NewType("BlobId", bytes)
"""SHA-256 of a blob's plaintext, 32 raw bytes."""
PackId = NewType("PackId", bytes)
"""SHA-256 of a pack's stored bytes, 32 raw bytes."""
IndexId = NewType("IndexId", bytes)
"""SHA-256 of an index object's stored bytes, 32 raw bytes."""
SnapshotId = NewType("SnapshotId", str)
"""SHA-256 of a snapshot's stored bytes, 64 hexadecimal digits."""


class Kind(enum.IntEnum):
    """What a blob holds; the numbers stand in pack tables."""

    DATA = 0
    SEGMENT = 1
    LIST = 2
    HINTS = 3


class Place(Struct, frozen=True, gc=False):
    """Where a blob lies: a frame of a pack (bytes on disk), and a stretch of that frame's plaintext."""

    pack: PackId
    frame_offset: int
    frame_length: int
    offset: int
    length: int


FORMS = {
    "f": stat.S_IFREG,
    "d": stat.S_IFDIR,
    "l": stat.S_IFLNK,
    "p": stat.S_IFIFO,
    "c": stat.S_IFCHR,
    "b": stat.S_IFBLK,
}
"""What the letters of `Entry.type` stand for, in the words of `stat`."""


class Entry(Struct, frozen=True, omit_defaults=True, gc=False):
    """One path of a manifest. Exactly one of `path` and `path_b64` is set, likewise for a link's target."""

    path: str = ""
    path_b64: str = ""
    type: str = ""
    mode: int = field(default=-1)
    uid: int = field(default=-1)
    gid: int = field(default=-1)
    mtime_ns: int | None = None
    size: int = 0
    sha256: str = ""
    blobs: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    target: str = ""
    target_b64: str = ""
    xattrs: dict[str, str] | None = None
    link: int = 0
    rdev: int = 0
    live: bool = False

    @property
    def raw_path(self) -> bytes:
        """The path as the file system has it."""
        return base64.b64decode(self.path_b64, validate=True) if self.path_b64 else self.path.encode()

    @property
    def raw_target(self) -> bytes:
        """The symbolic link's target as the file system has it."""
        return base64.b64decode(self.target_b64, validate=True) if self.target_b64 else self.target.encode()


class PluginRow(Struct, frozen=True, omit_defaults=True, gc=False):
    """One plugin of a snapshot. `bytes` is the sum of its files' sizes; the path of the source itself is empty."""

    path: str = ""
    path_b64: str = ""
    name: str = ""
    version: str = ""
    files: int = 0
    bytes: int = 0
    tree_sha256: str = ""

    @property
    def raw_path(self) -> Any:  # `bytes` is a field's name here
        """The path as the file system has it, as a bytes object."""
        return base64.b64decode(self.path_b64, validate=True) if self.path_b64 else self.path.encode()


class FormatVersion(Struct, frozen=True):
    """What a reader must know to read: unknown major or requirement, refuse; greater minor, read only."""

    major: int = 1
    minor: int = 0
    requires: tuple[str, ...] = ()


class Child(Struct, frozen=True, omit_defaults=True):
    """A child of a manifest root: the first path below it, its id, and the hint where it lies."""

    first: str = ""
    first_b64: str = ""
    id: str = ""
    pack: str = ""
    frame_offset: int = 0
    frame_length: int = 0
    offset: int = 0
    length: int = 0

    @property
    def raw_first(self) -> bytes:
        """The first path as the file system has it."""
        return base64.b64decode(self.first_b64, validate=True) if self.first_b64 else self.first.encode()


class Root(Struct, frozen=True):
    """The top of a manifest or plugin table; at level 0 the children are segments."""

    level: int
    children: tuple[Child, ...]


class Snapshot(Struct, frozen=True, omit_defaults=True):
    """The root that commits a backup: immutable, readable, at most 1 MiB. See docs/format.md, section 7."""

    format: FormatVersion
    repository_id: str
    time: str
    clock: str
    host: str
    manifest: Root
    plugin_table: Root
    tree_sha256: str
    program: str
    scope: str = ""
    source: str = ""
    source_b64: str = ""
    parent: str | None = None
    tags: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    files: int = 0
    dirs: int = 0
    others: int = 0
    plugins: int = 0
    bytes: int = 0
    skipped: int = 0

    @property
    def raw_source(self) -> Any:  # `bytes` is a field's name here
        """The absolute source directory as the file system has it, as a bytes object."""
        return base64.b64decode(self.source_b64, validate=True) if self.source_b64 else self.source.encode()


class Finding(Struct, frozen=True):
    """Something that verify or doctor found: a stable code, the object, what is wrong, what repairs it."""

    code: str
    object: str
    message: str
    repair: str


class Level(enum.IntEnum):
    """Verify levels; each includes the lower ones."""

    EXISTS = 0
    PACKS = 1
    CONTENT = 2
    RESTORE = 3


def show_path(raw: bytes) -> str:
    """Return a path for people: UTF-8 where it is, `\\xNN` for bytes that are not, control characters escaped."""
    text = raw.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def sort_key(raw: bytes) -> bytes:
    """Return the manifest's sort key of a path: a directory stands directly before its content."""
    return raw.replace(b"/", b"\0")
