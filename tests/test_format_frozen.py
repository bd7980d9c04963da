"""Frozen bytes: a change of the format that nobody meant fails here, and old repositories stay readable.

What can be computed from the document alone is computed here once more, without drkit's own code.
"""

from __future__ import annotations

import hashlib
import json
import struct
from array import array

import zstandard

from drkit.format import frames, hints, indexfile, nodes, snapshot
from drkit.format import settings as settings_format
from drkit.format.indexfile import IndexedPack, IndexObject
from drkit.format.manifest import decode_entries, encode_line
from drkit.format.pack import PackTable, encode_tail, read_table
from drkit.format.settings import Settings
from drkit.format.treehash import TreeHash
from drkit.model import Child, Entry, FormatVersion, IndexId, Kind, PackId, Place, Root, Snapshot


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def entry(path: str, kind: str, **fields: object) -> Entry:
    return Entry(path=path, type=kind, uid=1000, gid=100, mtime_ns=1_700_000_000_000_000_001, **fields)  # type: ignore[arg-type]


TREE = [
    entry("README.md", "f", mode=0o644, size=6, sha256=sha(b"hello\n")),
    entry("bin", "d", mode=0o1755),
    entry("bin/run", "f", mode=0o4755, size=2, sha256=sha(b"#!"), xattrs={"user.note": "aGk="}, link=0xABCDEF012345),
    entry("bin/zero", "f", mode=0, sha256=sha(b"")),
    entry("bin.txt", "f", mode=0o600, size=3, sha256=sha(b"abc"), blobs=(sha(b"ab"), sha(b"c"))),
    entry("link", "l", mode=0, target="../el sewhere"),
    Entry(path_b64="bm/D", type="l", mode=0, uid=0, gid=0, mtime_ns=-1, target_b64="/w=="),
    entry("pipe", "p", mode=0o622),
    entry("tty", "c", mode=0o660, rdev=1281),
    entry("tty0", "b", mode=0o660, rdev=7),
]


def test_tree_hash() -> None:
    """Field by field as section 6 of the document says: length as u32, then the bytes."""
    rows = [
        (b"README.md", b"f", b"644", hashlib.sha256(b"hello\n").digest()),
        (b"bin", b"d", b"1755", b""),
        (b"bin/run", b"f", b"4755", hashlib.sha256(b"#!").digest()),
        (b"bin/zero", b"f", b"0", hashlib.sha256(b"").digest()),
        (b"bin.txt", b"f", b"600", hashlib.sha256(b"abc").digest()),
        (b"link", b"l", b"", b"../el sewhere"),
        (b"no\xc3", b"l", b"", b"\xff"),
        (b"pipe", b"p", b"622", b""),
        (b"tty", b"c", b"660", b"1281"),
        (b"tty0", b"b", b"660", b"7"),
    ]
    plain = b"".join(struct.pack("<I", len(field)) + field for row in rows for field in row)
    digest = TreeHash()
    for each in TREE:
        digest.add_entry(each)
    assert digest.hexdigest() == sha(plain)
    assert digest.hexdigest() == "52fe017bcfcc28b349ef55403d771f488e4755deac45a262b93725c2691191ab"
    assert TreeHash().hexdigest() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_manifest_lines() -> None:
    lines = b"".join(map(encode_line, TREE))
    assert lines.splitlines()[2].decode() == (
        '{"path":"bin/run","type":"f","mode":2541,"uid":1000,"gid":100,"mtime_ns":1700000000000000001,"size":2,'
        f'"sha256":"{sha(b"#!")}","xattrs":{{"user.note":"aGk="}},"link":188900966474565}}'
    )
    assert lines.splitlines()[6].decode() == (
        '{"path_b64":"bm/D","type":"l","mode":0,"uid":0,"gid":0,"mtime_ns":-1,"target_b64":"/w=="}'
    )
    assert sha(lines) == "c8ca9f10f485760605852a556daf50297e7f35c9e5fbc6f8950c554c5598d558"
    assert decode_entries(lines) == TREE


def test_where_segments_end() -> None:
    """SHA-256(path) starts with a u32 that 32 divides."""
    paths = [b"plugins/p%03d/SKILL.md" % number for number in range(400)] + [b"", b"\xff\xfe", b"a/b\n"]
    ends = [path for path in paths if nodes.cuts_segment(path)]
    assert ends == [path for path in paths if struct.unpack(">I", hashlib.sha256(path).digest()[:4])[0] % 32 == 0]
    assert [int(path[9:12]) for path in ends] == [86, 108, 115, 131, 141, 189, 203, 236, 258, 267, 309, 313, 398]


