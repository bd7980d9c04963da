"""Questions about snapshots, asked of the functions and not of the command line."""

from __future__ import annotations

import hashlib
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drkit.backup import BackupOptions, backup
from drkit.errors import IntegrityError, UsageError
from drkit.model import Snapshot
from drkit.progress import NullProgress
from drkit.query.cat import cat
from drkit.query.diff import diff
from drkit.query.find import find
from drkit.query.ls import file_mode, ls, modified
from drkit.query.manifest import checksum_line, json_lines, sha256sums
from drkit.query.walk import clean, segment_ids
from drkit.repo import Repository, Segment, SnapshotRef
from drkit.store import MemoryStore

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Place:
    """A source directory and a repository in memory, with a clock of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = NOW
        self.repository = Repository.create(MemoryStore(), now=NOW)

    def write(self, path: str | bytes, data: bytes = b"x") -> None:
        raw = os.path.join(os.fsencode(self.root), os.fsencode(path))
        os.makedirs(os.path.dirname(raw), exist_ok=True)
        with open(raw, "wb") as file:
            file.write(data)

    def take(self) -> Snapshot:
        """Take a snapshot, a minute after the one before."""
        self.now += timedelta(minutes=1)
        report = backup(
            self.repository,
            os.fsencode(self.root),
            options=BackupOptions(),
            progress=NullProgress(),
            now=lambda: self.now,
            cache_dir=None,
        )
        self.repository = Repository.open(self.repository.store)
        return self.repository.load(self.repository.resolve(report.snapshot))

    def all(self) -> list[tuple[SnapshotRef, Snapshot]]:
        return [(ref, self.repository.load(ref)) for ref in self.repository.snapshots()]

    def paths(self, snapshot: Snapshot, path: bytes = b"") -> list[bytes]:
        lost: list[str] = []
        found = [raw for raw, _ in ls(self.repository, snapshot, lost, path)]
        assert lost == []
        return found

    def damage(self) -> None:
        """Overwrite every pack with zeros."""
        store = self.repository.store
        for info in list(store.list("packs/")):
            store.put(info.name, bytes(info.size), overwrite=True)
        self.repository = Repository.open(store)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    source = tmp_path / "source"
    source.mkdir()
    return Place(source)


def test_ls_lists_a_directory_before_what_it_holds(place: Place) -> None:
    for path in ("a/b", "a-b", "a/c/d", "a.b", b"a/\xff"):
        place.write(path)
    assert place.paths(place.take()) == [b"a", b"a/b", b"a/c", b"a/c/d", b"a/\xff", b"a-b", b"a.b"]


def test_ls_of_a_path_is_that_path_and_what_is_below(place: Place) -> None:
    for path in ("a/b", "a-b", "a/c/d", "ab"):
        place.write(path)
    snapshot = place.take()
    assert place.paths(snapshot, b"a") == [b"a", b"a/b", b"a/c", b"a/c/d"]
    assert place.paths(snapshot, b"./a/c/") == [b"a/c", b"a/c/d"]
    assert place.paths(snapshot, b"ab") == [b"ab"]
    assert len(place.paths(snapshot, b".")) == 6
    with pytest.raises(UsageError, match="there is no a/x"):
        place.paths(snapshot, b"a/x")


def test_ls_names_what_is_lost(place: Place) -> None:
    place.write("a/b")
    snapshot = place.take()
    place.damage()
    lost: list[str] = []
    assert list(ls(place.repository, snapshot, lost)) == []
    assert len(lost) == 1
    assert "from a to the end" in lost[0]
    with pytest.raises(IntegrityError, match="that would hold a/b"):
        list(ls(place.repository, snapshot, [], b"a/b"))


def test_long_listings_show_type_mode_and_time(place: Place) -> None:
    place.write("f")
    os.chmod(place.root / "f", 0o4640)
    os.utime(place.root / "f", ns=(0, 1_000_000_000_999_999_999))
    os.symlink("f", place.root / "l")
    os.mkfifo(place.root / "p", 0o600)
    os.mkdir(place.root / "d", 0o755)
    shown = {raw: file_mode(entry) for raw, entry in ls(place.repository, place.take(), [])}
    assert shown == {b"d": "drwxr-xr-x", b"f": "-rwSr-----", b"l": "lrwxrwxrwx", b"p": "prw-------"}
    entry = next(entry for raw, entry in ls(place.repository, place.take(), []) if raw == b"f")
    assert modified(entry) == "2001-09-09 01:46:40"


@pytest.mark.parametrize("size", [0, 1, 5000, 3_000_000])
def test_cat_gives_the_bytes(place: Place, size: int) -> None:
    data = os.urandom(size)
    place.write("a/b", data)
    assert b"".join(cat(place.repository, place.take(), b"a/b")) == data


def test_cat_says_what_has_no_content(place: Place) -> None:
    place.write("a/b")
    os.symlink("t\x1b", place.root / "l")
    snapshot = place.take()
    for path, message in (
        (b"a", "a is a directory"),
        (b"l", r"l is a symbolic link to t\\x1b"),
        (b"c", "no c in this"),
    ):
        with pytest.raises(UsageError, match=message):
            list(cat(place.repository, snapshot, path))


def test_cat_never_gives_damaged_bytes(place: Place) -> None:
    place.write("b", os.urandom(3_000_000))
    snapshot = place.take()
    place.damage()
    with pytest.raises(IntegrityError):
        list(cat(place.repository, snapshot, b"b"))


def test_diff_lists_what_is_no_directory(place: Place) -> None:
    for path in ("same", "gone/f", "content", "mode", "type", "touched", "a/b", "a-b"):
        place.write(path, b"old")
    os.symlink("old", place.root / "link")
    old = place.take()
    place.write("content", b"new")
    os.chmod(place.root / "mode", 0o600)
    os.utime(place.root / "touched", ns=(0, 0))
    for path in ("gone/f", "type", "link", "a/b"):
        os.unlink(place.root / path)
    for path in ("gone", "a"):
        os.rmdir(place.root / path)
    os.symlink("new", place.root / "link")
    os.symlink("new", place.root / "type")
    place.write("a", b"now a file")
    place.write("new/f")
    new = place.take()
    found = diff(place.repository, old, new)
    assert found.added == [b"a", b"new/f"]
    assert found.removed == [b"a/b", b"gone/f"]
    assert found.modified == [b"content", b"link", b"mode", b"type"]
    back = diff(place.repository, new, old)
    assert (back.added, back.removed, back.modified) == (found.removed, found.added, found.modified)
    same = diff(place.repository, new, new)
    assert (same.added, same.removed, same.modified) == ([], [], [])


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_diff_equals_a_comparison_of_everything(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    place = Place(tmp_path_factory.mktemp("source"))
    names = st.builds("{}/{}".format, st.sampled_from("abc"), st.integers(0, 40))
    trees = [
        data.draw(st.dictionaries(names, st.sampled_from([b"1", b"2"]), min_size=1, max_size=60)) for _ in range(2)
    ]
    taken = []
    for tree in trees:
        for path in sorted(place.root.rglob("*/*")):
            path.unlink()
        for name, content in tree.items():
            place.write(name, content)
        taken.append(place.take())
    old, new = trees
    found = diff(place.repository, *taken)
    assert sorted(found.added) == sorted(os.fsencode(name) for name in new if name not in old)
    assert sorted(found.removed) == sorted(os.fsencode(name) for name in old if name not in new)
    assert sorted(found.modified) == sorted(os.fsencode(name) for name in old if new.get(name, old[name]) != old[name])


def test_diff_reads_only_segments_that_differ(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(400):
        place.write(f"d{number:03}/f")
    old = place.take()
    place.write("d200/f", b"new")
    new = place.take()
    read: list[str] = []
    segments = Repository.segments

    def counting(self: Repository, *args: object, **kwargs: object) -> object:
        for segment in segments(self, *args, **kwargs):  # type: ignore[arg-type]
            read.append(segment.id)
            yield segment

    monkeypatch.setattr(Repository, "segments", counting)
    assert diff(place.repository, old, new).modified == [b"d200/f"]
    assert len(segment_ids(place.repository, old)) > 10
    assert len(read) == 2


def test_diff_does_not_guess(place: Place) -> None:
    place.write("a")
    old = place.take()
    place.write("a", b"new")
    new = place.take()
    place.damage()
    with pytest.raises(IntegrityError, match="cannot compare"):
        diff(place.repository, old, new)


def test_find_groups_versions_over_all_snapshots(place: Place) -> None:
    place.write("a/x.md", b"1")
    place.write("b/x.md", b"1")
    place.write("b/y.txt", b"1")
    ids = []
    for content in (b"1", b"2", b"1"):
        place.write("b/x.md", content)
        place.take()
        ids.append(place.all()[-1][0].id)
    lost: list[str] = []
    matches = find(place.repository, place.all(), "*.md", lost)
    assert lost == []
    assert [(match.path, match.snapshots) for match in matches] == [
        (b"a/x.md", ids),
        (b"b/x.md", [ids[0], ids[2]]),
        (b"b/x.md", [ids[1]]),
    ]
    assert matches[2].entry.sha256 == hashlib.sha256(b"2").hexdigest()


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("skills", [b"skills"]),
        ("SKILL.md", [b"skills/a/SKILL.md", b"skills/b/c/SKILL.md"]),
        ("skills/*", [b"skills/a", b"skills/a/SKILL.md", b"skills/b", b"skills/b/c", b"skills/b/c/SKILL.md"]),
        ("skills/*/SKILL.md", [b"skills/a/SKILL.md"]),
        ("skills/**/SKILL.md", [b"skills/a/SKILL.md", b"skills/b/c/SKILL.md"]),
        ("*\udcff", [b"odd\xff"]),
        ("none", []),
    ],
)
def test_find_patterns(place: Place, pattern: str, paths: list[bytes]) -> None:
    for path in ("skills/a/SKILL.md", "skills/b/c/SKILL.md", b"odd\xff"):
        place.write(path)
    place.take()
    assert [match.path for match in find(place.repository, place.all(), pattern, [])] == paths


def test_find_goes_on_past_damage(place: Place) -> None:
    place.write("a")
    place.take()
    place.damage()
    os.unlink(place.root / "a")
    place.write("b")
    place.take()
    place.take()
    lost: list[str] = []
    assert [match.path for match in find(place.repository, place.all(), "*", lost)] == [b"b"]
    assert len(lost) == 1


def test_the_manifest_is_what_is_stored(place: Place) -> None:
    for number in range(100):
        place.write(f"f{number}", str(number).encode())
    place.write(b"odd\xff\n")
    snapshot = place.take()
    reader = place.repository.reader()
    nodes = [node for node in place.repository.leaves(reader, snapshot.manifest) if not isinstance(node, Segment)]
    stored = b"".join(reader.blob(node.id, node.place) for node in nodes)
    assert b"".join(json_lines(place.repository, snapshot, [])) == stored


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (b"a b", b"00  a b\n"),
        (b"a\\b", b"\\00  a\\\\b\n"),
        (b"a\nb\r", b"\\00  a\\nb\\r\n"),
        (b"\\n", b"\\00  \\\\n\n"),
        (b"\xff", b"00  \xff\n"),
    ],
)
def test_odd_names_are_escaped_as_sha256sum_does_it(path: bytes, line: bytes) -> None:
    assert checksum_line("00", path) == line


def test_sha256sum_itself_agrees(place: Place) -> None:
    for path in ("plain", "with space", " lead", "back\\slash", "new\nline", "\\n", b"\xff\xfe", "d/*", "-dash"):
        place.write(path, os.fsencode(path))
    os.symlink("plain", place.root / "link")
    sums = b"".join(sha256sums(place.repository, place.take(), []))
    assert sums.count(b"\n") == 9
    check = subprocess.run(["sha256sum", "--quiet", "--strict", "-c", "-"], cwd=place.root, input=sums, check=False)
    assert check.returncode == 0
    names = sorted(os.fsencode(path.name) for path in place.root.iterdir() if path.is_file() and not path.is_symlink())
    ours = [line for line in sums.splitlines(keepends=True) if b"  d/" not in line]
    theirs = subprocess.run(["sha256sum", "--", *names], cwd=place.root, capture_output=True, check=True).stdout
    assert sorted(ours) == sorted(theirs.splitlines(keepends=True))


@pytest.mark.parametrize(
    ("path", "cleaned"), [(b"", b""), (b".", b""), (b"./a//b/", b"a/b"), (b"/a", b"a"), (b"..", b"..")]
)
def test_paths_are_cleaned(path: bytes, cleaned: bytes) -> None:
    assert clean(path) == cleaned
