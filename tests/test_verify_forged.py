"""What verify must see though all hashes of packs are right; how much it reads; and what it leaves behind."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from pathlib import Path

import msgspec
import pytest

import drkit.restore
from drkit.backup.files import EntryReader, _Content
from drkit.backup.plugins import PluginTracker
from drkit.errors import NoSpace, UsageError
from drkit.format import snapshot as snapshot_format
from drkit.model import Entry, Kind, Level, PluginRow
from drkit.repo import Repository
from drkit.repo.index import stored_packs
from drkit.repo.names import pack_name
from drkit.source.walk import Seen
from drkit.store import LocalStore
from tests.support.backups import MARKER, SMALL_CHUNKS, Bench
from tests.support.mini_repo import MiniRepo, scan
from tests.support.verifying import alter, check, codes, fill, flip, found_from, frames_of, largest, named


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path, chunker=SMALL_CHUNKS)
    fill(bench)
    return bench


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
    os.utime(bench.root / "one")
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
    os.utime(bench.root / "one")
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


@pytest.mark.parametrize(
    ("path", "level", "code"), [("one/3", Level.EXISTS, "file-size"), ("chunks", Level.CONTENT, "file-hash")]
)
def test_a_file_of_another_size_than_its_content(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, path: str, level: Level, code: str
) -> None:
    original = EntryReader.entry

    def entry(reader: EntryReader, seen: Seen, plugin: bytes | None) -> Entry | None:
        made = original(reader, seen, plugin)
        return msgspec.structs.replace(made, size=made.size + 1) if made and made.path == path else made

    monkeypatch.setattr(EntryReader, "entry", entry)
    os.utime(bench.root / path)
    bench.take()
    report = found_from(bench, level, code, latest=True)
    assert next(iter(report.findings)).object.split(" ")[-1] == path


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
