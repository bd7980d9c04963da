"""Trees for tests: a hypothesis strategy, a builder, and a full description of what is on disk.

    @given(tree=trees())
    def test(tree, ...):
        build(path, tree)
        ...
        assert snapshot_tree(restored) == snapshot_tree(path)

`snapshot_tree` uses nothing of drkit: it is what the code under test is compared with.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import random
import stat
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

MIB = 1 << 20
SMALL_SIZES = (0, 1, 2, 100, 4095, 4096, 4097, 65536)
LARGE_SIZES = (2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 3 * MIB + 12345)
ODD_NAMES = (
    b"a", b"b", b"README.md", b"SKILL.md", b" ", b"-rf", b"...", b".hidden", b"a b", b"new\nline", b"tab\there",
    b"back\\slash", b"quote'\"", b"caf\xc3\xa9", b"cafe\xcc\x81", b"\xff\xfe", b"latin-\xe9", b"\xf0\x9f\x8e\x89",
    b"\x01\x1b[31m", b"*?[x]", b"x" * 255, b"%s", b"a:b", b"C:\\x", b"~", b"#", b"\xed\xa0\x80",
)  # fmt: skip
ROOT = os.geteuid() == 0


@dataclass(frozen=True)
class Node:
    """One thing in a tree. `kind` is the type letter of the manifest, or "h" for a hard link to an earlier file."""

    kind: str
    mode: int = -1  # 755 for directories, else 644
    mtime_ns: int = 1_500_000_000_123_456_789
    size: int = 0
    seed: int = 0  # 0 makes zeros
    target: bytes = b""
    xattrs: tuple[tuple[str, bytes], ...] = ()
    children: dict[bytes, Node] = field(default_factory=dict)
    owner: tuple[int, int] | None = None

    @property
    def content(self) -> bytes:
        return content(self.seed, self.size)


@functools.lru_cache(16)
def content(seed: int, size: int) -> bytes:
    """Return the same bytes for the same arguments; large ones have long runs of zeros in them."""
    if not seed:
        return bytes(size)
    data = random.Random(seed).randbytes(size)
    if size > MIB:
        hole = 64 * 1024 + seed
        data = data[:300_000] + bytes(hole) + data[300_000 + hole :]
    return data


def names() -> st.SearchStrategy[bytes]:
    """Names that file systems allow, the odd ones often. Never names that drkit keeps for itself."""
    free = st.binary(min_size=1, max_size=12).map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"0"))
    return st.one_of(st.sampled_from(ODD_NAMES), free).filter(
        lambda name: name not in (b".", b"..") and not name.startswith(b".drkit")
    )


def _modes(*, directory: bool) -> st.SearchStrategy[int]:
    common = [0o755, 0o700, 0o775] if directory else [0o644, 0o600, 0o755, 0o444, 0o4755, 0o2755]
    anything = st.integers(0, 0o7777)
    if not ROOT:  # what its owner cannot read cannot be backed up
        anything = anything.map(lambda mode: mode | (0o700 if directory else 0o400))
    return st.one_of(st.sampled_from(common), anything)


def _times() -> st.SearchStrategy[int]:
    odd = st.sampled_from([0, 1, -1, 999_999_999, 2**31 * 10**9, 1_700_000_000_000_000_000])
    return st.one_of(odd, st.integers(0, 2_000_000_000_000_000_000))


def _xattrs() -> st.SearchStrategy[tuple[tuple[str, bytes], ...]]:
    value = st.binary(max_size=40)
    some = st.dictionaries(st.sampled_from(["user.a", "user.drkit test", "user.é"]), value, max_size=2)
    return st.one_of(st.just(()), st.just(()), some.map(lambda found: tuple(sorted(found.items()))))


def _owners() -> st.SearchStrategy[tuple[int, int] | None]:
    if not ROOT:
        return st.none()
    return st.one_of(st.none(), st.none(), st.tuples(st.integers(0, 70000), st.integers(0, 70000)))


def _leaves(*, large: bool) -> st.SearchStrategy[Node]:
    sizes = st.sampled_from(SMALL_SIZES + LARGE_SIZES if large else SMALL_SIZES)
    files = st.builds(
        Node,
        kind=st.just("f"),
        mode=_modes(directory=False),
        mtime_ns=_times(),
        size=sizes,
        seed=st.integers(0, 3),  # few, so that there are duplicates
        xattrs=_xattrs(),
        owner=_owners(),
    )
    targets = st.one_of(names(), st.sampled_from([b"/etc/passwd", b"../..", b"no/such", b"\xff", b"t" * 4000]))
    links = st.builds(Node, kind=st.just("l"), target=targets, mtime_ns=_times(), owner=_owners())
    pipes = st.builds(Node, kind=st.just("p"), mode=_modes(directory=False), mtime_ns=_times())
    return st.one_of(files, files, links, st.builds(Node, kind=st.just("h")), pipes)


def trees(*, large: bool = False, max_leaves: int = 20) -> st.SearchStrategy[Node]:
    """Trees of directories, files, links, hard links and pipes, never empty; `large` has files of over 2 MiB."""

    def directory(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        return st.builds(
            Node,
            kind=st.just("d"),
            mode=_modes(directory=True),
            mtime_ns=_times(),
            xattrs=_xattrs(),
            children=st.dictionaries(names(), children, max_size=6),
            owner=_owners(),
        )

    inner = st.recursive(_leaves(large=large), directory, max_leaves=max_leaves)
    top = st.dictionaries(names(), inner, min_size=1, max_size=8)
    return st.builds(Node, kind=st.just("d"), mode=st.just(0o755), children=top)


def build(path: bytes | str | os.PathLike[str], tree: Node) -> None:
    """Make the tree's root directory at `path`, which must not exist, and everything in it."""
    _Builder().make(os.fsencode(path), tree)


