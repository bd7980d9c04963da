"""Every kind of damage is found at its level, and not below; what is lost is named, and the named repair works."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import drkit.restore
from drkit.backup.files import EntryReader, _Content
from drkit.backup.plugins import PluginTracker
from drkit.errors import NoSpace, UsageError
from drkit.format import snapshot as snapshot_format
from drkit.model import Entry, Finding, Kind, Level, PackId, PluginRow
from drkit.progress import NullProgress
from drkit.repo import BlobLost, Repository
from drkit.repo.index import read_pack_table, stored_packs
from drkit.repo.names import pack_name
from drkit.store import LocalStore
from drkit.verify import VerifyReport, verify
from tests.support.backups import MARKER, SMALL_CHUNKS, Bench
from tests.support.faults import FaultyStore
from tests.support.mini_repo import MiniRepo, scan

ALL = (Level.EXISTS, Level.PACKS, Level.CONTENT, Level.RESTORE)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Two snapshots, two packs, two plugins, a file in several chunks and one with a blob list."""
    bench = Bench(tmp_path, chunker=SMALL_CHUNKS)
    for plugin in ("one", "two"):
        bench.write(f"{plugin}/{MARKER}", json.dumps({"name": plugin}).encode())
        for number in range(20):
            bench.write(f"{plugin}/{number}", os.urandom(200))
    bench.write("chunks", os.urandom(5000))
    bench.write("list", os.urandom(60_000))
    bench.take()
    bench.write("later/new", os.urandom(300))
    bench.write("two/7", b"changed")
    bench.take()
    return bench


def check(bench: Bench, level: Level, *, latest: bool = False, **options: object) -> VerifyReport:
    repository = bench.open()
    refs = repository.snapshots()[-1:] if latest else repository.snapshots()
    scratch = bench.home / "scratch"
    scratch.mkdir(exist_ok=True)
    report = verify(
        repository,
        refs,
        level=level,
        scratch=os.fsencode(scratch),
        progress=NullProgress(),
        **options,  # type: ignore[arg-type]
    )
    assert list(scratch.iterdir()) == []
    assert report.ok == (not report.findings)
    assert all(finding.code and finding.object and finding.message and finding.repair for finding in report.findings)
    assert len(set(report.findings)) == len(report.findings)
    return report


def codes(report: VerifyReport) -> set[str]:
    return {finding.code for finding in report.findings}


def found_from(bench: Bench, level: Level, code: str, *, latest: bool = False) -> VerifyReport:
    """The finding comes at this level and above, and nothing comes below."""
    for each in ALL:
        report = check(bench, each, latest=latest)
        if each < level:
            assert report.findings == (), each
        else:
            assert code in codes(report), (each, report.findings)
    return check(bench, level, latest=latest)


def lost(bench: Bench) -> set[str]:
    """Snapshot and path of every file that cannot be read, found by reading them all."""
    repository = bench.open()
    reader = repository.reader()
    names = set()
    for ref in repository.snapshots():
        for segment in repository.segments(repository.load(ref)):
            for entry in segment.entries:
                try:
                    list(reader.content(entry, segment.places))
                except BlobLost:
                    names.add(f"{ref.name} {entry.path}")
    return names


def named(report: VerifyReport) -> set[str]:
    return {finding.object for finding in report.findings if finding.code == "file-lost"}


def alter(bench: Bench, name: str, change: Callable[[bytes], bytes]) -> None:
    bench.store.put(name, change(bench.store.get(name)), overwrite=True)


