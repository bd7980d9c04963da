"""recover.py on damaged repositories: what can be had comes back, and nothing wrong does."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drkit.recovery import recover
from tests.support.mini_repo import MiniRepo
from tests.support.recovering import directory, file, flip, numbered, packs, right_files, run


@pytest.fixture
def repo(tmp_path: Path) -> MiniRepo:
    return MiniRepo(tmp_path / "repo", frame=1 << 14, chunk=1 << 12, pack_size=1 << 15)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


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
def test_a_damaged_table_loses_nothing(repo: MiniRepo, target: Path, spot: str) -> None:
    entries = numbered(300)
    repo.backup(entries)
    for pack in packs(repo):
        at = TAILS[spot]
        flip(pack, at if isinstance(at, int) else pack.read_bytes().rindex(b"\x5d\x2a\x4d\x18"))
    result = run(repo, "--target", target)
    assert (result.code, result.lost) == (0, [])
    assert len(right_files(target, entries)) == 300


def test_a_pack_is_lost_with_its_table_and_the_index(repo: MiniRepo, target: Path) -> None:
    entries = [file(f"f{i:03}", os.urandom(1000)) for i in range(90)]
    repo.backup(entries)
    flip(packs(repo)[0], -3)
    shutil.rmtree(repo.root / "index")
    result = run(repo, "--target", target)
    assert (result.code, "everything but what is lost is right" in result.out) == (3, True)
    found = right_files(target, entries)
    assert found
    assert found == {record["path"] for record, _ in entries} - set(result.lost)
    for pack in packs(repo)[1:]:
        flip(pack, -3)
    assert run(repo, "--check").code == 20


def test_a_truncated_pack_gives_what_is_there(repo: MiniRepo, target: Path) -> None:
    entries = [file(f"f{i:03}", os.urandom(1000)) for i in range(60)]
    repo.backup(entries)
    os.truncate(packs(repo)[0], 20_500)
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
        ({"major": 1, "minor": 0, "requires": ["encryption"]}, "encryption"),
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
