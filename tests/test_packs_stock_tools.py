"""Repositories by the light of stock tools: zstd, sha256sum, a small parser of zstd's seekable format, plain Python."""

from __future__ import annotations

import hashlib
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from drkit.format.limits import META_FRAME_TARGET, MIB, PACK_MAX, SMALL_BACKUP
from drkit.store import LocalStore
from tests.support.repos import Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A small backup, then one of some megabytes, in a directory."""
    root = tmp_path_factory.mktemp("stock")
    made = Bench(root, LocalStore(str(root / "repo")))
    for name in ("one", "two"):
        made.plugin(name, 20)
    made.back_up()
    assert len(packs(made)) == 1  # a small backup is one pack
    for number in range(12):
        made.write(f"large/f{number}", random.Random(number).randbytes(MIB))
    made.plugin("three", 400)
    made.back_up()
    return made


def packs(bench: Bench) -> list[Path]:
    return sorted(root(bench).glob("packs/*/*"))


def root(bench: Bench) -> Path:
    return bench.source.parent / "repo"


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} here")
    return found


def seek_table(data: bytes) -> list[tuple[int, int]]:
    """Compressed and decompressed size of each frame, as the zstd seekable format 0.1.0 has them."""
    count, descriptor, magic = struct.unpack("<IBI", data[-9:])
    assert (descriptor, magic) == (0, 0x8F92EAB1)  # no checksums, no reserved bits
    length = 8 * count + 9
    assert struct.unpack("<II", data[-length - 8 : -length]) == (0x184D2A5E, length)
    return [struct.unpack_from("<II", data, len(data) - length + 8 * number) for number in range(count)]


def frames(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Each frame and its decompressed size; the skippable ones of the tables are left out."""
    at = 0
    for compressed, size in seek_table(data):
        if size:
            yield data[at : at + compressed], size
        at += compressed
    assert at + 8 + 8 * len(seek_table(data)) + 9 == len(data)


def kinds(data: bytes) -> list[set[int]]:
    """The kinds of the blobs in each frame, read from the blob table by section 3 of the document."""
    start = sum(compressed for compressed, _ in seek_table(data)[:-1])
    magic, length = struct.unpack_from("<II", data, start)
    assert magic == 0x184D2A5D
    assert length + 8 == seek_table(data)[-1][0]
    table = zstandard.ZstdDecompressor().decompress(data[start + 8 : start + 8 + length])
    major, minor, frame_count, blob_count, ids = struct.unpack_from("<HHIII", table)
    assert (major, minor) == (1, 0)
    counts = struct.unpack_from(f"<{frame_count}I", table, 16)
    column = table[16 + 4 * frame_count :][:blob_count]
    assert len(table) == 16 + 4 * frame_count + 5 * blob_count + 32 * ids
    assert ids == sum(kind != 3 for kind in column)
    rest = iter(column)
    return [{next(rest) for _ in range(count)} for count in counts]


def test_sha256sum_gives_each_name(bench: Bench) -> None:
    tool("sha256sum")
    names = packs(bench) + sorted(root(bench).glob("index/*")) + sorted(root(bench).glob("snapshots/*"))
    assert len(names) >= 6
    done = subprocess.run(["sha256sum", *names], capture_output=True, text=True, check=True)
    for line, path in zip(done.stdout.splitlines(), names, strict=True):
        assert path.stem.rpartition("-")[2] == line.split()[0]
        assert path.parent.name in {"index", "snapshots", line[:2]}


def test_zstd_prints_the_plaintext_of_all_frames(bench: Bench) -> None:
    tool("zstd")
    for path in packs(bench):
        plain = b"".join(zstandard.ZstdDecompressor().decompress(frame) for frame, _ in frames(path.read_bytes()))
        printed = subprocess.run(["zstd", "-dcq", path], capture_output=True, check=True).stdout
        assert printed == plain
        subprocess.run(["zstd", "-tq", path], check=True)