def flip(at: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[at] ^= 0x10
        return bytes(changed)

    return change


def frames_of(bench: Bench, pack: PackId, kind: Kind) -> list[tuple[int, int]]:
    """Offset and length of the frames of a pack that hold blobs of a kind."""
    table = read_pack_table(bench.store, pack, bench.store.stat(pack_name(pack)).size)
    starts = [(at, length) for at, length, _ in table.offsets()]
    return [starts[frame] for frame in sorted({row[0] for row in table.rows() if row[1] == kind})]


def largest(bench: Bench) -> PackId:
    sizes = stored_packs(bench.store)
    return max(sizes, key=lambda pack: sizes[pack])


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


# What hashes to its name and is wrong all the same


def forge(bench: Bench, **changes: object) -> None:
    """Replace the newest snapshot by one that says something else, under its right name."""
    repository = bench.open()
    ref = repository.snapshots()[-1]
    name, data = snapshot_format.encode(msgspec.structs.replace(repository.load(ref), **changes))
    bench.store.delete(ref.name)
    bench.store.put(name, data)


def test_a_wrong_tree_hash(bench: Bench) -> None:
    forge(bench, tree_sha256="0" * 64)
    assert codes(found_from(bench, Level.EXISTS, "tree-hash")) == {"tree-hash"}


@pytest.mark.parametrize("key", ["files", "dirs", "others", "plugins", "bytes"])
def test_wrong_counts(bench: Bench, key: str) -> None:
    forge(bench, **{key: 1000})
    (finding,) = check(bench, Level.EXISTS).findings
    assert finding.code == "counts"


@pytest.mark.parametrize("change", [{"tree_sha256": "0" * 64}, {"files": 7}, {"bytes": 7}])
def test_a_wrong_row_of_a_plugin(bench: Bench, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]) -> None:
    closes = PluginTracker.closes

    def wrong(tracker: PluginTracker) -> PluginRow:
        row = closes(tracker)
        return msgspec.structs.replace(row, **change) if row.name == "one" else row

    monkeypatch.setattr(PluginTracker, "closes", wrong)
    bench.take()
    report = found_from(bench, Level.EXISTS, "plugin-hash" if "tree_sha256" in change else "counts", latest=True)
    (finding,) = report.findings
    assert finding.object.endswith(" one")


