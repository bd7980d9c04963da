"""Compare two trees path by path: a judge of restores that shares no code with drkit.

    python scripts/treediff.py BEFORE AFTER

Compared are type, mode, modification time in nanoseconds, link target, size and SHA-256 of the content, extended
attributes of users, and which names are one file (hard links). Not compared: owners, and the two roots themselves.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import stat
import sys
from collections.abc import Collection
from typing import NamedTuple

_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


class Node(NamedTuple):
    """What is compared of one path; `group` is the first name of the file that it is a hard link of, or empty."""

    type: str
    mode: int
    mtime_ns: int
    target: bytes
    size: int
    sha256: str
    xattrs: tuple[tuple[str, bytes], ...]
    group: bytes


def describe(root: bytes | str) -> dict[bytes, Node]:
    """Return every path below a directory, relative to it, with what is compared of it."""
    top = os.fsencode(root)
    found: dict[bytes, Node] = {}
    names: dict[tuple[int, int], list[bytes]] = {}
    pending = [b""]
    while pending:
        directory = pending.pop()
        for name in os.listdir(os.path.join(top, directory)):
            path = os.path.join(directory, name)
            info = os.lstat(os.path.join(top, path))
            found[path] = _node(os.path.join(top, path), info)
            if stat.S_ISDIR(info.st_mode):
                pending.append(path)
            elif info.st_nlink > 1:
                names.setdefault((info.st_dev, info.st_ino), []).append(path)
    for group in names.values():
        if len(group) > 1:  # the other names may lie outside the tree
            found |= {path: found[path]._replace(group=min(group)) for path in group}
    return found


def _node(absolute: bytes, info: os.stat_result) -> Node:
    regular, link = stat.S_ISREG(info.st_mode), stat.S_ISLNK(info.st_mode)
    return Node(
        type=_TYPES[stat.S_IFMT(info.st_mode)],
        mode=0 if link else stat.S_IMODE(info.st_mode),
        mtime_ns=info.st_mtime_ns,
        target=os.readlink(absolute) if link else b"",
        size=info.st_size if regular else 0,
        sha256=_sha256(absolute) if regular else "",
        xattrs=_xattrs(absolute),
        group=b"",
    )


def _sha256(absolute: bytes) -> str:
    with open(absolute, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _xattrs(absolute: bytes) -> tuple[tuple[str, bytes], ...]:
    """Return the attributes in the namespace of users; the others are the system's own business."""
    if not hasattr(os, "listxattr"):
        return ()
    try:
        names = os.listxattr(absolute, follow_symlinks=False)
    except OSError:
        return ()
    users = sorted(name for name in names if name.startswith("user."))
    return tuple((name, os.getxattr(absolute, name, follow_symlinks=False)) for name in users)


def compare(before: dict[bytes, Node], after: dict[bytes, Node], *, any_time: Collection[bytes] = ()) -> list[str]:
    """Return one line for each difference, in order of the paths; of `any_time` the time is not compared."""
    differences = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old is None or new is None:
            differences.append(f"{path!r} is {'missing' if new is None else 'too many'}")
            continue
        for field, was, now in zip(Node._fields, old, new, strict=True):
            if was != now and not (field == "mtime_ns" and path in any_time):
                differences.append(f"{path!r}: {field} was {was!r}, is {now!r}")
    return differences


def main(arguments: list[str] | None = None) -> int:
    """Run the command line: 0 if the trees are equal, 1 if not."""
    parser = argparse.ArgumentParser(description="Compare two trees path by path.")
    parser.add_argument("before")
    parser.add_argument("after")
    given = parser.parse_args(arguments)
    for directory in (given.before, given.after):
        if not os.path.isdir(directory):
            parser.error(f"{directory}: there is no such directory")
    before = describe(given.before)
    differences = compare(before, describe(given.after))
    for line in differences[:50]:
        print(line)
    print(f"{len(before)} paths compared, {len(differences)} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
