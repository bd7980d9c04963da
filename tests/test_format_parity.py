"""The parity object: damage within its means heals, more than that is told, and the bytes are the document's."""

from __future__ import annotations

import hashlib
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drkit.errors import FormatError, UsageError
from drkit.format import parity
from drkit.format.limits import PARITY_PIECE, PARITY_SEALED
from drkit.format.settings import ParitySettings, check_parity
from drkit.model import PackId

PIECE = PARITY_PIECE
relaxed = settings(max_examples=60, deadline=None)


def pack_of(size: int, seed: int = 0) -> tuple[PackId, bytes]:
    data = random.Random(seed).randbytes(size)
    return PackId(hashlib.sha256(data).digest()), data


sizes = st.one_of(st.integers(1, 3 * PIECE), st.integers(1, 60).map(lambda n: n * PIECE), st.integers(1, 400_000))
shards = st.tuples(st.integers(1, 20), st.integers(1, 5)).filter(lambda km: km[1] <= km[0])


@relaxed
@given(sizes, shards, st.integers(0, 2**32), st.data())
def test_as_many_damaged_pieces_of_each_column_as_there_is_parity_heal(
    size: int, km: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    """Wherever they are, in the pack and in its parity; one more in a column is too much, and told."""
    pack_id, pack = pack_of(size, seed)
    made = parity.encode(pack_id, pack, ParitySettings(*km), PIECE)
    assert parity.is_whole(pack_id, made)
    header, _ = parity.decode(made)
    assert (header.size, header.parity) == (size, km[1])
    assert header.data <= km[0]
    chance = random.Random(seed)
    bad_pack, bad_spare = bytearray(pack), bytearray(made)
    head = (len(made) - header.parity * header.length) // 2
    places = {(shard, column): (bad_pack, start, end) for shard, column, start, end in header.pieces() if start < end}
    for shard, column, start, end in header.spare_pieces():
        places[shard, column] = (bad_spare, head + start, head + end)
    worst = 0
    for column in range(header.columns):
        here = [place for place in places if place[1] == column]
        count = data.draw(st.integers(0, min(km[1] + 1, len(here))))
        chosen = chance.sample(here, count)
        if any(shard < header.data for shard, _ in chosen):
            worst = max(worst, count)
        for place in chosen:
            buffer, start, end = places[place]
            buffer[chance.randrange(start, end)] ^= 1 << chance.randrange(8)
    healed = parity.heal(pack_id, bytes(bad_pack), bytes(bad_spare))
    assert healed == (pack if worst <= km[1] else None)


@relaxed
@given(sizes, shards, st.integers(0, 100))
def test_a_missing_range_heals(size: int, km: tuple[int, int], percent: int) -> None:
    """Up to as much as the shards of parity are long; a pack that was cut short is one that lost its end."""
    pack_id, pack = pack_of(size)
    made = parity.encode(pack_id, pack, ParitySettings(*km), PIECE)
    header, _ = parity.decode(made)
    most = header.parity * header.length - 2 * (PIECE - 1)
    length = max(0, min(most, size) * percent // 100)
    start = (size - length) * percent // 100
    assert parity.heal(pack_id, pack[:start] + bytes(length) + pack[start + length :], made) == pack
    assert parity.heal(pack_id, pack[: size - length], made) == pack


def test_with_as_much_parity_as_data_the_whole_pack_may_be_gone() -> None:
    pack_id, pack = pack_of(100_000)
    assert parity.heal(pack_id, b"", parity.encode(pack_id, pack, ParitySettings(4, 4), PIECE)) == pack
    assert parity.heal(pack_id, b"", parity.encode(pack_id, pack, ParitySettings(5, 4), PIECE)) is None


def test_each_byte_of_a_parity_object_may_be_damaged() -> None:
    """It is noticed, and does not matter: the header is there twice."""
    pack_id, pack = pack_of(3 * PIECE + 5)
    made = parity.encode(pack_id, pack, ParitySettings(4, 1), PIECE)
    damaged = bytearray(pack)
    damaged[PIECE + 7] ^= 1
    header, _ = parity.decode(made)
    head = (len(made) - header.length) // 2
    column_of_damage = range(head + 0, head + PIECE)
    for at in [*range(head), *range(head, head + PIECE, 97), *range(len(made) - head, len(made))]:
        bad = bytearray(made)
        bad[at] ^= 0x10
        assert not parity.is_whole(pack_id, bytes(bad))
        assert parity.heal(pack_id, pack, bytes(bad)) == pack
        healed = parity.heal(pack_id, bytes(damaged), bytes(bad))
        assert healed == (None if at in column_of_damage else pack)


@pytest.mark.parametrize("cut", [0, 1, 40, 200, 3000])
def test_a_parity_object_that_lost_a_beginning_or_an_end_still_helps(cut: int) -> None:
    pack_id, pack = pack_of(10 * PIECE)
    made = parity.encode(pack_id, pack, ParitySettings(5, 2), PIECE)
    damaged = b"\0" * 100 + pack[100:]
    assert parity.heal(pack_id, damaged, made[: len(made) - cut]) == pack
    assert parity.heal(pack_id, damaged, bytes(cut) + made[cut:]) == pack
    assert parity.is_whole(pack_id, made[: len(made) - cut]) == (not cut)


def test_what_is_no_parity_object_is_refused() -> None:
    pack_id, pack = pack_of(2 * PIECE)
    made = parity.encode(pack_id, pack, ParitySettings(2, 1), PIECE)
    other_id, other = pack_of(2 * PIECE, 1)
    for data in (b"", b"DRKQ", b"DRKQ" * 100, made[:50], made[60:-60]):
        with pytest.raises(FormatError):
            parity.heal(pack_id, pack, data)
        assert not parity.is_whole(pack_id, data)
    with pytest.raises(FormatError, match="something else"):
        parity.heal(other_id, other, made)
    assert not parity.is_whole(other_id, made)
    assert not parity.is_whole(pack_id, made + b"\0")


@pytest.mark.parametrize("data", [0, 1, 255])
def test_numbers_of_shards(data: int) -> None:
    for more, good in ((0, False), (1, data > 0), (2, False)):
        if good:
            check_parity(ParitySettings(data, more))
        else:
            with pytest.raises(FormatError):
                check_parity(ParitySettings(data, more))


def test_what_is_encrypted_at_once_is_one_piece() -> None:
    """A stretch of 64 KiB that begins at a multiple of it touches one piece of one shard."""
    pack_id, pack = pack_of(1_000_000)
    made = parity.encode(pack_id, pack, ParitySettings(16, 1), PARITY_SEALED)
    header, _ = parity.decode(made)
    assert header.length % PARITY_SEALED == 0
    for at in range(0, len(pack), PARITY_SEALED):
        lost = pack[:at] + bytes(PARITY_SEALED) + pack[at + PARITY_SEALED :]
        assert parity.heal(pack_id, lost, made) == pack


# The bytes themselves, computed from the document alone


def field() -> tuple[list[int], list[int]]:
    """Powers of 2, and their logarithms, in the field of 256 elements with x^8 + x^4 + x^3 + x^2 + 1."""
    powers, logs, value = [0] * 255, [0] * 256, 1
    for power in range(255):
        powers[power], logs[value] = value, power
        value = value << 1 ^ (0x11D if value & 0x80 else 0)
    return powers, logs


POWERS, LOGS = field()


def times(a: int, b: int) -> int:
    return POWERS[(LOGS[a] + LOGS[b]) % 255] if a and b else 0


def inverse(a: int) -> int:
    return POWERS[-LOGS[a] % 255]


def interpolated(points: list[int], values: list[int], at: int) -> int:
    """The value of the polynomial through these points."""
    total = 0
    for x, value in zip(points, values, strict=True):
        part = value
        for other in points:
            if other != x:
                part = times(part, times(at ^ other, inverse(x ^ other)))
        total ^= part
    return total


def test_a_parity_object_byte_by_byte() -> None:
    """Shard 0 is the value at 0, shard n that at 2^(n-1), of the polynomial of degree below K through the data."""
    size, data, spare = 9 * PIECE + 1000, 3, 2
    pack_id, pack = pack_of(size)
    length = 4 * PIECE
    blocks = [pack[at : at + length].ljust(length, b"\0") for at in range(0, size, length)]
    points = [0, *(POWERS[n] for n in range(data + spare - 1))]
    made = parity.encode(pack_id, pack, ParitySettings(data, spare), PIECE)
    head = (len(made) - spare * length) // 2
    for number in range(spare):
        shard = made[head + number * length : head + (number + 1) * length]
        for at in [*range(50), *range(0, length, 111), length - 1]:
            column = [block[at] for block in blocks[:data]]
            assert shard[at] == interpolated(points[:data], column, points[data + number])
        blocks.append(shard)
    blocks[2] = pack[2 * length :]  # hashed as it is, without the zeros that fill it up
    hashes = [
        hashlib.sha256(block[at : at + PIECE]).digest()[:16] for block in blocks for at in range(0, length, PIECE)
    ]
    fixed = struct.pack("<4sHHHHIII32s", b"DRKQ", 1, 0, data, spare, length, PIECE, size, pack_id)
    body = fixed + b"".join(hashes)
    header = body + hashlib.sha256(body).digest()
    assert made[:head] == made[-head:] == header


def test_without_the_package_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zfec", None)
    with pytest.raises(UsageError, match="zfec") as caught:
        parity.library()
    assert "drkit[parity]" in caught.value.hint


@relaxed
@given(
    st.tuples(st.integers(0, 300), st.integers(0, 300)),
    st.tuples(st.sampled_from([0, 1, PIECE, 2**32 - 1]), st.sampled_from([0, 1, PIECE - 1, PIECE, 2**32 - 1])),
    st.sampled_from([0, 1, PIECE, 2 * PIECE + 1, 2**26, 2**32 - 1]),
    st.binary(min_size=16, max_size=16),
    st.binary(max_size=100),
)
def test_a_forged_header_harms_nobody(
    km: tuple[int, int], lengths: tuple[int, int], size: int, one: bytes, spare: bytes
) -> None:
    """Whoever can write the store can write any header; what is healed still has the hash that was asked for."""
    pack_id, pack = pack_of(PIECE)
    length, piece = lengths
    hashes = one * min(sum(km) * -(-length // max(piece, 1)), 2000)
    body = struct.pack("<4sHHHHIII32s", b"DRKQ", 1, 0, *km, *lengths, size, pack_id) + hashes
    header = body + hashlib.sha256(body).digest()
    for made in (header + spare + header, header, spare + header):
        assert not parity.is_whole(pack_id, made)
        try:
            healed = parity.heal(pack_id, b"\0" + pack[1:], made)
        except FormatError:
            continue
        assert healed in (None, pack)