def test_a_plugin_that_is_not_there(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    closes = PluginTracker.closes
    monkeypatch.setattr(
        PluginTracker, "closes", lambda tracker: msgspec.structs.replace(closes(tracker), path="chunks")
    )
    monkeypatch.setattr("drkit.backup.scan.sort_key", lambda raw: raw)
    (bench.root / "two" / MARKER).unlink()
    bench.take()
    (finding,) = found_from(bench, Level.EXISTS, "plugin-missing", latest=True).findings
    assert finding.object.endswith(" chunks")


@pytest.mark.parametrize("path", ["chunks", "list"])
@pytest.mark.parametrize("wrong", ["order", "missing", "hash"])
def test_a_file_put_together_wrongly(bench: Bench, monkeypatch: pytest.MonkeyPatch, path: str, wrong: str) -> None:
    """Every blob is what it should be; only the whole shows it."""
    original = EntryReader._entry

    def entry(
        reader: EntryReader,
        raw: bytes,
        status: os.stat_result,
        content: _Content,
        xattrs: dict[str, str] | None,
    ) -> Entry:
        if raw == path.encode():
            blobs = content.blobs
            blobs = blobs[::-1] if wrong == "order" else blobs[:-1] if wrong == "missing" else blobs
            sha256 = "0" * 64 if wrong == "hash" else content.sha256
            content = msgspec.structs.replace(content, blobs=blobs, sha256=sha256)
        return original(reader, raw, status, content, xattrs)

    monkeypatch.setattr(EntryReader, "_entry", entry)
    os.utime(bench.root / path)
    bench.take()
    report = found_from(bench, Level.CONTENT, "file-hash", latest=True)
    assert path in next(finding for finding in report.findings if finding.code == "file-hash").object


def test_a_file_whose_only_blob_has_another_size(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    original = EntryReader.entry

    def entry(reader: EntryReader, seen: object) -> Entry | None:
        made = original(reader, seen)  # type: ignore[arg-type]
        return msgspec.structs.replace(made, size=made.size + 1) if made and made.path == "one/3" else made

    monkeypatch.setattr(EntryReader, "entry", entry)
    os.utime(bench.root / "one/3")
    bench.take()
    report = found_from(bench, Level.EXISTS, "file-size", latest=True)
    assert next(iter(report.findings)).object.endswith(" one/3")


def test_a_pack_with_the_right_name_and_wrong_blobs(tmp_path: Path) -> None:
    """Made so, not damaged: its bytes hash to its name, but a blob in it does not hash to its id."""
    bench = Bench(tmp_path)
    bench.write("good", b"good")
    bench.write("bad", b"bad")
    made = MiniRepo(tmp_path / "mini", spoil=lambda kind, data: data == b"bad")
    made.backup(scan(bench.root), bytes=7)
    bench.store = LocalStore(os.fsencode(made.root))
    report = found_from(bench, Level.CONTENT, "blob-damaged")
    assert {name.rpartition(" ")[2] for name in named(report)} == {"bad"}


# Subsets


def test_a_subset_reads_its_part_and_all_parts_together_everything(bench: Bench) -> None:
    for number in range(8):
        bench.write("more", os.urandom(100 + number))
        bench.take()
    sizes = stored_packs(bench.store)
    bad = largest(bench)
    start, length = frames_of(bench, bad, Kind.DATA)[0]
    alter(bench, pack_name(bad), flip(start + length // 2))
    for parts in (1, 3, 4):
        reports = [check(bench, Level.PACKS, every_pack=True, subset=f"{part}/{parts}") for part in range(1, parts + 1)]
        assert sum(report.packs_read for report in reports) == len(sizes)
        assert sum(report.bytes_read for report in reports) == sum(sizes.values())
        assert [pack_name(bad) in {f.object for f in report.findings} for report in reports].count(True) == 1


def test_a_subset_bounds_what_is_read_for_files_in_chunks_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them is put together in one of the parts."""
    found: list[str] = []
    original = EntryReader._entry

    def entry(reader: EntryReader, *args: object) -> Entry:
        made = original(reader, *args)  # type: ignore[arg-type]
        return msgspec.structs.replace(made, blobs=made.blobs[::-1]) if made.path.startswith("many") else made

    monkeypatch.setattr(EntryReader, "_entry", entry)
    for number in range(12):
        bench.write(f"many/{number}", os.urandom(5000))
    bench.take()
    for part in (1, 2, 3):
        wrong = [f.object for f in check(bench, Level.CONTENT, latest=True, subset=f"{part}/3").findings]
        assert len(wrong) < 12
        found += wrong
    assert len(found) == len(set(found)) == 12


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "a/b", "0%", "101%", "-1%", "%", "1/3/5", "50 %"])
def test_what_is_no_subset(bench: Bench, text: str) -> None:
    with pytest.raises(UsageError, match="is no subset"):
        check(bench, Level.PACKS, subset=text)


def test_a_share(bench: Bench) -> None:
    assert check(bench, Level.PACKS, subset="100%").packs_read == 2
    assert {check(bench, Level.PACKS, subset="50%").packs_read for _ in range(60)} == {0, 1, 2}


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


# Restoring to scratch


def test_restoring_finds_what_reading_does_not(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not keep what is written."""
    monkeypatch.setattr(drkit.restore, "restore_tree", lambda *args, **kwargs: broken())
    assert codes(check(bench, Level.RESTORE)) == {"restore-failed"}
    assert check(bench, Level.CONTENT).findings == ()


def test_a_full_scratch_is_no_damage(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise NoSpace("scratch needs 5 bytes, and its file system has 0 free")

    monkeypatch.setattr(drkit.restore, "restore_tree", full)
    with pytest.raises(NoSpace, match="0 free") as caught:
        check(bench, Level.RESTORE)
    assert caught.value.code == 13
    assert "TMPDIR" in caught.value.hint
    assert list((bench.home / "scratch").iterdir()) == []


def test_a_snapshot_of_another_repository(bench: Bench) -> None:
    """Somebody put it there, or a new repository was made over an old one."""
    repository = bench.open()
    (kept, moved) = repository.snapshots()
    foreign = msgspec.structs.replace(repository.load(moved), repository_id="f" * 32)
    name, data = snapshot_format.encode(foreign)
    bench.store.delete(moved.name)
    bench.store.put(name, data)
    (finding,) = found_from(bench, Level.EXISTS, "snapshot-foreign").findings
    assert finding.object == name
    assert foreign.repository_id in finding.message
    assert kept.name not in finding.message


def broken() -> None:
    from drkit.errors import RestoreMismatch

    raise RestoreMismatch("what was read back is not what was written")


def test_scratch_is_cleared_by_those_who_are_not_root_too() -> None:
    """Of directories that may not be written to, as in the caches of some languages."""
    if os.geteuid() != 0:
        pytest.skip("this test gives up its rights, and so must have some")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as home:
        bench = Bench(Path(home))
        bench.write("a/b/f")
        (bench.root / "a/b").chmod(0o555)
        (bench.root / "a").chmod(0o555)
        bench.take()
        scratch = Path(home) / "scratch"
        scratch.mkdir()
        for path in (Path(home), scratch):
            os.chown(path, 65534, 65534)
        check(bench, Level.RESTORE)  # so that everything is imported that nobody might not be allowed to
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                assert check(bench, Level.RESTORE).findings == ()
                code = 0
            except BaseException:  # noqa: BLE001 - it must not go on as a second pytest
                traceback.print_exc(file=sys.stderr)
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_snapshot_of_nothing(tmp_path: Path) -> None:
    """Everything was left out: that is a snapshot too."""
    bench = Bench(tmp_path)
    bench.write("f")
    bench.take(excludes=("f",))
    assert check(bench, Level.RESTORE).findings == ()
    assert isinstance(bench.open(), Repository)
