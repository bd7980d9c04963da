"""Which repositories are opened, which are only read, which are refused, and how one comes to be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drkit.errors import (
    FormatError,
    IntegrityError,
    NoSpace,
    RepositoryNotFound,
    StoreCorrupt,
    StoreError,
    UsageError,
)
from drkit.format.settings import NewerFormat
from drkit.repo import Repository
from drkit.store import LocalStore, Store
from drkit.store.memory import MemoryStore
from tests.support.faults import FaultyStore
from tests.support.repos import START, Bench, contents, names

SETTINGS = ("drkit.json", "drkit-copy.json")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    made.plugin("p", 3)
    made.back_up()
    return made


def rewrite(store: Store, change: Callable[[dict[str, Any]], None], *which: str) -> None:
    """Change the settings and make their checksum right again."""
    for name in which or SETTINGS:
        record = json.loads(store.get(name))
        del record["checksum"]
        change(record)
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        record["checksum"] = hashlib.sha256(text.encode()).hexdigest()
        store.put(name, json.dumps(record).encode(), overwrite=True)


@pytest.mark.parametrize("version", [{"major": 2}, {"major": 0}, {"requires": ["what-comes-next"]}])
@pytest.mark.parametrize("which", [SETTINGS, SETTINGS[:1], SETTINGS[1:]])
def test_newer_repositories_are_refused_with_a_hint(bench: Bench, version: dict[str, Any], which: tuple[str]) -> None:
    rewrite(bench.store, lambda record: record["format"].update(version), *which)
    with pytest.raises(NewerFormat, match=r"needs what-comes-next|is of format") as caught:
        Repository.open(bench.store)
    assert caught.value.code == 20
    assert caught.value.hint == "upgrade drkit: pip install -U drkit"


def test_a_greater_minor_is_read_but_not_written(bench: Bench) -> None:
    rewrite(bench.store, lambda record: record["format"].update(minor=1))
    rewrite(bench.store, lambda record: record.update(later={"x": [1]}))
    before = names(bench.store, "")
    assert bench.repo.config.format.minor == 1
    assert contents(bench.repo) == bench.files()
    bench.write("new")
    with pytest.raises(NewerFormat, match=r"1\.1.*only read"):
        bench.back_up()
    assert names(bench.store, "") == before


def test_other_chunk_sizes_are_taken_from_the_settings(bench: Bench) -> None:
    sizes = {"threshold": 1000, "min": 64, "avg": 256, "max": 1024}
    rewrite(bench.store, lambda record: record["chunker"].update(sizes))
    bench.write("big", hashlib.shake_256(b"big").digest(5000))
    bench.back_up()
    assert contents(bench.repo) == bench.files()
    entries = {entry.path: entry for segment in bench.repo.segments(_latest(bench)) for entry in segment.entries}
    assert 4 < len(entries["big"].blobs) < 64


def _latest(bench: Bench) -> Any:
    return bench.repo.load(bench.repo.resolve("latest"))


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "missing", "unreadable"])
def test_one_damaged_copy_is_a_finding(bench: Bench, name: str, damage: str) -> None:
    data = bytearray(bench.store.get(name))
    store: Store = bench.store
    if damage == "flipped":
        data[data.index(b"1048576")] ^= 1
    elif damage == "cut":
        del data[-10:]
    elif damage == "empty":
        data.clear()
    bench.store.put(name, data, overwrite=True)
    if damage == "missing":
        bench.store.delete(name)
    elif damage == "unreadable":
        store = FaultyStore(bench.store)
        store.fail("get", prefix=name, error=StoreCorrupt("input/output error"), times=None)
    repo = Repository.open(store)
    code = "settings-missing" if damage == "missing" else "settings-damaged"
    assert [(finding.code, finding.object) for finding in repo.findings] == [(code, name)]
    assert name in repo.findings[0].message
    assert "copy the intact one" in repo.findings[0].repair
    assert repo.config.chunker.avg == 1048576
    assert contents(repo) == bench.files()


def test_both_damaged_or_gone(bench: Bench) -> None:
    for name in SETTINGS:
        bench.store.put(name, b"{}", overwrite=True)
    with pytest.raises(IntegrityError, match="both copies") as caught:
        Repository.open(bench.store)
    assert type(caught.value) is IntegrityError
    assert "recover.py" in caught.value.hint
    bench.store.delete(SETTINGS[0])
    with pytest.raises(IntegrityError, match="both copies"):
        Repository.open(bench.store)
    bench.store.delete(SETTINGS[1])
    with pytest.raises(IntegrityError, match="both copies") as caught:
        Repository.open(bench.store)
    assert caught.value.code == 20
    assert "recover.py" in caught.value.hint
    before = names(bench.store, "")
    with pytest.raises(UsageError, match="without its settings") as refused:
        Repository.create(bench.store, now=START)
    assert "recover.py" in refused.value.hint
    assert names(bench.store, "") == before


@pytest.mark.parametrize("kept", ["snapshots/", "packs/", "index/"])
def test_one_object_is_enough_to_show_that_there_was_a_repository(bench: Bench, kept: str) -> None:
    (first, *_) = names(bench.store, kept)
    for name in {*names(bench.store, "")} - {first}:
        bench.store.delete(name)
    with pytest.raises(IntegrityError):
        Repository.open(bench.store)
    bench.store.delete(first)
    with pytest.raises(RepositoryNotFound) as missing:
        Repository.open(bench.store)
    assert missing.value.code == 10
    assert "drkit init" in missing.value.hint


def test_init_among_other_files(tmp_path: Path) -> None:
    """A source is not taken for a repository's place; what an interrupted init left is."""
    store = LocalStore(str(tmp_path))
    for name in ("index", "locks", "packs", "snapshots", "lost+found"):
        (tmp_path / name).mkdir()
    for name in ("recover.py", "RECOVER.md", ".tmp-0123", "thesis.tex"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"thesis\.tex") as caught:
        Repository.create(store, now=START)
    assert "empty or new directory" in caught.value.hint
    assert not (tmp_path / "drkit.json").exists()
    (tmp_path / "thesis.tex").unlink()
    Repository.create(store, now=START)
    assert Repository.open(store).findings == []


