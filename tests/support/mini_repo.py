"""A second, tiny writer of the repository format, straight from docs/format.md and independent of drkit's own.

It checks the document: what it writes must be readable by everything that reads repositories, and a manifest that
it cuts has the same ids as drkit's. Entries are given as records (the keys of an entry, without those that describe
the content) with their content, so that hostile manifests are written as easily as honest ones.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

Record = dict[str, Any]
Entry = tuple[Record, bytes]
Line = tuple[bytes, bytes, list[bytes]]
"""Path, JSON line without its newline, and the ids of the blobs or nodes below it."""

ORDER = (
    "path path_b64 type mode uid gid mtime_ns size sha256 blobs lists target target_b64 xattrs link rdev live".split()  # noqa: SIM905
)
FORMAT = {"major": 1, "minor": 0, "requires": []}


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=6, write_checksum=False, write_content_size=True).compress(data)


def dumps(record: Any, *, sort: bool = False) -> bytes:
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False, sort_keys=sort).encode()


def named(key: str, value: bytes) -> Record:
    """The key with a string, or with `_b64` where the bytes are not UTF-8."""
    try:
        return {key: value.decode()}
    except UnicodeDecodeError:
        return {key + "_b64": base64.b64encode(value).decode()}


def raw(record: Record, key: str) -> bytes:
    coded = record.get(key + "_b64")
    return base64.b64decode(coded) if coded else str(record[key]).encode()


def tree_hash(entries: list[Entry], below: bytes | None = None) -> str:
    """Section 6; `below` is a plugin's path, for the hash of that plugin."""
    digest = hashlib.sha256()
    for record, content in entries:
        path = raw(record, "path")
        if below:
            if path != below and not path.startswith(below + b"/"):
                continue
            path = path[len(below) + 1 :]
        kind = record["type"]
        proof = {"f": sha(content), "l": content}.get(kind, b"")
        proof = b"%d" % record["rdev"] if kind in "cb" else proof
        mode = b"" if kind == "l" else b"%o" % (record.get("mode") or 0)
        for part in (path, kind.encode(), mode, proof):
            digest.update(struct.pack("<I", len(part)) + part)
    return digest.hexdigest()


KINDS = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFIFO: "p"}


def scan(source: Path) -> list[Entry]:
    """The entries of a directory on disk, in manifest order; neither sockets nor devices."""
    found: list[Entry] = []
    groups: dict[tuple[int, int], int] = {}

    def visit(directory: bytes, prefix: bytes) -> None:
        for name in sorted(os.listdir(directory)):
            full, path = directory + b"/" + name, prefix + name
            info = os.lstat(full)
            kind = KINDS.get(stat.S_IFMT(info.st_mode))
            if kind is None:
                continue
            record = {**named("path", path), "type": kind, "mode": 0 if kind == "l" else stat.S_IMODE(info.st_mode)}
            record |= {"uid": info.st_uid, "gid": info.st_gid, "mtime_ns": info.st_mtime_ns}
            xattrs = {n: os.getxattr(full, n) for n in os.listxattr(full, follow_symlinks=False)}
            if xattrs:
                record["xattrs"] = {n: base64.b64encode(value).decode() for n, value in xattrs.items()}
            if kind != "d" and info.st_nlink > 1:
                group = int.from_bytes(sha(path)[:6], "big")
                record["link"] = groups.setdefault((info.st_dev, info.st_ino), group)
            content = os.readlink(full) if kind == "l" else Path(os.fsdecode(full)).read_bytes() if kind == "f" else b""
            found.append((record, content))
            if kind == "d":
                visit(full, path + b"/")

    visit(os.fsencode(source), b"")
    return found


