"""recover.py, as it lies in a repository, with no drkit installed: what comes back, and what damage cannot do."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drkit import recovery
from drkit.recovery import recover
from tests.support.mini_repo import Entry, MiniRepo, named, scan, sha, tree_hash, zstd

CLEAN = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
sys.modules.update(dict.fromkeys({blocked!r}))
sys.argv = [{program!r}, *{arguments!r}]
runpy.run_path({program!r}, run_name="__main__")
"""
"""Runs recover.py in an interpreter that has only the modules that it should need, and 1 GiB of memory."""


class Result:
    """How recover.py ended: exit code, what it printed, and all paths that it called lost."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        self.lost = re.findall(r"^LOST (.*?): ", self.out, re.MULTILINE)
        assert "Traceback" not in self.err, self.err


def run(repo: MiniRepo, *arguments: str | Path, decoder: str = "zstandard") -> Result:
    program = repo.root / "recover.py"
    program.write_bytes(recovery.files()["recover.py"])
    blocked = ["drkit", "msgspec", "compression.zstd"] + (["zstandard"] if decoder == "command" else [])
    code = CLEAN.format(blocked=blocked, program=str(program), arguments=[str(a) for a in arguments])
    return Result(
        subprocess.run([sys.executable, "-I", "-c", code], cwd="/", capture_output=True, text=True, check=False)
    )


def file(path: str, content: bytes = b"content", **more: Any) -> Entry:
    return {"path": path, "type": "f", "mode": 0o644, "uid": 0, "gid": 0, "mtime_ns": 10**18, **more}, content


def directory(path: str, **more: Any) -> Entry:
    return {"path": path, "type": "d", "mode": 0o755, "uid": 0, "gid": 0, "mtime_ns": 10**18, **more}, b""


def numbered(count: int) -> list[Entry]:
    """Many small files, in a few directories."""
    entries: list[Entry] = []
    for i in range(count):
        entries += [directory(f"d{i // 100:02}")] if i % 100 == 0 else []
        entries.append(file(f"d{i // 100:02}/f{i % 100:02}", b"content %d\n" % i * (i % 50 + 1)))
    return entries


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def packs(repo: MiniRepo) -> list[Path]:
    """The packs, in the order in which they were written."""
    return [repo.root / "packs" / pack.id.hex()[:2] / f"{pack.id.hex()}.zst" for pack in repo.packs if pack.id]


def right_files(target: Path, entries: list[Entry]) -> set[str]:
    """The files in the target. Each must be one of the entries, with exactly its content."""
    expected = {record["path"]: content for record, content in entries if record["type"] == "f"}
    found = {
        str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file() and not p.is_symlink()
    }
    assert all(expected[path] == content for path, content in found.items())
    return set(found)


@pytest.fixture
def repo(tmp_path: Path) -> MiniRepo:
    return MiniRepo(tmp_path / "repo", frame=1 << 14, chunk=1 << 12, pack_size=1 << 15)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with one of everything that a normal user can make."""
    source = tmp_path / "source"
    (source / "docs/deep/er").mkdir(parents=True)
    (source / "docs/a.md").write_bytes(b"# A\n")
    (source / "docs/deep/er/b.bin").write_bytes(bytes(range(256)) * 300)
    (source / "docs-and-more").write_bytes(b"sorted after docs/")
    (source / "empty").touch()
    (source / "empty-directory").mkdir(mode=0o555)
    (source / "holes").write_bytes(b"x" + bytes(1 << 20) + b"y" + bytes(1 << 20))
    (source / "link").symlink_to("/etc/passwd")
    (source / "dangling").symlink_to(b"nowhere \xff")
    (source / "twin").hardlink_to(source / "docs/a.md")
    os.mkfifo(source / "pipe", 0o640)
    Path(os.fsdecode(os.fsencode(source) + b"/odd \xff\n")).write_bytes(b"odd")
    (source / "secret").write_bytes(b"no one may read this")
    (source / "secret").chmod(0)
    (source / "suid").write_bytes(b"program")
    (source / "suid").chmod(0o4755)
    with contextlib.suppress(OSError):  # where the file system has none
        os.setxattr(source / "docs", "user.color", b"\0blue")
    for number, path in enumerate(sorted(source.rglob("*"), reverse=True)):
        os.utime(path, ns=(0, 10**18 + number * 1_000_000_001), follow_symlinks=False)
    return source


