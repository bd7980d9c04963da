"""A manifest as text: JSON Lines as stored, or checksum lines for `sha256sum -c`."""

from __future__ import annotations

from collections.abc import Iterator

from drkit.format.manifest import encode_line
from drkit.model import Snapshot
from drkit.query.walk import walk
from drkit.repo import Repository


def json_lines(repository: Repository, snapshot: Snapshot, lost: list[str]) -> Iterator[bytes]:
    """Yield one line for each entry, as docs/format.md defines it."""
    for _, entry, _ in walk(repository, snapshot, lost):
        yield encode_line(entry)


def sha256sums(repository: Repository, snapshot: Snapshot, lost: list[str]) -> Iterator[bytes]:
    """Yield one line for each file in the form of GNU sha256sum; paths are relative to the source."""
    for raw, entry, _ in walk(repository, snapshot, lost):
        if entry.type == "f":
            yield checksum_line(entry.sha256, raw)


def checksum_line(sha256: str, path: bytes) -> bytes:
    """Return `<sha256>  <path>` and a newline.

    GNU escaping: where the path has a backslash, newline or carriage return, these become two characters each and the
    line starts with a backslash.
    """
    escaped = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    mark = b"\\" if escaped != path else b""
    return mark + sha256.encode() + b"  " + escaped + b"\n"