@dataclass
class Pack:
    """A pack that is being filled; `id` is empty until it is stored."""

    id: bytes = b""
    body: bytearray = field(default_factory=bytearray)
    frames: list[tuple[int, int]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    blobs: list[tuple[int, int, bytes]] = field(default_factory=list)  # kind, length, id


@dataclass
class Place:
    pack: Pack
    frame_offset: int = 0
    frame_length: int = 0
    offset: int = 0
    length: int = 0


@dataclass
class MiniRepo:
    """A repository at `root`. Small `frame`, `chunk` and `pack_size` make many of each out of little content.

    Blobs of which `spoil` (kind, content) is true are stored as zeros; `compress` may make frames that it must not.
    """

    root: Path
    frame: int = 1 << 20
    chunk: int = 1 << 20
    pack_size: int = 32 << 20
    hints: bool = True
    spoil: Callable[[int, bytes], bool] = lambda kind, data: False
    compress: Callable[[bytes], bytes] = zstd
    known: dict[bytes, Place] = field(default_factory=dict)
    packs: list[Pack] = field(default_factory=lambda: [Pack()])
    waiting: list[tuple[int, bytes, Place]] = field(default_factory=list)
    clock: int = 0

    def __post_init__(self) -> None:
        for name in ("packs", "index", "snapshots"):
            (self.root / name).mkdir(parents=True)
        self.settings()

    def settings(self, **changes: Any) -> None:
        record = {"format": FORMAT, "repository_id": "0" * 31 + "1", "created": "2025-01-01T00:00:00Z", **changes}
        record["checksum"] = sha(dumps(record, sort=True)).hex()
        for name in ("drkit.json", "drkit-copy.json"):
            (self.root / name).write_bytes(dumps(record))

    # -- blobs, frames and packs: sections 3 and 4

    def blob(self, kind: int, data: bytes, children: list[bytes] | None = None) -> bytes:
        """Put a blob, with hints behind it if it has children, into the waiting frame; returns its id."""
        if sha(data) not in self.known:
            self.known[sha(data)] = place = Place(self.packs[-1], 0, 0, sum(len(w[1]) for w in self.waiting), len(data))
            self.waiting.append((kind, data, place))
            if children is not None and self.hints:
                hints = self.hint_blob(children)
                self.waiting.append((3, hints, Place(self.packs[-1])))
            if sum(len(w[1]) for w in self.waiting) >= self.frame:
                self.flush()
        return sha(data)

    def hint_blob(self, children: list[bytes]) -> bytes:
        packs: list[bytes] = []
        columns: list[list[int]] = [[], [], [], [], []]
        before, end = None, 0
        for child in dict.fromkeys(children):
            place = self.known[child]
            pack = place.pack.id or bytes(32)
            packs += [] if pack in packs else [pack]
            here = (pack, place.frame_offset)
            row = (packs.index(pack), place.frame_offset, place.frame_length)
            difference = place.offset - (end if here == before else 0)
            before, end = here, place.offset + place.length
            for column, value in zip(columns, (*row, difference % 2**32, place.length), strict=True):
                column.append(value)
        header = struct.pack("<II", len(packs), len(columns[0])) + b"".join(packs)
        return header + b"".join(struct.pack(f"<{len(c)}I", *c) for c in columns)

    def flush(self) -> None:
        """End the waiting frame."""
        pack = self.packs[-1]
        if self.waiting:
            parts = [bytes(len(data)) if self.spoil(kind, data) else data for kind, data, _ in self.waiting]
            stored = self.compress(b"".join(parts))
            for kind, data, place in self.waiting:
                place.frame_offset, place.frame_length = len(pack.body), len(stored)
                pack.blobs.append((kind, len(data), sha(data)))
            pack.frames.append((len(stored), sum(len(data) for _, data, _ in self.waiting)))
            pack.counts.append(len(self.waiting))
            pack.body += stored
            self.waiting.clear()
        if len(pack.body) >= self.pack_size:
            self.close_pack()

    def close_pack(self) -> None:
        pack = self.packs[-1]
        if not pack.frames:
            return
        ids = [id_ for kind, _, id_ in pack.blobs if kind != 3]
        n = len(pack.blobs)
        table = struct.pack("<HHIII", 1, 0, len(pack.frames), n, len(ids)) + struct.pack(
            f"<{len(pack.counts)}I", *pack.counts
        )
        table += bytes(b[0] for b in pack.blobs) + struct.pack(f"<{n}I", *(b[1] for b in pack.blobs)) + b"".join(ids)
        table = zstd(table)
        table = struct.pack("<II", 0x184D2A5D, len(table)) + table
        rows = [*pack.frames, (len(table), 0)]
        seek = b"".join(struct.pack("<II", *row) for row in rows) + struct.pack("<IBI", len(rows), 0, 0x8F92EAB1)
        data = bytes(pack.body) + table + struct.pack("<II", 0x184D2A5E, len(seek)) + seek
        pack.id, pack.body = sha(data), bytearray(len(data))
        path = self.root / "packs" / pack.id.hex()[:2] / f"{pack.id.hex()}.zst"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        self.packs.append(Pack())

    def write_index(self) -> None:
        """Section 8, over all packs."""
        packs = [pack for pack in self.packs if pack.id]
        frames = [frame for pack in packs for frame in pack.frames]
        counts = [count for pack in packs for count in pack.counts]
        blobs = [blob for pack in packs for blob in pack.blobs]
        ids = [id_[:16] for kind, _, id_ in blobs if kind != 3]
        data = b"DRKI" + struct.pack("<HHIIIII", 1, 0, 0, len(packs), len(frames), len(blobs), len(ids))
        data += b"".join(pack.id for pack in packs) + struct.pack(
            f"<{len(packs)}q", *(len(pack.body) for pack in packs)
        )
        data += struct.pack(f"<{len(packs)}I", *(len(pack.frames) for pack in packs))
        for column in ([f[0] for f in frames], [f[1] for f in frames], counts):
            data += struct.pack(f"<{len(frames)}I", *column)
        data += bytes(b[0] for b in blobs) + struct.pack(f"<{len(blobs)}I", *(b[1] for b in blobs)) + b"".join(ids)
        data = zstd(data)
        (self.root / "index" / f"{sha(data).hex()}.zst").write_bytes(data)

    # -- manifest: section 5

    def entry_line(self, record: Record) -> Line:
        """First path, line and children of an entry whose content is stored already, under `_blobs`."""
        record = dict(record)
        ids = record.pop("_blobs", [])
        children = ids
        if len(ids) > 64:
            cut = [ids[i : i + 16384] for i in range(0, len(ids), 16384)]
            children = [self.blob(2, b"".join(part), part) for part in cut]
            record["lists"] = [id_.hex() for id_ in children]
        elif len(ids) > 1:
            record["blobs"] = [id_.hex() for id_ in ids]
        line = record.pop("_line", None) or dumps({key: record[key] for key in ORDER if key in record})
        return raw(record, "path"), line, children

    def tree(self, lines: list[Line]) -> Record:
        """Cut lines into segments, segments into lists, and so on; returns the root."""
        level, kind, every, low = 0, 1, 32, 0
        nodes = lines
        while True:
            parents: list[Line] = []
            stretch: list[Line] = []
            for i, node in enumerate(nodes):
                stretch.append(node)
                number = int.from_bytes(sha(node[0])[low : low + 4], "big")
                size = sum(len(n[1]) + 1 for n in stretch)
                if number % every == 0 or len(stretch) == 256 or size >= 1 << 20 or i + 1 == len(nodes):
                    text = b"".join(n[1] + b"\n" for n in stretch)
                    id_ = self.blob(kind, text, [child for n in stretch for child in n[2]])
                    line = dumps({**named("first", stretch[0][0]), "id": id_.hex()})
                    parents.append((stretch[0][0], line, [id_]))
                    stretch = []
            self.flush()
            if len(parents) <= 16:
                return {"level": level, "children": [parent[1] for parent in parents]}
            nodes, kind, every, level = parents, 2, 16, level + 1
            low = 4 * level

    def backup(self, entries: list[Entry], plugins: dict[bytes, str] | None = None, **changes: Any) -> str:
        """Store entries and their content; returns the snapshot's id. `changes` are keys of the snapshot."""
        records: list[Record] = []
        for record, content in entries:
            more: Record = {}
            if record["type"] == "f":
                parts = [content[i : i + self.chunk] for i in range(0, len(content), self.chunk)]
                more = {"sha256": sha(content).hex(), "_blobs": [self.blob(0, part) for part in parts]}
                more |= {"size": len(content)} if content else {}
            elif record["type"] == "l":
                more = named("target", content)
            records.append({**more, **record})
        self.flush()
        lines = [self.entry_line(record) for record in records]
        self.flush()
        manifest = self.tree(lines)
        rows: list[Line] = []
        for path, name in (plugins or {}).items():
            row = {**named("path", path), "name": name, "files": 0, "bytes": 0, "tree_sha256": tree_hash(entries, path)}
            rows.append((path, dumps(row), []))
        table = self.tree(rows)
        self.close_pack()
        self.write_index()
        for root in (manifest, table):
            root["children"] = [self.root_child(json.loads(line)) for line in root["children"]]
        self.clock += 1
        stamp = f"20250101T000000.{self.clock:06}Z"
        snapshot = {
            "format": FORMAT, "repository_id": "0" * 31 + "1", "time": stamp, "clock": stamp, "host": "here",
            "source": "/source", "parent": None, "tags": [], "excludes": [], "scope": "whole",
            "files": sum(e[0]["type"] == "f" for e in entries), "plugins": len(rows), "bytes": 0, "skipped": 0,
            "tree_sha256": tree_hash(entries), "manifest": manifest, "plugin_table": table, "program": "mini",
            **changes,
        }  # fmt: skip
        data = dumps(snapshot)
        (self.root / "snapshots" / f"{stamp}-{sha(data).hex()}.json").write_bytes(data)
        return sha(data).hex()

    def root_child(self, child: Record) -> Record:
        place = self.known[bytes.fromhex(child["id"])]
        where = {"frame_offset": place.frame_offset, "frame_length": place.frame_length}
        return {**child, "pack": place.pack.id.hex(), **where, "offset": place.offset, "length": place.length}
