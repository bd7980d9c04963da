"""A repository of format 1.0, frozen, and what verify must find in it when it is damaged: exactly that, no more.

`tests/fixtures/frozen` was made by `tests/fixtures/make_frozen.py` and is never made anew: a version that cannot read
it cannot read the repositories of its users. `tests/fixtures/frozen.json` has for each kind of damage the findings at
each level ("named": the levels that name the lost files too), the files whose content is lost, and those of which
the manifest's entries are ("unseen"). All others must still be read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from drkit.backup import BackupOptions, backup
from drkit.clock import utc_now
from drkit.errors import IntegrityError
from drkit.model import Level, show_path
from drkit.progress import NullProgress
from drkit.repo import BlobLost, Repository
from drkit.store import LocalStore
from drkit.verify import verify
from tests.fixtures.make_frozen import first_state, second_state

HERE = Path(__file__).parent / "fixtures"
EXPECTED = json.loads((HERE / "frozen.json").read_text(encoding="utf-8"))
LEVELS = (Level.EXISTS, Level.PACKS, Level.CONTENT)

# The packs, by what they hold.
SKILLS = "9f763ea4"
CHUNKS = "8f64c380"
SEGMENTS = "794f637d"
"""Of the first backup: segments, lists, and the plugin table."""
BLOB_LIST = "86542c06"
"""Of the first backup: the blob list of many.bin, and more segments."""
SECOND = "b8de9e25"
"""All that the second backup added, data first."""

Damage = Callable[[Path], None]


def pack(root: Path, begin: str) -> Path:
    (found,) = root.glob(f"packs/*/{begin}*")
    return found


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def frame(begin: str, number: int) -> Damage:
    """A flipped bit in the middle of a frame."""

    def damage(root: Path) -> None:
        data = pack(root, begin).read_bytes()
        count = struct.unpack("<I", data[-9:-5])[0]
        sizes = struct.unpack(f"<{2 * count}I", data[-9 - 8 * count : -9])[::2]
        flip(pack(root, begin), sum(sizes[:number]) + sizes[number] // 2)

    return damage


def blob_table(root: Path) -> None:
    data = pack(root, SKILLS).read_bytes()
    flip(pack(root, SKILLS), data.index(struct.pack("<I", 0x184D2A5D)) + 30)


def swap(root: Path) -> None:
    one, other = pack(root, SKILLS), pack(root, CHUNKS)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def strays(root: Path) -> None:
    for name in ("packs/9f/README", "index/README", "snapshots/README"):
        (root / name).write_bytes(b"what is this?")


def newest(root: Path) -> Path:
    return max(root.glob("snapshots/*"))


def cut(root: Path) -> None:
    """One of three frames is left whole, and the tables are gone."""
    os.truncate(pack(root, SKILLS), 1500)


def empty(root: Path, name: str) -> None:
    shutil.rmtree(root / name)
    (root / name).mkdir()


def no_index_and_cut(root: Path) -> None:
    empty(root, "index")
    cut(root)


DAMAGES: dict[str, Damage] = {
    "nothing": lambda root: None,
    "bit in a frame of small files": frame(SKILLS, 1),
    "bit in a frame of chunks": frame(CHUNKS, 2),
    "bit in a segment": frame(SEGMENTS, 9),
    "bit in the first segment": frame(BLOB_LIST, 1),
    "bit in a blob list": frame(BLOB_LIST, 0),
    "bit in the lists": frame(SEGMENTS, 11),
    "bit in the plugin table": frame(SEGMENTS, 10),
    "bit in a pack of data and metadata": frame(SECOND, 0),
    "bit in a blob table": blob_table,
    "bit in a seek table": lambda root: flip(pack(root, SKILLS), -15),
    "bit in an index object": lambda root: flip(min(root.glob("index/*")), 60),
    "bit in a snapshot": lambda root: flip(newest(root), 700),
    "bit in drkit.json": lambda root: flip(root / "drkit.json", 100),
    "bit in drkit-copy.json": lambda root: flip(root / "drkit-copy.json", 100),
    "no drkit.json": lambda root: (root / "drkit.json").unlink(),
    "pack cut": cut,
    "zeros behind a pack": lambda root: os.truncate(pack(root, SKILLS), 5000),
    "pack empty": lambda root: os.truncate(pack(root, SKILLS), 0),
    "no pack of small files": lambda root: pack(root, SKILLS).unlink(),
    "no pack of chunks": lambda root: pack(root, CHUNKS).unlink(),
    "no pack of segments": lambda root: pack(root, SEGMENTS).unlink(),
    "no pack of the second backup": lambda root: pack(root, SECOND).unlink(),
    "no packs": lambda root: empty(root, "packs"),
    "no index": lambda root: empty(root, "index"),
    "no newest snapshot": lambda root: newest(root).unlink(),
    "no snapshots": lambda root: empty(root, "snapshots"),
    "two packs swapped": swap,
    "strays": strays,
    "no index and a pack cut": no_index_and_cut,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(HERE / "frozen", tmp_path / "repo")
    return tmp_path / "repo"


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[bytes, bytes]]:
    """What the files held at each of the two backups, by the snapshot's time."""
    source = tmp_path_factory.mktemp("frozen")
    found = {}
    for time, state in (("20260102", first_state), ("20260103", second_state)):
        state(source)
        files = [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
        found[time] = {os.fsencode(path.relative_to(source)): path.read_bytes() for path in files}
    return found


def opened(root: Path) -> Repository:
    return Repository.open(LocalStore(str(root)))


Paths = dict[str, list[str]]
"""Paths by the date of their snapshot; of the many empty files only the number."""


def findings(root: Path, level: Level) -> tuple[list[list[str]], Paths]:
    """Code and object of each finding, and apart from them the files that are named as lost."""
    repo = opened(root)
    report = verify(repo, repo.snapshots(), level=level, every_pack=True, progress=NullProgress())
    assert report.ok == (not report.findings)
    assert all(finding.message and finding.repair for finding in report.findings)
    files: dict[str, set[str]] = {}
    others = []
    for finding in report.findings:
        if finding.code == "file-lost":
            name, _, path = finding.object.partition(" ")
            assert path not in files.setdefault(name[10:18], set())
            files[name[10:18]].add(path)
        else:
            others.append([finding.code, short(finding.object)])
    return sorted(others), {date: counted(paths) for date, paths in sorted(files.items())}


def short(name: str) -> str:
    """An object's name with its hash cut off, so that the table can be read."""
    return re.sub(r"([0-9a-f]{8})[0-9a-f]{56}\.(zst|json)", r"\1", name.replace("T030405.000000Z", ""))


def counted(paths: set[str]) -> list[str]:
    few = sorted(path for path in paths if not path.startswith("empty/"))
    return few + ([f"{len(paths) - len(few)} empty ones"] if len(few) < len(paths) else [])


def losses(root: Path, states: dict[str, dict[bytes, bytes]]) -> tuple[Paths, Paths]:
    """The files whose content cannot be read any more, and those whose entries cannot. What is read must be right."""
    repo = opened(root)
    lost: Paths = {}
    unseen: Paths = {}
    for ref in repo.snapshots():
        date = ref.time[:8]
        expected = {show_path(path): data for path, data in states[date].items()}
        reader = repo.reader()
        seen, gone = set(), set()
        try:
            for segment in repo.segments(repo.load(ref)):
                for raw, entry in zip(segment.paths, segment.entries, strict=True):
                    if entry.type == "f":
                        path = show_path(raw)
                        seen.add(path)
                        try:
                            assert b"".join(reader.content(entry, segment.places)) == expected[path]
                            assert hashlib.sha256(expected[path]).hexdigest() == entry.sha256
                        except BlobLost:
                            gone.add(path)
        except IntegrityError:
            assert not seen
        if gone:
            lost[date] = counted(gone)
        if expected.keys() - seen:
            unseen[date] = counted(expected.keys() - seen)
    return lost, unseen


def test_the_table_is_about_these_damages() -> None:
    assert list(EXPECTED) == list(DAMAGES)


def test_it_is_small(root: Path) -> None:
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 300_000


@pytest.mark.parametrize("name", DAMAGES)
def test_damage(root: Path, states: dict[str, dict[bytes, bytes]], name: str) -> None:
    """Verify finds this and nothing else, and the files that it calls lost are those that cannot be read."""
    DAMAGES[name](root)
    expected = EXPECTED[name]
    assert losses(root, states) == (expected["lost"], expected["unseen"])
    for level in LEVELS:
        found, lost = findings(root, level)
        assert found == expected[level.name.lower()]
        # A damaged frame is not found before packs are read, a missing one is.
        assert lost == (expected["lost"] if level.name.lower() in expected["named"] else {})


def test_everything_is_as_it_was_backed_up(root: Path, states: dict[str, dict[bytes, bytes]]) -> None:
    repo = opened(root)
    first, second = repo.snapshots()
    assert [first.time, second.time] == ["20260102T030405.000000Z", "20260103T030405.000000Z"]
    for ref in (first, second):
        snap = repo.load(ref)
        entries = {
            path: entry
            for segment in repo.segments(snap)
            for path, entry in zip(segment.paths, segment.entries, strict=True)
        }
        assert {path for path, entry in entries.items() if entry.type == "f"} == set(states[ref.time[:8]])
        assert entries[b"link"].target == "plugins/alpha/copy.md"
        assert entries[b"README"].link == entries[b"same"].link != 0
        assert entries[b"README"].mode == 0o600
        assert 10**18 < (entries[b"README"].mtime_ns or 0) < 10**18 + 1000
        assert b"odd \xff\n name" in entries
        assert [(row.path, row.name, row.version) for row in repo.plugins(snap)] == [
            ("plugins/alpha", "alpha", "1.0"),
            ("plugins/beta", "beta", "1.0"),
        ]
        assert entries[b"data/many.bin"].lists
        assert len(entries[b"data/chunks.bin"].blobs) > 3
        assert snap.manifest.level == 1
    assert repo.load(second).parent == first.id
    assert repo.load(first).tree_sha256 == "2deeaf35a36971fb90bbfc38e567579a367bb93797a90864c2ff36f252eec2fa"
    assert repo.load(second).tree_sha256 == "fa727a212e6a5f0e9d652f3ec5fc095dfdbbe0f1ce213baa8994dbd5f1a58112"


def test_a_backup_of_today_goes_on_from_it(root: Path, tmp_path: Path, states: dict[str, dict[bytes, bytes]]) -> None:
    source = tmp_path / "source"
    first_state(source)
    packs = set(root.glob("packs/*/*"))
    report = backup(
        opened(root),
        os.fsencode(source),
        options=BackupOptions(host="frozen"),
        progress=NullProgress(),
        now=utc_now,
        cache_dir=None,
    )
    assert report.bytes_added < 20_000  # every blob is there; owners, times and so segments are others
    assert len(set(root.glob("packs/*/*")) - packs) == 1
    assert len(opened(root).snapshots()) == 3
    assert findings(root, Level.CONTENT) == ([], {})


@pytest.mark.parametrize("what", ["damaged", "gone"])
def test_without_any_settings(root: Path, what: str) -> None:
    for name in ("drkit.json", "drkit-copy.json"):
        if what == "damaged":
            flip(root / name, 100)
        else:
            (root / name).unlink()
    with pytest.raises(IntegrityError) as caught:
        opened(root)
    assert "recover.py" in caught.value.hint