def test_a_store_that_fails_is_not_a_missing_repository(bench: Bench) -> None:
    with FaultyStore(bench.store) as store:
        store.fail("get", error=StoreError("no network"))
        with pytest.raises(StoreError, match="no network"):
            Repository.open(store)


# init


def test_what_init_writes() -> None:
    store = MemoryStore()
    made = Repository.create(store, now=START, small_level=9, chunk_level=1)
    opened = Repository.open(store)
    assert opened.config == made.config
    assert opened.findings == []
    assert opened.config.compression.small_level == 9
    assert opened.config.compression.chunk_level == 1
    assert opened.config.created == "2026-03-01T12:00:00+00:00"
    assert len(bytes.fromhex(opened.config.repository_id)) == 16
    assert Repository.create(MemoryStore(), now=START).config.repository_id != made.config.repository_id
    assert names(store, "") == ["RECOVER.md", "drkit-copy.json", "drkit.json", "recover.py"]
    assert store.get("drkit.json") == store.get("drkit-copy.json")
    assert opened.snapshots() == []
    assert len(opened.index) == 0


@pytest.mark.parametrize("left", [SETTINGS, SETTINGS[:1], SETTINGS[1:]])
def test_init_where_a_repository_is(left: tuple[str, ...]) -> None:
    store = MemoryStore()
    Repository.create(store, now=START)
    for name in set(SETTINGS) - set(left):
        store.delete(name)
    before = {name: store.get(name) for name in names(store, "")}
    with pytest.raises(UsageError, match="a repository"):
        Repository.create(store, now=START)
    assert {name: store.get(name) for name in names(store, "")} == before


@pytest.mark.parametrize("local", [False, True])
def test_an_interrupted_init_can_be_repeated(tmp_path: Path, local: bool) -> None:
    store: Store = LocalStore(str(tmp_path / "repo")) if local else MemoryStore()
    with FaultyStore(store) as faulty:
        faulty.fail("put", prefix="drkit", error=NoSpace("full"))
        with pytest.raises(NoSpace):
            Repository.create(faulty, now=START)
    with pytest.raises(RepositoryNotFound):
        Repository.open(store)
    Repository.create(store, now=START)
    assert Repository.open(store).findings == []


def test_an_init_interrupted_between_the_copies_leaves_a_repository() -> None:
    store = MemoryStore()
    with FaultyStore(store) as faulty:
        faulty.fail("put", prefix="drkit", after=1, error=NoSpace("full"))
        with pytest.raises(NoSpace):
            Repository.create(faulty, now=START)
    (finding,) = Repository.open(store).findings
    assert finding.code == "settings-missing"


def test_two_inits_at_the_same_moment() -> None:
    """Who is slower notices, and the repository is that of the other alone."""
    store = MemoryStore()
    with FaultyStore(store) as faulty:
        faulty.act("put", lambda: _create(store), prefix="drkit")
        with pytest.raises(UsageError, match="somebody else"):
            Repository.create(faulty, now=START)
    assert Repository.open(store).findings == []
    assert store.get("drkit.json") == store.get("drkit-copy.json")


def _create(store: Store) -> None:
    Repository.create(store, now=START)


def test_where_a_repository_lies(tmp_path: Path) -> None:
    assert Repository.create(MemoryStore(), now=START).location() is None
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real").mkdir()
    repo = Repository.create(LocalStore(str(tmp_path / "link")), now=START)
    assert repo.location() == str(tmp_path / "real").encode()


def test_errors_of_versions_are_format_errors() -> None:
    assert issubclass(NewerFormat, FormatError)
