"""Large files: chunks, blob lists, what a shifted copy adds, and what goes on while one is read for hours."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from drkit.format.settings import ChunkerSettings
from drkit.model import Kind
from drkit.repo.index import load_index
from tests.support.backups import SMALL_CHUNKS, Bench, check_against_source, check_whole, many_segments
from tests.support.faults import FaultyStore
from tests.support.trees import MIB, content


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, chunker=SMALL_CHUNKS)


def test_many_chunks_are_named_by_lists(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drkit.backup.files.LIST_BLOBS", 50)
    bench.write("few", os.urandom(20_000))
    bench.write("many", os.urandom(60_000))
    bench.write("zeros", bytes(200_000))
    report = bench.take()
    few, many, zeros = (json.loads(line) for line in bench.image(report).lines)
    assert len(few["blobs"]) <= 64 < len(many["lists"]) * 50
    assert len(zeros["lists"]) == 4
    assert len(set(zeros["lists"])) <= 3  # the same chunk again and again
    check_against_source(bench, report)
    check_whole(bench, report)
    assert bench.take().files_unchanged == 3


def test_the_sixty_fifth_chunk_makes_a_list(bench: Bench) -> None:
    """Zeros are cut at the greatest size only, so that the number of chunks is known."""
    most = SMALL_CHUNKS.max
    bench.write("64", bytes(64 * most))
    bench.write("65", bytes(65 * most))
    entries = [json.loads(line) for line in bench.image(bench.take()).lines]
    assert [len(entry.get("blobs", ())) for entry in entries] == [64, 0]
    assert [len(entry.get("lists", ())) for entry in entries] == [0, 1]


def test_a_shifted_copy_adds_little(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    data = content(7, 24 * MIB)
    bench.write("f", data)
    first = bench.take()
    bench.write("g", b"something in front" + data[:9_000_000] + b"and in the middle" + data[9_000_000:])
    second = bench.take()
    assert second.bytes_added < first.bytes_added / 3
    check_against_source(bench, second)


def test_a_copy_under_another_name_adds_no_content(bench: Bench) -> None:
    data = os.urandom(100_000)
    bench.write("a", data)
    bench.take()
    bench.write("b", data)
    report = bench.take()
    assert report.bytes_added < 5000
    check_against_source(bench, report)


@pytest.mark.parametrize("size", [2047, 2048])
def test_at_the_threshold(bench: Bench, size: int) -> None:
    data = os.urandom(size)
    bench.write("f", data)
    (line,) = bench.image(bench.take()).lines
    entry = json.loads(line)
    assert (entry["size"], entry["sha256"]) == (size, hashlib.sha256(data).hexdigest())
    assert ("blobs" in entry) == (size == 2048)


def test_several_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content, metadata and a file that is spread over packs."""
    monkeypatch.setattr("drkit.repo.packer.PACK_TARGET", 100_000)
    monkeypatch.setattr("drkit.repo.packer.FRAME_TARGET", 20_000)
    monkeypatch.setattr("drkit.repo.packer.META_FRAME_TARGET", 5_000)
    monkeypatch.setattr("drkit.repo.treewriter.PACK_TARGET", 100_000)
    monkeypatch.setattr("drkit.repo.treewriter.SMALL_BACKUP", 50_000)
    monkeypatch.setattr("drkit.repo.treewriter._WAITING", 20_000)
    bench = Bench(tmp_path, chunker=SMALL_CHUNKS)
    for number in range(600):
        bench.write(f"{number % 7}/{number}", os.urandom(number))
    bench.write("large", os.urandom(400_000))
    with many_segments():
        report = bench.take()
        check_against_source(bench, report)
        check_whole(bench, report)
        assert report.packs > 4
        assert bench.image(report) == bench.fresh()
        loaded = load_index(bench.store)
        for pack in loaded.index.packs.values():
            rows = list(pack.table.rows())
            for frame in range(len(pack.table.frame_lengths)):
                found = {kind == Kind.DATA for number, kind, *_ in rows if number == frame}
                assert len(found) == 1, "data and metadata share a frame"


def test_the_lock_and_the_index_are_kept_up_while_one_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second goes by at each look at the clock, and one huge file is all that there is."""
    monkeypatch.setattr("drkit.repo.packer.PACK_TARGET", 50_000)
    monkeypatch.setattr("drkit.repo.packer.FRAME_TARGET", 20_000)
    bench = Bench(tmp_path, chunker=ChunkerSettings(threshold=2048, min=256, avg=512, max=1024))
    bench.write("f", os.urandom(1_000_000))
    store = FaultyStore(bench.store)
    bench.store = store
    locks: list[str] = []
    store.act("put", lambda: locks.append("put"), prefix="locks/", times=None)
    clock = Hours(bench.now())
    monkeypatch.setattr(Bench, "now", lambda bench: clock())
    bench.take()
    minutes = (clock.time - clock.began) / timedelta(minutes=1)
    assert minutes > 30
    assert len(locks) >= minutes / 5 - 1
    assert len(list(store.list("index/"))) >= minutes / 5 - 2
    assert list(store.list("locks/")) == []


class Hours:
    """A clock that goes on by a second whenever it is looked at."""

    def __init__(self, began: datetime) -> None:
        self.began = self.time = began

    def __call__(self) -> datetime:
        self.time += timedelta(seconds=1)
        return self.time
