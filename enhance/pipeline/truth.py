"""The report is true: what a run claims is held against the difference of its first and last snapshot."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from drkit.guard import Site, differences, in_use_paths
from drkit.repo import SnapshotRef
from enhance.pipeline.staging import sha256


class Truth(Struct, frozen=True):
    """Every path that differs is in exactly one of the first two; `absent` was claimed, and does not differ."""

    files_changed: tuple[bytes, ...]
    changed_by_others: tuple[bytes, ...]
    absent: tuple[bytes, ...]


def compare(
    site: Site, before: SnapshotRef, after: SnapshotRef, claims: Mapping[bytes, str], maybe: Mapping[bytes, str]
) -> Truth:
    """Hold claims (path → SHA-256 of the content that the run left, empty where it left none) against the snapshots.

    `maybe` are claims of work that was interrupted: true if they are to be seen, and no lie if they are not.
    IntegrityError if a snapshot is damaged: there is no truth without them.
    """
    own = in_use_paths(site)
    found = differences(site.repo, before, after, spare=own)
    known = {**maybe, **claims}
    wanted = {one.path for one in found if one.kind != "removed" and one.path in known}
    contents = contents_of(site, after, wanted)
    ours = {
        one.path
        for one in found
        if one.path in known and known[one.path] == ("" if one.kind == "removed" else contents.get(one.path))
    }
    differing = {one.path for one in found}
    return Truth(
        tuple(sorted(ours)),
        tuple(sorted(differing - ours)),
        tuple(sorted(set(claims) - differing - own)),
    )


def contents_of(site: Site, ref: SnapshotRef, wanted: set[bytes]) -> dict[bytes, str]:
    """Return, of some paths in a snapshot, the SHA-256 of a file's content or a link's target; "" of others."""
    contents: dict[bytes, str] = {}
    if wanted:
        for segment in site.repo.segments(site.repo.load(ref)):
            for path, entry in zip(segment.paths, segment.entries, strict=True):
                if path in wanted:
                    contents[path] = sha256(entry.raw_target) if entry.type == "l" else entry.sha256
    return contents