def test_where_lists_end() -> None:
    """Each level looks at four other bytes, modulo 16."""
    paths = [b"plugins/p%03d" % number for number in range(300)]
    for level in range(7):
        ends = [path for path in paths if nodes.cuts_list(path, level)]
        assert ends == [
            path for path in paths if struct.unpack(">8I", hashlib.sha256(path).digest())[level + 1] % 16 == 0
        ]
        assert ends
    children = [(path, nodes.encode_child(path, hashlib.sha256(path).digest())) for path in paths]
    cut = nodes.split_list(children, 0)
    assert [child for part in cut for child in part] == children
    assert [part[-1][0] for part in cut[:-1]] == [path for path in paths[:-1] if nodes.cuts_list(path, 0)]
    assert [len(part) for part in cut] == [10, 10, 23, 5, 8, 1, 1, 22, 10, 48, 17, 14, 13, 8, 34, 53, 19, 1, 3]


def test_full_nodes_end_anyway() -> None:
    plain = [path for path in (b"f%05d" % n for n in range(3000)) if not nodes.cuts_list(path, 0)][:600]
    assert [len(part) for part in nodes.split_list([(path, b"-" * 60) for path in plain], 0)] == [256, 256, 88]
    assert [len(part) for part in nodes.split_list([(path, b"-" * 2**17) for path in plain[:20]], 0)] == [8, 8, 4]
    assert nodes.split_list([], 0) == []


PACK = PackId(hashlib.sha256(b"a pack").digest())
IDS = [hashlib.sha256(b"blob %d" % number).digest() for number in range(5)]


def table() -> PackTable:
    made = PackTable.empty()
    made.add(1000, [(Kind.DATA, IDS[0], 700), (Kind.DATA, IDS[1], 1500)])
    made.add(300, [(Kind.SEGMENT, IDS[2], 400), (Kind.HINTS, b"", 68), (Kind.LIST, IDS[3], 64), (Kind.HINTS, b"", 48)])
    return made


def test_the_end_of_a_pack() -> None:
    tail = encode_tail(table())
    assert tail[:4] == struct.pack("<I", 0x184D2A5D)
    length = struct.unpack_from("<I", tail, 4)[0]
    plain = zstandard.ZstdDecompressor().decompress(tail[8 : 8 + length])
    assert plain == (
        struct.pack("<HHIII", 1, 0, 2, 6, 4)
        + struct.pack("<2I", 2, 4)
        + bytes([0, 0, 1, 3, 2, 3])
        + struct.pack("<6I", 700, 1500, 400, 68, 64, 48)
        + b"".join(IDS[:4])
    )
    assert tail[8 + length :] == (
        struct.pack("<II", 0x184D2A5E, 3 * 8 + 9)
        + struct.pack("<6I", 1000, 2200, 300, 580, length + 8, 0)
        + struct.pack("<IBI", 3, 0, 0x8F92EAB1)
    )
    frozen = bytes.fromhex(
        "5d2a4d18bf00000028b52ffd20b6b10500010000000200000006000000040000000200000004000000000001030203bc"
        "020000dc05000090010000440000004000000030000000a32b217ef17069c89f5f22c5a0b1b0f1292375d7304acc3f5d"
        "8a6ecc7e0c72088ea720af7d06fc784e8a1e71cf77659b56e75cbed34969abb290689af960c86d974b8f4f45ebf7114b"
        "dbcb2e9132662134d46b6fe433660b7b2e93ce096b269adc383e6cb34a818fc2f8469077cd5ff3589f0a548d2717c67d"
        "536a7dab6d55155e2a4d1821000000e8030000980800002c01000044020000c7000000000000000300000000b1ea928f"
    )
    pack = bytes(1300) + frozen
    assert read_table(len(pack), lambda offset, size: pack[offset : offset + size]) == table()