class _Builder:
    def __init__(self) -> None:
        self.files: list[bytes] = []

    def make(self, path: bytes, node: Node) -> None:
        if node.kind == "h":
            if self.files:
                os.link(self.files[len(path) % len(self.files)], path)
                return
            node = Node("f")
        if node.kind == "d":
            os.mkdir(path, 0o700)
            for name, child in node.children.items():
                self.make(os.path.join(path, name), child)
        elif node.kind == "f":
            with open(path, "wb") as file:
                file.write(node.content)
            self.files.append(path)
        elif node.kind == "l":
            os.symlink(node.target, path)
        else:
            os.mkfifo(path)
        self.dress(path, node)

    @staticmethod
    def dress(path: bytes, node: Node) -> None:
        if node.owner:
            os.chown(path, *node.owner, follow_symlinks=False)
        for key, value in node.xattrs:
            try:
                os.setxattr(path, key, value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.ENOSPC):
                    raise
        if node.kind != "l":
            os.chmod(path, node.mode if node.mode >= 0 else 0o755 if node.kind == "d" else 0o644)
        os.utime(path, ns=(node.mtime_ns, node.mtime_ns), follow_symlinks=False)


def snapshot_tree(path: bytes | str | os.PathLike[str], *, root: bool = False) -> dict[bytes, dict[str, Any]]:
    """Describe everything below `path` completely: path → type, mode, owner, time, content, attributes, hard links.

    With `root` the directory itself is there too, with an empty path. Access times are left out.
    """
    top = os.fsencode(path)
    found: dict[bytes, dict[str, Any]] = {}
    inodes: dict[tuple[int, int], list[bytes]] = {}

    def visit(full: bytes, name: bytes) -> None:
        info = os.lstat(full)
        kind = stat.S_IFMT(info.st_mode)
        one: dict[str, Any] = {
            "type": kind,
            "mode": stat.S_IMODE(info.st_mode),
            "owner": (info.st_uid, info.st_gid),
            "mtime_ns": info.st_mtime_ns,
            "xattrs": {key: os.getxattr(full, key, follow_symlinks=False) for key in _listxattr(full)},
        }
        if kind == stat.S_IFREG:
            with open(full, "rb") as file:
                one["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
            one["size"] = info.st_size
        elif kind == stat.S_IFLNK:
            one["target"] = os.readlink(full)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            one["rdev"] = info.st_rdev
        if kind != stat.S_IFDIR:
            inodes.setdefault((info.st_dev, info.st_ino), []).append(name)
        if name or root:
            found[name] = one
        if kind == stat.S_IFDIR:
            for child in sorted(os.listdir(full)):
                visit(os.path.join(full, child), name + b"/" + child if name else child)

    visit(top, b"")
    for group in inodes.values():
        for name in group:
            found[name]["links"] = tuple(sorted(group))
    return found


def _listxattr(path: bytes) -> list[str]:
    return [key for key in os.listxattr(path, follow_symlinks=False) if not key.startswith("security.")]