@pytest.mark.parametrize("decoder", ["zstandard", "command"])
def test_everything_comes_back(repo: MiniRepo, source: Path, target: Path, decoder: str) -> None:
    if decoder == "command" and not shutil.which("zstd"):
        pytest.skip("there is no zstd command")
    entries = scan(source)
    repo.chunk = 1 << 18  # all zeros: a hole
    repo.backup(entries)
    result = run(repo, "--target", target, decoder=decoder)
    assert (result.code, result.lost) == (0, [])
    assert f"tree hash equal: {tree_hash(entries)}" in result.out
    assert scan(target) == entries
    assert (target / "twin").samefile(target / "docs/a.md")
    assert (target / "holes").stat().st_blocks * 512 < 1 << 20


def test_many_files_and_a_long_one(repo: MiniRepo, target: Path) -> None:
    """Lists of segments, lists of blobs, several packs, many frames."""
    entries = [*numbered(1500), file("long", os.urandom(99 << 12) + b"the end")]
    repo.backup(entries)
    assert len(packs(repo)) > 3
    result = run(repo, "--target", target)
    assert result.code == 0
    assert "restored 1501 files, 15 directories" in result.out
    assert right_files(target, entries) == {record["path"] for record, _ in entries if record["type"] == "f"}


def test_list_shows_what_can_be_restored(repo: MiniRepo) -> None:
    first = repo.backup(numbered(3), {b"d00": "plug"}, tags=["rejected"])
    second = repo.backup(numbered(2), **named("source", b"/odd \xff"))
    repo.root.joinpath("snapshots/not a snapshot").touch()
    result = run(repo, "--list")
    assert result.code == 0
    assert result.out.splitlines() == [
        f"20250101T000000.000001Z  {first[:16]}  /source  3 files, 1 plugins [rejected]",
        f"20250101T000000.000002Z  {second[:16]}  /odd \\xff  2 files, 0 plugins",
    ]


def test_choice_of_a_snapshot(repo: MiniRepo, target: Path) -> None:
    ids = [repo.backup([file(name)], tags=tags) for name, tags in (("old", []), ("new", ["x"]), ("bad", ["rejected"]))]
    assert run(repo, "--target", target).code == 0
    assert [path.name for path in target.iterdir()] == ["new"]
    for number, name in enumerate(("old", "new", "bad")):
        assert run(repo, "--target", target / "more" / name, ids[number][:12]).code == 0
        assert (target / "more" / name / name).exists()
    assert run(repo, "--check", "no-such-id").code == 2
    assert "3 snapshots" in run(repo, "--check", "").err


def test_plugins_by_path_and_name(repo: MiniRepo, target: Path) -> None:
    entries = [
        directory("p"), file("p-x"), directory("p/one", mode=0o700), file("p/one/f", b"1"), directory("p/one/sub"),
        directory("p/two"), file("p/two/f", b"2"), file("p0"),
    ]  # fmt: skip
    entries.sort(key=lambda entry: entry[0]["path"].replace("/", "\0"))
    repo.backup(entries, {b"p/one": "same", b"p/one/sub": "sub", b"p/two": "same"})
    assert f"tree hash equal: {tree_hash(entries, b'p/one')}" in run(repo, "--target", target, "--plugin", "p/one").out
    assert sorted(path.name for path in target.iterdir()) == ["f", "sub"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    assert run(repo, "--check", "--plugin", "sub").code == 0
    ambiguous = run(repo, "--target", target / "x", "--plugin", "same")
    assert (ambiguous.code, (target / "x").exists()) == (2, False)
    assert "p/one\n  p/two" in ambiguous.err
    assert run(repo, "--check", "--plugin", "nobody").code == 2


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        (["*.md"], {"a.md", "d/b.md"}),
        (["d"], {"d/b.md", "d/c", "d/e/f"}),
        (["/a.md", "d/e"], {"a.md", "d/e/f"}),
        (["**/f"], {"d/e/f"}),
        (["d/*"], {"d/b.md", "d/c", "d/e/f"}),
        (["*/f"], None),
    ],
)
def test_include(repo: MiniRepo, target: Path, globs: list[str], expected: set[str] | None) -> None:
    entries = [
        file("a.md"),
        directory("d"),
        file("d/b.md"),
        file("d/c"),
        directory("d/e"),
        file("d/e/f"),
        directory("x"),
    ]
    repo.backup(entries)
    result = run(repo, "--target", target, *(word for glob in globs for word in ("--include", glob)))
    assert result.code == (0 if expected else 2)
    assert right_files(target, entries) == (expected or set())
    assert not (target / "x").exists()