def test_an_index_object() -> None:
    index = IndexObject((IndexedPack(PACK, 2000, indexfile.shorten(table())),), (IndexId(IDS[4]),))
    plain = frames.decode(indexfile.encode(index))
    assert plain == (
        b"DRKI"
        + struct.pack("<HHI", 1, 0, 1)
        + struct.pack("<4I", 1, 2, 6, 4)
        + IDS[4]
        + PACK
        + struct.pack("<q", 2000)
        + struct.pack("<I", 2)
        + struct.pack("<2I", 1000, 300)
        + struct.pack("<2I", 2200, 580)
        + struct.pack("<2I", 2, 4)
        + bytes([0, 0, 1, 3, 2, 3])
        + struct.pack("<6I", 700, 1500, 400, 68, 64, 48)
        + b"".join(blob_id[:16] for blob_id in IDS[:4])
    )
    assert (
        indexfile.decode(
            bytes.fromhex(
                "28b52ffd20dea50600340c44524b4901000000020000000600000004000000dfa4cb22d9ed2cdee3e52925d2fe3b5375"
                "32082b36556f929aa1d188a34c2e43d55b179625eddb11f50e77ddd1bb9660f7373879e56123ffdc1e0a9d9ff30428d0"
                "0700e80300002c010000980800004402000001030203bc020000dc05000090010000440000004000000030000000a32b"
                "217ef17069c89f5f22c5a0b1b0f18ea720af7d06fc784e8a1e71cf77659b974b8f4f45ebf7114bdbcb2e91326621dc38"
                "3e6cb34a818fc2f8469077cd5ff305006708c0cde885031edc35132e0e"
            )
        )
        == index
    )


def test_hints() -> None:
    other = PackId(b"\x01" * 32)
    places = [
        Place(hints.SELF, 0, 1000, 0, 700),
        Place(hints.SELF, 0, 1000, 700, 1500),
        None,
        Place(hints.SELF, 0, 1000, 700, 1500),
        Place(other, 7, 9, 5, 1),
        Place(other, 7, 9, 3, 2),
    ]
    data = hints.encode(places)
    assert data == (
        struct.pack("<II", 2, 6)
        + bytes(32)
        + b"\x01" * 32
        + struct.pack("<6I", 0, 0, 0, 0, 1, 1)
        + struct.pack("<6I", 0, 0, 0, 0, 7, 7)
        + struct.pack("<6I", 1000, 1000, 0, 1000, 9, 9)
        + struct.pack("<6I", 0, 0, 0, 700, 5, 2**32 - 3)
        + struct.pack("<6I", 700, 1500, 0, 1500, 1, 2)
    )
    own = [
        Place(PACK, *(getattr(place, name) for name in place.__struct_fields__[1:])) if place else None
        for place in places
    ]
    assert hints.decode(data, PACK) == [
        place if place is None or place.pack == other else mine for place, mine in zip(places, own, strict=True)
    ]


def test_settings() -> None:
    settings = Settings(
        FormatVersion(),
        "0123456789abcdef" * 2,
        "2025-01-02T03:04:05+00:00",
        compression=settings_format.CompressionSettings(6, 3),
    )
    data = settings_format.encode(settings)
    assert json.loads(data) == {
        "format": {"major": 1, "minor": 0, "requires": []},
        "repository_id": "0123456789abcdef0123456789abcdef",
        "created": "2025-01-02T03:04:05+00:00",
        "chunker": {
            "algorithm": "fastcdc-2020",
            "gear": "destor",
            "seed": 0,
            "normalization": 1,
            "threshold": 2097152,
            "min": 262144,
            "avg": 1048576,
            "max": 4194304,
        },
        "compression": {"small_level": 6, "chunk_level": 3},
        "checksum": "98687700f1fe2d3e726b9f0ae6b46063052950aee49ded319f85d0f1d08403b2",
    }


def test_a_snapshot() -> None:
    child = Child(first="README.md", id=sha(b"segment"), pack=PACK.hex(), frame_length=1000, offset=5, length=10)
    taken = Snapshot(
        format=FormatVersion(),
        repository_id="0" * 32,
        time="20250102T030405.000006Z",
        clock="2025-01-02T03:04:05.000006+00:00",
        host="host",
        manifest=Root(1, (child,)),
        plugin_table=Root(0, ()),
        tree_sha256=sha(b"tree"),
        program="drkit 0",
        scope="whole",
        source="/source",
        tags=("nightly",),
        files=3,
        bytes=12,
    )
    name, data = snapshot.encode(taken)
    assert (
        name
        == "snapshots/20250102T030405.000006Z-4b883d27bfd290f615cfc49db32dcf538b23ad2e793e108e463857c232abaab6.json"
    )
    assert json.loads(data)["manifest"] == {
        "level": 1,
        "children": [
            {
                "first": "README.md",
                "id": sha(b"segment"),
                "pack": PACK.hex(),
                "frame_length": 1000,
                "offset": 5,
                "length": 10,
            }
        ],
    }
    assert array("I").itemsize == 4  # what the columns rely on
