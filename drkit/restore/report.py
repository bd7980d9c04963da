"""What a restore says when it is done, and what it remembers on the way there."""

from __future__ import annotations

from msgspec import Struct

from drkit.model import Entry, show_path


class Lost(Struct, frozen=True):
    """A path that could not be restored, relative to what was restored, and why.

    With `until`, a stretch of the manifest: from `path` to before the path `until`, or to the end if that is empty.
    """

    path: str
    reason: str
    until: str | None = None


class RestoreReport(Struct, frozen=True):
    """The result of a restore, or of its dry run (`method` is then empty).

    `files`, `dirs`, `links` (symbolic ones) and `others` (FIFOs, devices) count what is there now; `bytes` is the
    sum of the files' sizes. `tree_sha256` was computed from what was read back. `method` says how the tree took
    its place: "exchange" and "rename" are atomic, "files" went file by file under a journal. `notes` name what
    this system or user could not set. A restore with `lost` paths is not whole: the caller exits with 3.
    """

    snapshot: str
    files: int
    dirs: int
    links: int
    others: int
    bytes: int
    tree_sha256: str
    lost: tuple[Lost, ...]
    duration_s: float
    method: str
    notes: tuple[str, ...]


class Outcome(Struct):
    """What a restore could not do so far: filled by the writer, read by the check and the report.

    `lost` maps paths to reasons; `gaps` are stretches of the manifest that are lost; `skipped` are paths left out
    on purpose. `unset` names the fields that the file system or the user did not let us set ("owner", "mode", "times",
    "links", or "xattr NAME"). `late` are the final modes of what the restorer could not read back
    with them, each directory after what it holds. `stripped` are paths without their set-ID bits, `odd_times` those
    whose time the file system cannot store.
    """

    lost: dict[bytes, str] = {}
    gaps: list[Lost] = []
    skipped: set[bytes] = set()
    unset: set[str] = set()
    late: list[tuple[bytes, int]] = []
    odd_times: set[bytes] = set()
    stripped: set[bytes] = set()

    def add(self, other: Outcome) -> None:
        """Take over what could not be done with paths that come after all of these."""
        self.lost |= other.lost
        self.gaps += other.gaps
        self.skipped |= other.skipped
        self.unset |= other.unset
        self.late += other.late
        self.odd_times |= other.odd_times
        self.stripped |= other.stripped

    def mode(self, path: bytes, entry: Entry) -> int:
        """Return the mode that the path is to have: the entry's, without set-ID bits of an owner not set."""
        return entry.mode & 0o1777 if self.stripped and path in self.stripped else entry.mode

    @property
    def whole(self) -> bool:
        """Whether every selected entry was restored."""
        return not (self.lost or self.gaps or self.skipped)

    def all_lost(self) -> tuple[Lost, ...]:
        """Return everything that is lost, in manifest order of the paths, gaps first."""
        return (*self.gaps, *(Lost(show_path(path), reason) for path, reason in self.lost.items()))

    def notes(self) -> tuple[str, ...]:
        """Return for people what could not be set or made."""
        notes = [_NOTES[field] for field in sorted(self.unset) if field in _NOTES]
        if self.stripped:
            notes.append("set-user-ID and set-group-ID bits were left out where the owner could not be set")
        xattrs = sorted(field.partition(" ")[2] for field in self.unset if field.startswith("xattr "))
        if xattrs:
            notes.append("extended attributes could not be set here: " + ", ".join(xattrs))
        if self.skipped:
            shown = ", ".join(show_path(path) for path in sorted(self.skipped)[:5])
            notes.append(f"{len(self.skipped)} devices were not made, which takes root: {shown}")
        if self.odd_times:
            notes.append(f"{len(self.odd_times)} times lie outside of what this file system can store")
        return tuple(notes)


_NOTES = {
    "owner": "owners could not be set (not root): everything belongs to who restored it",
    "mode": "modes could not be set on this file system",
    "times": "this file system keeps times less exactly than nanoseconds",
    "links": "hard links could not be made here: each name has its own copy",
}