def test_a_target_that_holds_something_is_refused(repo: MiniRepo, target: Path) -> None:
    repo.backup([file("f", b"new")])
    target.mkdir()
    (target / "f").write_bytes(b"old")
    assert run(repo, "--target", target).code == 2
    assert (target / "f").read_bytes() == b"old"


def test_check_finds_damage_and_writes_nothing(repo: MiniRepo, tmp_path: Path) -> None:
    repo.backup(numbered(300))
    before = sorted(tmp_path.rglob("*"))
    assert "tree hash equal" in run(repo, "--check").out
    flip(packs(repo)[0], 3000)
    result = run(repo, "--check")
    assert (result.code, bool(result.lost)) == (3, True)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "recover.py"] == before


# -- damage


@pytest.mark.parametrize("decoder", ["zstandard", "command"])
def test_a_damaged_frame_loses_only_what_is_behind_the_damage(repo: MiniRepo, target: Path, decoder: str) -> None:
    if decoder == "command" and not shutil.which("zstd"):
        pytest.skip("there is no zstd command")
    entries = [file(f"f{i:03}", os.urandom(1000)) for i in range(60)]  # incompressible: the flip hits one blob only
    repo.backup(entries)
    flip(packs(repo)[0], 5000)
    result = run(repo, "--target", target, decoder=decoder)
    names = {record["path"] for record, _ in entries}
    assert result.code == 3
    assert len(result.lost) == 1
    assert right_files(target, entries) == names - set(result.lost)


@pytest.mark.parametrize("decoder", ["zstandard", "command"])
def test_a_frame_that_breaks_off_is_salvaged_up_to_there(repo: MiniRepo, target: Path, decoder: str) -> None:
    if decoder == "command" and not shutil.which("zstd"):
        pytest.skip("there is no zstd command")
    repo.frame = 1 << 20
    entries = [file(f"f{i:03}", os.urandom(1000)) for i in range(600)]
    repo.backup(entries)
    pack = packs(repo)[0]
    end_of_second_block = 6 + 2 * (3 + (128 << 10))  # blocks of 128 KiB, stored as they are
    data = bytearray(pack.read_bytes())
    data[end_of_second_block + 2 : end_of_second_block + 9] = b"\xff" * 7
    pack.write_bytes(data)
    result = run(repo, "--target", target, decoder=decoder)
    assert result.code == 3
    assert sorted(result.lost) == [f"f{i:03}" for i in range(262, 600)]
    assert len(right_files(target, entries)) == 262


TAILS = {"footer": -3, "seek table": -20, "seek sizes": -29, "blob table": -60, "blob table header": "table"}


@pytest.mark.parametrize("spot", TAILS)
@pytest.mark.parametrize("clue", ["index", "hints"])
def test_a_damaged_table_loses_nothing(repo: MiniRepo, target: Path, spot: str, clue: str) -> None:
    entries = numbered(300)
    repo.backup(entries)
    for pack in packs(repo):
        at = TAILS[spot]
        flip(pack, at if isinstance(at, int) else pack.read_bytes().rindex(b"\x5d\x2a\x4d\x18"))
    if clue == "hints":
        shutil.rmtree(repo.root / "index")
    result = run(repo, "--target", target)
    assert (result.code, result.lost) == (0, [])
    assert len(right_files(target, entries)) == 300


def test_without_table_and_hints_the_index_is_enough(repo: MiniRepo, target: Path) -> None:
    repo.hints = False
    repo.backup(numbered(300))
    for pack in packs(repo):
        flip(pack, -3)
    assert run(repo, "--target", target).code == 0
    shutil.rmtree(repo.root / "index")
    result = run(repo, "--check")
    assert (result.code, "checked 0 files" in result.out) == (3, True)


def test_a_truncated_pack_gives_what_is_there(repo: MiniRepo, target: Path) -> None:
    entries = [file(f"f{i:03}", os.urandom(1000)) for i in range(60)]
    repo.backup(entries)
    os.truncate(packs(repo)[0], 20_500)
    shutil.rmtree(repo.root / "index")
    result = run(repo, "--target", target)
    assert result.code == 3
    assert right_files(target, entries) >= {f"f{i:03}" for i in range(16)}
    assert len(right_files(target, entries)) + len(result.lost) == 60


