"""recover.py on repositories that were made to do harm."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from drkit.recovery import recover
from tests.support.mini_repo import Entry, MiniRepo, sha, zstd
from tests.support.recovering import directory, file, run


@pytest.fixture
def repo(tmp_path: Path) -> MiniRepo:
    return MiniRepo(tmp_path / "repo", frame=1 << 14, chunk=1 << 12, pack_size=1 << 15)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def line(**record: Any) -> Entry:
    """An entry that stands in the manifest exactly like this."""
    full = {"path": "x", "type": "f", "mode": 0o644, "uid": 0, "gid": 0, "mtime_ns": 0, **record}
    full |= {"sha256": sha(b"content").hex()} if full["type"] == "f" and "sha256" not in full else {}
    return {**full, "_line": json.dumps(full).encode()}, b"content"


HOSTILE = {
    "up": line(path="../x"),
    "up in the middle": line(path="a/../../x"),
    "absolute": line(path="/x"),
    "dot": line(path="./x"),
    "empty component": line(path="a//x"),
    "empty": line(path=""),
    "nul": line(path="x\0y"),
    "long component": line(path="x" * 256),
    "long path": line(path="/".join(["x" * 200] * 21)),
    "surrogate": line(path="\udc80", path_b64="Li4veA=="),
    "through a link": line(path="link/x", size=7),
    "below a file": line(path="good/x", size=7),
    "without a parent": line(path="nowhere/x", size=7),
    "twice": line(path="good", size=7),
    "out of order": line(path="a", size=7),
    "too much content": line(size=6),
    "too little content": line(size=8),
    "not its content": line(size=7, sha256=sha(b"other").hex(), blobs=[sha(b"content").hex()]),
    "unknown content": line(size=7, sha256=sha(b"nowhere").hex()),
    "no id": line(size=7, sha256="../../x"),
    "negative size": line(size=-1),
    "huge size": line(size=1 << 70),
    "size is text": line(size="7"),
    "unknown type": line(type="s"),
    "mode": line(mode=0o40000),
    "no mode": line(mode=None),
    "time": line(mtime_ns=1 << 64),
    "xattrs": line(xattrs={"user.x": "not base64!"}),
    "xattrs is a list": line(xattrs=["user.x"]),
    "no json": ({"path": "x", "type": "d", "_line": b"{"}, b""),
    "deep json": ({"path": "x", "type": "d", "_line": b"[" * 100_000}, b""),
    "a number": ({"path": "x", "type": "d", "_line": b"1"}, b""),
    "not utf-8": ({"path": "x", "type": "d", "_line": b'{"path":"\xff"}'}, b""),
    "link without target": line(type="l"),
    "link target with nul": line(type="l", target="a\0b"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_entry_is_refused_and_the_others_restored(repo: MiniRepo, target: Path, what: str) -> None:
    outside = target.parent / "outside"
    outside.mkdir()
    link: Entry = {**directory("link")[0], "type": "l", "mode": 0}, bytes(outside)
    honest = [file("good", b"content"), link]
    repo.backup([*honest, HOSTILE[what], file("z", b"content")])
    result = run(repo, "--target", target)
    assert (result.code, len(result.lost)) == (3, 1)
    assert sorted(path.name for path in target.iterdir()) == ["good", "link", "z"]
    assert not list(outside.iterdir())
    assert not (target.parent / "x").exists()
    assert (target / "good").read_bytes() == b"content"


def test_a_plugin_that_is_no_directory_is_refused(repo: MiniRepo, target: Path) -> None:
    repo.backup([file("f")], {b"f": "f"})
    assert run(repo, "--target", target, "--plugin", "f").code == 20
    assert not list(target.iterdir())


def test_a_manifest_that_is_not_what_the_snapshot_says(repo: MiniRepo, target: Path) -> None:
    repo.backup([file("f")], tree_sha256="0" * 64)
    result = run(repo, "--target", target)
    assert (result.code, "MISMATCH" in result.err) == (21, True)


def bomb(stated: int, blocks: int) -> bytes:
    """A frame that states a size, with a window of 8 MiB, and decodes to `blocks` times 128 KiB of zeros."""
    one = ((128 << 10) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = ((128 << 10) << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    return struct.pack("<IBBI", 0xFD2FB528, 0x80, 13 << 3, stated) + one * (blocks - 1) + last


@pytest.mark.parametrize("decoder", ["zstandard", "command"])
@pytest.mark.parametrize("stated", [1000, 8 << 20, 1 << 31])
def test_a_bomb_does_not_go_off(repo: MiniRepo, target: Path, stated: int, decoder: str) -> None:
    """4 GiB of content in a frame; the interpreter has 1 GiB."""
    if decoder == "command" and not shutil.which("zstd"):
        pytest.skip("there is no zstd command")
    repo.frame = 1
    repo.compress = lambda data: bomb(stated, 1 << 15) if data.startswith(b"boom") else zstd(data)
    repo.backup([file("a", b"boom"), file("b" * 9, b"x" * (1 << 14))])
    result = run(repo, "--target", target, decoder=decoder)
    assert (result.code, result.lost) == (3, ["a"])
    assert [path.name for path in target.iterdir()] == ["b" * 9]


@pytest.mark.parametrize("header", [b"\x20\x01", b"\x00\x68", b"\x81\xff" + b"\x01" * 5, b"\xff" * 12, b""])
def test_frames_with_odd_headers_are_refused(header: bytes) -> None:
    with pytest.raises(recover.DamagedError):
        recover.frame_size(b"\x28\xb5\x2f\xfd" + header, 1 << 20)
