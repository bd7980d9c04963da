"""Comparing what came back with the manifest of the intact repository, by a reading of its own."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable

from drkit.errors import IntegrityError
from drkit.format.limits import MIB
from drkit.model import FORMS, Entry, show_path
from drkit.repo.repository import Segment


def differences(
    segments: Iterable[Segment], root: bytes, gaps: Iterable[tuple[str, str]] = ()
) -> tuple[list[str], list[str], list[str]]:
    """Return the paths below `root` that are not what the manifest says, those that are not there, and of both those
    that lie in one of `gaps`, from a path to before another or to the end: a restore has said that it knows none there.

    Compared are type, mode, content and link target. The tree is scratch: what its owner may not read gets another
    mode on the way. IntegrityError if the manifest itself cannot be read.
    """
    wrong: list[str] = []
    missing: list[str] = []
    unknown: list[str] = []
    ends = dict(gaps)
    until: str | None = None
    for segment in segments:
        if segment.lost:
            raise IntegrityError(f"there is nothing to compare with: {segment.lost}")
        for entry, path in zip(segment.entries, segment.paths, strict=True):
            shown = show_path(path) if ends else ""
            if shown == until:
                until = None
            until = ends.get(shown, until)
            try:
                if not _equal(entry, os.path.join(root, path)):
                    (wrong if until is None else unknown).append(show_path(path))
            except FileNotFoundError:
                (missing if until is None else unknown).append(show_path(path))
    return wrong, missing, unknown


def _equal(entry: Entry, path: bytes) -> bool:
    found = os.lstat(path)
    if stat.S_IFMT(found.st_mode) != FORMS[entry.type]:
        return False
    if entry.type == "l":
        return os.readlink(path) == entry.raw_target
    if stat.S_IMODE(found.st_mode) != entry.mode:
        return False
    if entry.type == "d" and entry.mode & 0o500 != 0o500:
        os.chmod(path, 0o700)
    if entry.type != "f":
        return True
    if not entry.mode & 0o400:
        os.chmod(path, 0o600)
    return found.st_size == entry.size and _sha256(path) == entry.sha256


def _sha256(path: bytes) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while data := file.read(MIB):
            digest.update(data)
    return digest.hexdigest()