def test_a_lost_segment_is_reported_with_its_range(repo: MiniRepo, target: Path) -> None:
    entries = numbered(1500)
    repo.spoil = lambda kind, data: kind == 1 and b'"d07/f50"' in data
    repo.backup(entries, {b"d07": "seven"})
    result = run(repo, "--target", target)
    assert result.code == 3
    assert "everything but what is lost is right" in result.out
    match = re.fullmatch(r"everything from (\S+) to before (\S+)", result.lost[0])
    assert match
    first, end = (word.replace("/", "\0") for word in match.groups())
    names = {record["path"] for record, _ in entries if record["type"] == "f"}
    lost = {name for name in names if first <= name.replace("/", "\0") < end}
    assert "d07/f50" in lost
    assert right_files(target, entries) == names - lost
    assert run(repo, "--check", "--plugin", "seven").code == 3
    assert run(repo, "--check", "--include", "d03").code == 3  # the lost stretch could hold a name that matches


def test_directories_whose_entries_are_lost_are_made_up(repo: MiniRepo, target: Path) -> None:
    entries = [directory("d"), *(file(f"d/{i:03}") for i in range(200))]
    repo.spoil = lambda kind, data: kind == 1 and data.startswith(b'{"path":"d"')
    repo.backup(entries)
    result = run(repo, "--target", target)
    assert result.code == 3
    assert result.lost[0].startswith("everything from d to before d/")
    assert right_files(target, entries)
    assert "everything but what is lost is right" in result.out


@pytest.mark.parametrize("kind", [1, 2])
def test_a_lost_list_loses_what_is_below_it(repo: MiniRepo, target: Path, kind: int) -> None:
    """Of the manifest (its only lists are above segments), of a file's blobs, and of the plugin table."""
    entries = [*numbered(1500), file("long", os.urandom(99 << 12))]
    repo.spoil = lambda found, data: found == 2 and (data[:1] == b"{") == (kind == 1)
    repo.backup(entries)
    result = run(repo, "--target", target)
    assert result.code == (20 if kind == 1 else 3)
    assert len(right_files(target, entries)) == (0 if kind == 1 else 1500)


def test_a_damaged_plugin_table_does_not_hide_a_path(repo: MiniRepo, target: Path) -> None:
    repo.spoil = lambda kind, data: kind == 1 and b"tree_sha256" in data
    repo.backup(numbered(150), {b"d01": "one"})
    assert run(repo, "--target", target, "--plugin", "d01").code == 3
    assert len(list(target.iterdir())) == 50
    assert run(repo, "--check", "--plugin", "one").code == 20


def test_the_same_blob_in_another_pack_is_used(repo: MiniRepo, target: Path) -> None:
    repo.spoil = lambda kind, data: kind == 0
    repo.backup([file("f")])
    repo.spoil = lambda kind, data: False
    repo.known.clear()
    repo.backup([file("f"), file("g")])
    assert run(repo, "--target", target).code == 0


def test_a_damaged_snapshot_gives_way_to_an_older_one(repo: MiniRepo, target: Path) -> None:
    repo.backup([file("old")])
    newer = repo.backup([file("new")])
    path = next(repo.root.glob(f"snapshots/*{newer}*"))
    flip(path, 20)
    result = run(repo, "--target", target)
    assert (result.code, "A NEWER SNAPSHOT IS DAMAGED" in result.out) == (3, True)
    assert (target / "old").exists()
    assert run(repo, "--check", newer[:8]).code == 20
    listed = run(repo, "--list")
    assert (listed.code, listed.out.count("UNREADABLE")) == (3, 1)


def test_settings_are_not_needed(repo: MiniRepo, tmp_path: Path) -> None:
    repo.backup([file("f")])
    flip(repo.root / "drkit.json", 20)
    assert run(repo, "--check").code == 0
    (repo.root / "drkit-copy.json").unlink()
    result = run(repo, "--check")
    assert (result.code, "drkit-copy.json is missing or damaged" in result.err) == (0, True)
    result = run(repo, "--list", "--repo", tmp_path)
    assert (result.code, "no drkit repository" in result.err) == (10, True)


