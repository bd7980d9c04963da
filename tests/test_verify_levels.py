"""Every kind of damage is found at its level, and not below; what is lost is named, and the named repair works."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drkit.model import Finding, Kind, Level, PackId
from drkit.progress import NullProgress
from drkit.repo.index import read_pack_table, stored_packs
from drkit.repo.names import pack_name
from drkit.store import LocalStore
from drkit.verify import verify
from tests.support.backups import SMALL_CHUNKS, Bench
from tests.support.faults import FaultyStore
from tests.support.verifying import ALL, alter, check, codes, fill, flip, found_from, frames_of, largest, lost, named


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path, chunker=SMALL_CHUNKS)
    fill(bench)
    return bench


# Nothing is wrong


def test_a_sound_repository(bench: Bench) -> None:
    for level in ALL:
        report = check(bench, level, every_pack=True)
        assert report.findings == ()
        assert report.level == level.name.lower()
        assert report.snapshots == tuple(ref.id for ref in bench.open().snapshots())
        sizes = stored_packs(bench.store)
        expected = (len(sizes), sum(sizes.values())) if level >= Level.PACKS else (0, 0)
        assert (report.packs_read, report.bytes_read) == expected


def test_one_snapshot_needs_only_its_own_packs(bench: Bench) -> None:
    repository = bench.open()
    first = repository.snapshots()[:1]
    report = verify(repository, first, level=Level.PACKS, progress=NullProgress())
    assert (report.packs_read, report.snapshots) == (1, (first[0].id,))


def test_no_snapshot_is_no_damage(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert check(bench, Level.RESTORE, every_pack=True).findings == ()


@pytest.mark.parametrize("level", ALL)
def test_verify_writes_nothing(bench: Bench, level: Level) -> None:
    alter(bench, pack_name(largest(bench)), flip(100))
    store = FaultyStore(bench.store)
    before = {info.name: (info.size, info.modified) for info in bench.store.list("")}
    check(bench.beside(store, bench.home), level, every_pack=True)
    assert (store.calls["put"], store.calls["delete"]) == (0, 0)
    assert {info.name: (info.size, info.modified) for info in bench.store.list("")} == before


# Packs


def test_a_missing_pack(bench: Bench) -> None:
    name = pack_name(largest(bench))
    bench.store.delete(name)
    assert "pack-missing" in codes(found_from(bench, Level.EXISTS, "segment-lost"))
    for level in ALL:
        assert [finding.object for finding in check(bench, level).findings if finding.code == "pack-missing"] == [name]


def test_a_missing_pack_with_content_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trees are whole, so that every path can be named."""
    in_small_packs(monkeypatch)
    bench.write("more/large", os.urandom(90_000))
    bench.take()
    pack = next(pack for pack in stored_packs(bench.store) if not any(table_kinds(bench, pack)))
    bench.store.delete(pack_name(pack))
    report = found_from(bench, Level.EXISTS, "file-lost", latest=True)
    newest = bench.open().snapshots()[-1].name
    assert named(report) == {path for path in lost(bench) if path.startswith(newest)}
    assert named(check(bench, Level.EXISTS)) == lost(bench)


def in_small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("packer", "treewriter"):
        monkeypatch.setattr(f"drkit.repo.{module}.PACK_TARGET", 20_000)
    monkeypatch.setattr("drkit.repo.packer.FRAME_TARGET", 5_000)
    monkeypatch.setattr("drkit.repo.treewriter.SMALL_BACKUP", 1)


def table_kinds(bench: Bench, pack: PackId) -> bytearray:
    return read_pack_table(bench.store, pack, bench.store.stat(pack_name(pack)).size).kinds


@pytest.mark.parametrize("cut", [1, 1000, -1])
def test_a_pack_of_another_length(bench: Bench, cut: int) -> None:
    name = pack_name(largest(bench))
    alter(bench, name, lambda data: data[:-cut] if cut > 0 else data + b"x")
    report = check(bench, Level.EXISTS)
    assert [finding.object for finding in report.findings if finding.code == "pack-size"] == [name]
    assert named(report) <= lost(bench)
    assert named(check(bench, Level.CONTENT)) == lost(bench)