def test_index_objects_are_zstd_files(bench: Bench) -> None:
    tool("zstd")
    for path in sorted(root(bench).glob("index/*")):
        assert subprocess.run(["zstd", "-dcq", path], capture_output=True, check=True).stdout[:4] == b"DRKI"


def test_the_seek_table_finds_every_frame(bench: Bench) -> None:
    for path in packs(bench):
        data = path.read_bytes()
        assert len(data) < PACK_MAX
        assert seek_table(data)[-1][1] == 0
        found = list(frames(data))
        assert len(found) == len(seek_table(data)) - 1 == len(kinds(data))
        for frame, size in found:
            header = zstandard.get_frame_parameters(frame)
            assert header.content_size == size <= 8 * MIB
            assert header.window_size <= 8 * MIB
            assert not header.has_checksum
            assert len(zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)) == size


def test_data_and_metadata_never_share_a_frame(bench: Bench) -> None:
    by_pack = [kinds(path.read_bytes()) for path in packs(bench)]
    for found in by_pack:
        assert all(kind == {0} or 0 not in kind for kind in found)
        assert found == sorted(found, key=lambda kind: 0 not in kind)  # data first
    mixed = [found for found in by_pack if {0} in found and found[-1] != {0}]
    assert len(mixed) == 1  # that of the small backup
    assert len(by_pack) == 3  # and the large one has data and metadata apart
    sizes = sorted(path.stat().st_size for path in packs(bench))
    assert sizes[-1] > 12 * MIB > SMALL_BACKUP > sizes[-2]


def test_frames_have_their_target_sizes(bench: Bench) -> None:
    for path in packs(bench):
        data = path.read_bytes()
        for (_, size), kind in zip(frames(data), kinds(data), strict=True):
            assert size < (4 * MIB if kind == {0} else 4 * META_FRAME_TARGET)


def test_content_is_found_with_zstd_alone(bench: Bench) -> None:
    """What a person with nothing else can do: decompress all packs, and look for the text."""
    tool("zstd")
    printed = subprocess.run(["zstd", "-dcq", *packs(bench)], capture_output=True, check=True).stdout
    for data in bench.files().values():
        assert data in printed


@pytest.mark.parametrize(
    ("plugin", "path"), [("the source", ""), (".", ""), ("inner", "inner"), ("deep/er", "deep/er")]
)
def test_recover_finds_plugins_in_a_source_that_is_one(tmp_path: Path, plugin: str, path: str) -> None:
    bench = Bench(tmp_path, LocalStore(str(tmp_path / "repo")))
    bench.write(".claude-plugin/plugin.json", b'{"name":"the source"}')
    for inner in ("inner", "deep/er"):
        bench.plugin(inner, 2)
    bench.back_up()
    target = tmp_path / "target"
    command: list[str | Path] = [
        sys.executable,
        "-I",
        root(bench) / "recover.py",
        "--plugin",
        plugin,
        "--target",
        target,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = {
        p.relative_to(bench.source / path): p.read_bytes() for p in (bench.source / path).rglob("*") if p.is_file()
    }
    assert {p.relative_to(target): p.read_bytes() for p in target.rglob("*") if p.is_file()} == expected
    assert len(expected) >= 3


def test_hashes_of_blobs_are_those_of_files(bench: Bench) -> None:
    """A file of one blob is found by its own `sha256sum` in the tables."""
    whole = [hashlib.sha256(data).digest() for data in bench.files().values() if len(data) < 2 * MIB]
    tables = []
    for path in packs(bench):
        data = path.read_bytes()
        start = sum(compressed for compressed, _ in seek_table(data)[:-1])
        length = struct.unpack_from("<I", data, start + 4)[0]
        tables.append(zstandard.ZstdDecompressor().decompress(data[start + 8 : start + 8 + length]))
    assert all(any(blob in table for table in tables) for blob in whole)
