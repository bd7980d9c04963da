"""What a change of the source costs: a few segments and the lists above them, a few chunks, nothing else."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drkit.format import manifest, nodes
from drkit.format.limits import KIB, MIB, NODE_ENTRIES, ROOT_CHILDREN, SEGMENT_CUT
from drkit.model import Kind, sort_key
from tests.support.repos import Bench, blobs_of, contents, latest, pack_ids, whole


def stored(bench: Bench) -> dict[tuple[Kind, bytes], int]:
    """Size of each blob in the repository, by kind and id; each must be there once, if it is no small file.

    Those are stored again where a segment that changes has them in many packs.
    """
    found: dict[tuple[Kind, bytes], int] = {}
    for pack_id in pack_ids(bench.store):
        for frame in blobs_of(bench.store, pack_id):
            for kind, blob_id, data in frame:
                if kind != Kind.HINTS:
                    assert (kind, blob_id) not in found or (kind == Kind.DATA and len(data) <= 16 * KIB)
                    found[kind, blob_id] = len(data)
    return found


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """3,000 files in 60 directories: about 100 segments, and a level of lists."""
    bench = Bench(tmp_path_factory.mktemp("stability"))
    for number in range(3000):
        bench.write(f"d{number // 50:02}/f{number:04}.md", b"file %d\n" % number)
    bench.back_up()
    return bench


def test_the_manifest_is_cut_as_the_document_says(big: Bench) -> None:
    repo = big.repo
    segments = whole(repo)
    paths = [path for segment in segments for path in segment.paths]
    assert paths == sorted(paths, key=sort_key)
    assert len(paths) == 3060
    assert 3060 / SEGMENT_CUT / 2 < len(segments) < 3060 / SEGMENT_CUT * 2
    for segment in segments[:-1]:
        assert nodes.cuts_segment(segment.paths[-1]) or len(segment.paths) == NODE_ENTRIES
    for segment in segments:
        assert not any(map(nodes.cuts_segment, segment.paths[:-1]))
        assert segment.first == segment.paths[0]
        lines = b"".join(map(manifest.encode_line, segment.entries))
        assert repo.reader().blob(segment.id, None) == lines
    root = latest(repo).manifest
    assert root.level == 1
    assert len(root.children) <= ROOT_CHILDREN


def insert(bench: Bench) -> Iterator[str]:
    for name in ("d00/a-first.md", "d30/f1525x.md", "d59/zzz.md", "aaa", "zzz", "d30/new/deep/er.md"):
        bench.write(name, b"new file " + name.encode())
        yield name


def remove(bench: Bench) -> Iterator[str]:
    for number in (0, 1525, 2999, 777):
        name = f"d{number // 50:02}/f{number:04}.md"
        (bench.source / name).unlink()
        yield name


def rewrite(bench: Bench) -> Iterator[str]:
    for number in (5, 1500, 2990):
        name = f"d{number // 50:02}/f{number:04}.md"
        bench.write(name, b"rewritten")
        yield name


@pytest.mark.parametrize("change", [insert, remove, rewrite])
def test_a_change_costs_a_few_segments_and_the_lists_above(
    big: Bench, change: Callable[[Bench], Iterator[str]]
) -> None:
    """The directory's own time changes too, which may be in another segment, and that under another list."""
    before = stored(big)
    for name in change(big):
        big.back_up()
        after = stored(big)
        new = [kind for kind, blob_id in after if (kind, blob_id) not in before]
        segments, lists = new.count(Kind.SEGMENT), new.count(Kind.LIST)
        # The entry's segment, its directory's, and one more where a segment is cut in two or two become one.
        assert 1 <= segments <= 3, name
        assert lists <= 3, name
        assert new.count(Kind.DATA) <= 1
        before = after
    assert contents(big.repo) == big.files()


def test_an_unchanged_source_costs_no_blob(big: Bench) -> None:
    big.back_up()
    before = stored(big)
    first = latest(big.repo)
    big.back_up()
    second = latest(big.repo)
    assert first.time < second.time
    assert stored(big) == before
    assert first.manifest == second.manifest
    assert first.tree_sha256 == second.tree_sha256


def test_the_same_tree_has_the_same_nodes_whatever_came_before(big: Bench, tmp_path: Path) -> None:
    """Content-defined to the root: how a tree came to be is not in its manifest."""
    fresh = Bench(tmp_path)
    shutil.rmtree(fresh.source)
    shutil.copytree(big.source, fresh.source, symlinks=True)
    for path in (big.source, *big.source.rglob("*")):
        copied = fresh.source / path.relative_to(big.source)
        status = path.stat()
        os.utime(copied, ns=(status.st_mtime_ns, status.st_mtime_ns))
    fresh.back_up()
    big.back_up()
    mine, theirs = latest(fresh.repo), latest(big.repo)
    assert mine.tree_sha256 == theirs.tree_sha256
    assert [(child.first, child.id) for child in mine.manifest.children] == [
        (child.first, child.id) for child in theirs.manifest.children
    ]


@pytest.mark.parametrize("where", ["first", "inside", "last"])
def test_a_shifted_copy_of_a_large_file_costs_a_few_chunks(tmp_path: Path, where: str) -> None:
    bench = Bench(tmp_path)
    data = random.Random(9).randbytes(24 * MIB)
    bench.write("large", data)
    bench.back_up()
    before = stored(bench)
    shifted = {
        "first": b"inserted" + data,
        "inside": data[: 11 * MIB] + b"inserted" + data[11 * MIB :],
        "last": data + b"inserted",
    }[where]
    bench.write("large", shifted)
    bench.write("copy of the first", data)
    report = bench.back_up()
    new = {key: size for key, size in stored(bench).items() if key not in before and key[0] == Kind.DATA}
    assert 1 <= len(new) <= 3
    assert report.bytes_added < sum(new.values()) + 20_000
    assert sum(new.values()) < 8 * MIB
    assert contents(bench.repo) == bench.files()


def test_a_repeated_chunk_is_stored_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write("zeros", bytes(24 * MIB))
    bench.write("more zeros", bytes(12 * MIB))
    report = bench.back_up()
    data = [size for (kind, _), size in stored(bench).items() if kind == Kind.DATA]
    assert data == [4 * MIB]
    assert report.bytes_added < 20_000
    assert contents(bench.repo) == bench.files()