@pytest.mark.parametrize("frame", [0, -1])
def test_a_flipped_bit_in_content(bench: Bench, frame: int) -> None:
    pack = largest(bench)
    start, length = frames_of(bench, pack, Kind.DATA)[frame]
    alter(bench, pack_name(pack), flip(start + length // 2))
    report = found_from(bench, Level.PACKS, "pack-damaged")
    assert lost(bench)
    assert named(report) == lost(bench) == named(check(bench, Level.CONTENT))


def test_flipped_metadata_is_found_by_walking(bench: Bench) -> None:
    pack = largest(bench)
    start, length = frames_of(bench, pack, Kind.SEGMENT)[0]
    alter(bench, pack_name(pack), flip(start + length // 2))
    found_from(bench, Level.EXISTS, "segment-lost")


@pytest.mark.parametrize("at", [-1, -20, -200])
def test_flipped_tables_lose_nothing(bench: Bench, at: int) -> None:
    alter(bench, pack_name(largest(bench)), flip(at))
    report = found_from(bench, Level.PACKS, "pack-damaged")
    assert (named(report), lost(bench)) == (set(), set())


def test_a_damaged_pack_that_no_snapshot_needs(bench: Bench) -> None:
    """Only --all reads it."""
    newest = bench.open().snapshots()[-1]
    bench.store.delete(newest.name)
    sizes = stored_packs(bench.store)
    alter(bench, pack_name(min(sizes, key=lambda pack: sizes[pack])), flip(50))
    for level in ALL:
        assert check(bench, level).findings == ()
    assert check(bench, Level.EXISTS, every_pack=True).findings == ()
    for level in ALL[1:]:
        assert "pack-damaged" in codes(check(bench, level, every_pack=True))


def test_what_is_no_pack_is_told_of(bench: Bench) -> None:
    bench.store.put("packs/ab/readme.txt", b"what is this?")
    (finding,) = check(bench, Level.PACKS, every_pack=True).findings
    assert (finding.code, finding.object) == ("stray", "packs/ab/readme.txt")


# Index and snapshots


@pytest.mark.parametrize("change", [flip(30), flip(-1), lambda data: data[:-1], lambda data: b""])
def test_a_damaged_index_object(bench: Bench, change: Callable[[bytes], bytes]) -> None:
    name = next(bench.store.list("index/")).name
    alter(bench, name, change)
    (finding,) = found_from(bench, Level.EXISTS, "index-damaged").findings
    assert finding.object == name
    assert lost(bench) == set()
    bench.write("one/1", b"changed")
    bench.take()
    assert check(bench, Level.CONTENT).findings == ()


def test_a_missing_index_is_no_loss(bench: Bench) -> None:
    for info in list(bench.store.list("index/")):
        bench.store.delete(info.name)
    for level in ALL:
        assert check(bench, level).findings == ()


@pytest.mark.parametrize("change", [flip(3), lambda data: data[:-1], lambda data: b"{}", lambda data: b""])
def test_a_damaged_snapshot(bench: Bench, change: Callable[[bytes], bytes]) -> None:
    ref = bench.open().snapshots()[0]
    alter(bench, ref.name, change)
    for finding in found_from(bench, Level.EXISTS, "snapshot-damaged").findings:
        assert finding.object == ref.name
    assert check(bench, Level.RESTORE, latest=True).findings == ()


def test_settings_of_which_one_copy_is_damaged(bench: Bench) -> None:
    alter(bench, "drkit.json", flip(20))
    (finding,) = found_from(bench, Level.EXISTS, "settings-damaged").findings
    assert finding.object == "drkit.json"


# Repairs do what they say


def apply(bench: Bench, finding: Finding) -> None:
    """Follow a finding's advice, as far as a shell and a backup can."""
    if "move it out of the repository" in finding.repair:
        bench.home.joinpath("aside").write_bytes(bench.store.get(finding.object))
        bench.store.delete(finding.object)
    if "ack up again" in finding.repair:
        bench.take()
    if "put it back" in finding.repair:
        bench.store.put(finding.object, bench.home.joinpath("aside").read_bytes())


def test_the_repair_of_a_damaged_pack(bench: Bench) -> None:
    """Files that the source still has come back in all snapshots, and nothing else is lost by it."""
    bench.write("gone", os.urandom(4000))
    bench.take()
    (bench.root / "gone").unlink()
    pack = largest(bench)
    start, length = frames_of(bench, pack, Kind.DATA)[0]
    alter(bench, pack_name(pack), flip(start + length // 2))
    before = lost(bench)
    assert before
    finding = next(f for f in check(bench, Level.PACKS).findings if f.code == "pack-damaged")
    apply(bench, finding)
    changed_since = {name for name in before if name.endswith(" two/7")}
    assert lost(bench) <= changed_since
    assert check(bench, Level.RESTORE, latest=True).findings == () or codes(check(bench, Level.RESTORE)) == {
        "pack-damaged"
    }


@pytest.mark.parametrize("cut", [True, False])
def test_the_repair_of_a_missing_or_short_pack(bench: Bench, cut: bool) -> None:
    name = pack_name(largest(bench))
    if cut:
        alter(bench, name, lambda data: data[:-1])
    else:
        bench.store.delete(name)
    finding = next(f for f in check(bench, Level.EXISTS).findings if f.code in ("pack-missing", "pack-size"))
    apply(bench, finding)
    repository = bench.open()
    newest = repository.snapshots()[-1:]
    assert named(verify(repository, newest, level=Level.CONTENT, progress=NullProgress())) == set()


def test_the_repair_of_settings(bench: Bench) -> None:
    alter(bench, "drkit.json", flip(20))
    (finding,) = check(bench, Level.EXISTS).findings
    assert "copy the intact one" in finding.repair
    bench.store.put("drkit.json", bench.store.get("drkit-copy.json"), overwrite=True)
    assert check(bench, Level.EXISTS).findings == ()


# A second process reads the packs


def on_disk(bench: Bench, home: Path) -> Bench:
    """The same repository in a directory, which another process can read."""
    store = LocalStore(os.fsencode(home / "copy"))
    store.prepare()
    for info in bench.store.list(""):
        store.put(info.name, bench.store.get(info.name))
    return bench.beside(store, bench.home)


@pytest.mark.parametrize("damage", [None, flip(100), flip(-40), lambda data: data[:-7]])
def test_a_second_process_finds_the_same(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes] | None
) -> None:
    if damage is not None:
        alter(bench, pack_name(largest(bench)), damage)
    local = on_disk(bench, tmp_path)
    expected = check(local, Level.CONTENT, every_pack=True)
    started = spy_on_processes(monkeypatch)
    report = check(local, Level.CONTENT, every_pack=True)
    assert set(report.findings) == set(expected.findings)
    assert (report.packs_read, report.bytes_read) == (expected.packs_read, expected.bytes_read)
    assert [process.poll() is not None for process in started] == [True]


@pytest.mark.parametrize("program", ["", "import sys; sys.stdin.readline()", "raise SystemExit(1) #{path}{url}{level}"])
def test_packs_that_a_second_process_does_not_read_are_read_all_the_same(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    alter(bench, pack_name(largest(bench)), flip(100))
    local = on_disk(bench, tmp_path)
    expected = check(local, Level.CONTENT, every_pack=True)
    monkeypatch.setattr("drkit.verify.apart._PROGRAM", program)
    started = spy_on_processes(monkeypatch)
    assert set(check(local, Level.CONTENT, every_pack=True).findings) == set(expected.findings)
    assert len(started) == 1


def test_without_a_second_process(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = on_disk(bench, tmp_path)
    monkeypatch.setattr(sys.modules["drkit.verify.verify"], "_APART", 0)
    monkeypatch.setattr("sys.executable", str(tmp_path / "no-python"))
    assert check(local, Level.CONTENT, every_pack=True).findings == ()


def spy_on_processes(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Let a second process be started for any number of bytes; return those that are."""
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(sys.modules["drkit.verify.verify"], "_APART", 0)
    monkeypatch.setattr(subprocess, "Popen", start)
    return started