def test_without_snapshots(repo: MiniRepo) -> None:
    assert run(repo, "--check").code == 2
    repo.backup([file("f")])
    shutil.rmtree(repo.root / "snapshots")
    assert run(repo, "--check").code == 20


@pytest.mark.parametrize(
    ("version", "word"),
    [
        ({"major": 2, "minor": 0, "requires": []}, "newer"),
        ({"major": 1, "minor": 0, "requires": ["quantum"]}, "newer"),
        ({"major": 1, "minor": 0, "requires": ["encryption"]}, "encrypted"),
    ],
)
def test_what_it_does_not_know_is_refused(repo: MiniRepo, version: Any, word: str) -> None:
    repo.backup([file("f")], format=version)
    result = run(repo, "--check")
    assert (result.code, word in result.err) == (20, True)
    repo.backup([file("f")], scope="partial")
    assert run(repo, "--check").code == 20
    repo.settings(format=version)
    result = run(repo, "--list")
    assert (result.code, word in result.err) == (20, True)


def test_a_greater_minor_version_is_read(repo: MiniRepo) -> None:
    repo.settings(format={"major": 1, "minor": 9, "requires": []}, unknown="ignored")
    repo.backup([file("f", unknown=[1])], format={"major": 1, "minor": 9, "requires": []})
    assert run(repo, "--check").code == 0


def test_encrypted_packs_are_named_as_the_reason(repo: MiniRepo) -> None:
    repo.backup([file("f")])
    packs(repo)[0].rename(packs(repo)[0].with_suffix(".enc"))
    result = run(repo, "--check")
    assert (result.code, "encrypted" in result.err) == (20, True)


# -- hostile repositories


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
        recover.frame_layout(b"\x28\xb5\x2f\xfd" + header, 1 << 20)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spots=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4), cut=st.booleans())
def test_whatever_is_damaged_nothing_wrong_is_restored(
    tmp_path_factory: pytest.TempPathFactory, spots: list[tuple[int, int]], cut: bool
) -> None:
    """Bytes anywhere in the repository are overwritten, or an object is cut short."""
    root = tmp_path_factory.mktemp("any")
    repo = MiniRepo(root / "repo", frame=1 << 13, chunk=1 << 11, pack_size=1 << 14)
    entries = [*numbered(120), file("long", b"0123456789abcdef" * (1 << 13))]
    repo.backup(entries, {b"d00": "zero"})
    objects = sorted(path for path in repo.root.rglob("*") if path.is_file())
    for where, value in spots:
        path = objects[where % len(objects)]
        data = bytearray(path.read_bytes())
        at = where // len(objects) % len(data) if data else 0
        path.write_bytes(data[:at] if cut else data[:at] + bytes([value]) + data[at + 1 :])
    code = recover.main(["--repo", str(repo.root), "--target", str(root / "target")])
    assert code in (0, 3, 10, 20)
    found = right_files(root / "target", entries) if code in (0, 3) else set()
    assert len(found) == 121 if code == 0 else len(found) < 121 or code == 3
    shutil.rmtree(root)


# -- the program and its page


def test_the_program_is_plain_python_3_8() -> None:
    tree = ast.parse(recovery.files()["recover.py"], feature_version=(3, 8))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module).partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert modules <= sys.stdlib_module_names


def test_the_page_tells_the_truth(repo: MiniRepo, target: Path) -> None:
    if not shutil.which("zstd"):
        pytest.skip("there is no zstd command")
    page = recovery.files()["RECOVER.md"].decode()
    entries = [directory("docs"), file("docs/a.md", b"hello world\n")]
    snapshot = repo.backup(entries, {b"docs": "NAME"})
    commands = re.findall(r"^python3 recover.py (.*?) *(?:#.*)?$", page, re.MULTILINE)
    assert len(commands) == 6
    for number, command in enumerate(commands):
        words = command.replace("/new/empty/dir", str(target / str(number))).replace("3f9a", snapshot[:8])
        assert run(repo, *words.replace("'", "").split()).code == 0
    for line, expected in (("cd packs", ""), ("zstd -dc", ""), ("grep -a -o", sha(b"hello world\n").hex())):
        command = re.search(rf"^{line}.*$", page.replace("`", "\n"), re.MULTILINE)
        assert command
        done = subprocess.run(["sh", "-ec", command[0]], cwd=repo.root, capture_output=True, text=True, check=True)
        assert expected in done.stdout
        assert bool(expected) == bool(done.stdout)
