"""Where large files are cut: frozen, equal to the definition, bounded, and stable when bytes are inserted."""

from __future__ import annotations

import hashlib
import io
import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drkit.format import chunker
from drkit.format.limits import MIB
from drkit.format.settings import ChunkerSettings

DEFAULT = ChunkerSettings()
SMALL = ChunkerSettings(min=64, avg=256, max=1024)
GEAR = [int.from_bytes(hashlib.md5(bytes([byte]) * 64).digest()[:8], "big") for byte in range(256)]
"""The gear table of the paper's reference code is made of MD5 sums."""
MASKS = {7: 0x0000000018035100, 9: 0x0000019000353000}
"""The paper's masks, by the number of their bits: for 256 bytes, one more before and one less after the average."""

LENGTHS = [1592743, 1206983, 1178187, 1116210, 1148017, 651698, 1112140, 1022389, 1713466, 706077, 1135002]
SMALL_LENGTHS = [647, 65, 89, 382, 82, 248, 136, 115, 281, 254, 256, 102, 446, 153, 382, 502, 543, 297, 449, 356, 215]


def noise(size: int, seed: bytes = b"drkit") -> bytes:
    return hashlib.shake_256(seed).digest(size)


def cut(data: bytes, how: ChunkerSettings = DEFAULT) -> list[bytes]:
    return list(chunker.cut(io.BytesIO(data), how))


def lengths_by_definition(data: bytes) -> list[int]:
    """FastCDC with SMALL, as the paper defines it: one byte after another, normalization 1."""
    lengths = []
    while data:
        end = min(len(data), SMALL.max)
        hashed, length = 0, end
        # The reference code steps over two bytes at a time, so it starts and ends at even offsets.
        for at in range(SMALL.min, end // 2 * 2 if len(data) > SMALL.min else 0):
            hashed = ((hashed << 1) + GEAR[data[at]]) % 2**64
            if not hashed & MASKS[9 if at < min(SMALL.avg, end // 2 * 2) else 7]:
                length = at
                break
        lengths.append(length)
        data = data[length:]
    return lengths


def test_frozen_cuts() -> None:
    """The same bytes must give the same chunks for ever, or nothing is stored only once any more."""
    chunks = cut(noise(12 * MIB))
    assert [len(chunk) for chunk in chunks] == LENGTHS
    assert hashlib.sha256(b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)).hexdigest() == (
        "8367cd518771473bc23775ddf22bc581bcd1e5dfb6f323fb373eac42863cc3da"
    )
    small = cut(noise(6000), SMALL)
    assert [len(chunk) for chunk in small] == SMALL_LENGTHS


@settings(max_examples=100, deadline=None)
@example(noise(3000))
@example(bytes(5000))
@example(noise(64))
@example(noise(65))
@example(b"")
@given(st.binary(max_size=200) | st.builds(noise, st.integers(0, 4000), st.binary(max_size=4)))
def test_the_definition(data: bytes) -> None:
    assert [len(chunk) for chunk in cut(data, SMALL)] == lengths_by_definition(data)


@settings(max_examples=50, deadline=None)
@given(st.builds(noise, st.integers(0, 9000), st.binary(max_size=4)), st.integers(1, 700))
def test_reading_in_other_portions_gives_the_same_chunks(data: bytes, portion: int) -> None:
    class Slow(io.BytesIO):
        """A stream that gives a little at a time, as pipes and network file systems do."""

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            return super().readinto(buffer[:portion])

    chunks = cut(data, SMALL)
    assert b"".join(chunks) == data
    assert list(chunker.cut(Slow(data), SMALL)) == chunks
    assert all(SMALL.min <= len(chunk) <= SMALL.max for chunk in chunks[:-1])


def test_chunks_are_their_own() -> None:
    """The cutter reuses its buffer; a chunk that was kept must not change."""
    stream = chunker.cut(io.BytesIO(noise(9000)), SMALL)
    first = next(stream)
    kept = hashlib.sha256(first).digest()
    assert sum(map(len, stream)) + len(first) == 9000
    assert hashlib.sha256(first).digest() == kept


def test_long_runs_are_cut_at_the_maximum() -> None:
    assert [len(chunk) for chunk in cut(bytes(10 * MIB))] == [4 * MIB, 4 * MIB, 2 * MIB]


def test_the_seed_moves_the_cuts() -> None:
    seeded = ChunkerSettings(seed=12345, min=64, avg=256, max=1024)
    assert (
        list(itertools.accumulate(map(len, cut(noise(9000), seeded))))[:5]
        != list(itertools.accumulate(map(len, cut(noise(9000), SMALL))))[:5]
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"x" + data,
        lambda data: data[1:],
        lambda data: data[: 12 * MIB] + b"a few new bytes" + data[12 * MIB :],
        lambda data: data[: 12 * MIB] + data[12 * MIB + 7 :],
        lambda data: data[:-1],
        lambda data: data + b"\n",
    ],
    ids=["insert first", "remove first", "insert inside", "remove inside", "remove last", "append"],
)
def test_a_shifted_copy_shares_all_but_a_few_chunks(change: object) -> None:
    assert callable(change)
    data = noise(24 * MIB)
    before = {hashlib.sha256(chunk).digest() for chunk in cut(data)}
    after = {hashlib.sha256(chunk).digest() for chunk in cut(change(data))}
    assert len(before) > 12
    assert 1 <= len(after - before) <= 3
