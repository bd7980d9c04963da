#!/usr/bin/env python3
"""Bring everything back from this drkit repository, without drkit.

    python3 recover.py --list                   show the snapshots
    python3 recover.py --target DIR [SNAP]      restore a snapshot (default: the latest) into DIR
    python3 recover.py --check [SNAP]           decode and hash all of a snapshot, write nothing

DIR must be missing or empty. Needs Python 3.8 or later on Linux, macOS or another Unix, and one of: Python 3.14,
the Python package `zstandard`, the command `zstd`. RECOVER.md beside this file says what the bytes mean.

Exit codes: 0 all is there and proved; 2 wrong usage; 3 done in part, and what is lost is listed; 10 no repository;
20 damaged beyond reading, or of a kind that this program cannot read; 21 what was restored is not what was backed up.
"""
# This file must run on Python 3.8, which has no zip(strict=...).
# ruff: noqa: B905

from __future__ import annotations

import argparse
import base64
import errno
import fnmatch
import functools
import hashlib
import importlib
import itertools
import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

MAX_FRAME = 8 << 20  # plaintext and window of a frame
MAX_TABLE = 64 << 20  # plaintext of a blob table or an index object
MAX_JSON = 1 << 20  # a line of the manifest, a snapshot, the settings
CACHE = 64 << 20  # bytes of decoded frames that are kept
BATCH = 8192  # files that are restored together, ordered by frame
HOLE = bytes(64 << 10)  # as many zeros become a hole in the file
HINTS = 3  # the kind of blob that has no id
INVALID = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)  # what bad JSON comes to


class StopError(Exception):
    """The program cannot go on, and ends with this exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class DamagedError(Exception):
    """Bytes are missing, or are not what they must be."""


def say(text: str) -> None:
    """Tell the user, on stderr."""
    print(text, file=sys.stderr, flush=True)


def shown(path: bytes) -> str:
    """Return a path so that it can be printed: whatever is not printable is escaped."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text) or "."


def reason(error: Exception) -> str:
    """Return what went wrong, without Python's decoration."""
    return getattr(error, "strerror", None) or str(error) or repr(error)


# ---- zstd ----------------------------------------------------------------------------------------------------------


def frame_layout(data: bytes, limit: int) -> tuple[int, list[int]]:
    """Return the size that the zstd frame at the start of `data` states, and where its header and each block end.

    Nothing is decoded. A frame that is cut short, or whose blocks go astray, gives the blocks up to there.
    DamagedError if the header makes no sense, or if content size or window are over `limit`.
    """
    if data[:4] != b"\x28\xb5\x2f\xfd" or len(data) < 9:
        raise DamagedError("this is no zstd frame")
    flags = data[4]
    single = bool(flags & 0x20)
    size_width = (int(single), 2, 4, 8)[flags >> 6]
    if flags & 0x0B or not size_width:
        raise DamagedError("the zstd frame does not state its size, wants a dictionary, or is of a later version")
    position = (5 if single else 6) + size_width
    size = int.from_bytes(data[position - size_width : position], "little") + (256 if size_width == 2 else 0)
    window = size if single else ((8 + (data[5] & 7)) << (10 + (data[5] >> 3))) // 8
    if max(size, window) > limit:
        raise DamagedError(f"the zstd frame wants {max(size, window)} bytes of memory, {limit} are allowed")
    ends = [position]
    last = 0
    while not last and position + 3 <= len(data):
        block = int.from_bytes(data[position : position + 3], "little")
        last = block & 1
        position += 3 + (1 if block >> 1 & 3 == 1 else block >> 3) + (flags & 4 if last else 0)
        ends.append(min(position, len(data)))
    return size, ends


def decode_with_library(zstd: Any, data: bytes, ends: list[int], size: int) -> bytes:
    """Decode with a Python module, block by block, so that everything before a damaged block is kept."""
    stream = zstd.ZstdDecompressor()
    if hasattr(stream, "decompressobj"):  # the package zstandard
        stream = stream.decompressobj()
    plain, position = bytearray(), 0
    for end in ends:
        try:
            plain += stream.decompress(data[position:end])
        except (zstd.ZstdError, EOFError):
            break
        position = end
        if len(plain) > size:
            break
    return bytes(plain[:size])


def decode_with_command(data: bytes, ends: list[int], size: int) -> bytes:
    """Decode with the zstd command, which also prints what stands before the damage."""
    with tempfile.TemporaryFile() as frame:
        frame.write(data[: ends[-1]])
        frame.seek(0)
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        with subprocess.Popen(["zstd", "-dcq"], stdin=frame, stdout=pipe, stderr=null) as process:
            plain = process.stdout.read(size) if process.stdout else b""
            process.kill()
    return plain


def find_decoder() -> Callable[[bytes, list[int], int], bytes]:
    """Return a function of (frame, where its blocks end, stated size) that decodes with what this machine has.

    It returns what can be decoded, never more than the stated size. Whether it is right is for the hashes to say.
    """
    for name in ("compression.zstd", "zstandard"):
        try:
            zstd: Any = importlib.import_module(name)
        except ImportError:
            continue
        return functools.partial(decode_with_library, zstd)
    if shutil.which("zstd"):
        return decode_with_command
    raise StopError(2, "no zstd here: install the command (apt install zstd) or the package (pip install zstandard)")


# ---- Reading bytes -------------------------------------------------------------------------------------------------


def read_range(path: str, offset: int, length: int) -> bytes:
    """Return these bytes of a file, or as many as can be read from a failing disk."""
    data = b""
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        try:
            while len(data) < length and (part := file.read(length - len(data))):
                data += part
        except OSError as error:
            say(f"warning: {path}: {error.strerror}")
    return data


class Columns:
    """A binary table, read column by column. Asking for more than there is raises DamagedError."""

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data, self.position = data, position

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        self.position += size
        if self.position > len(self.data):
            raise DamagedError("a table is too short")
        return self.data[self.position - size : self.position]

    def numbers(self, count: int, code: str = "I") -> tuple[int, ...]:
        """Return a column of little-endian numbers: I for u32, H for u16, q for i64, B for u8."""
        return struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize("<" + code)))

    def ids(self, count: int, width: int = 32) -> list[bytes]:
        """Return a column of ids."""
        column = self.take(count * width)
        return [column[i : i + width] for i in range(0, len(column), width)]


def check_format(found: dict[str, Any], what: str) -> None:
    """Raise DamagedError if something is of a version that this program does not know."""
    requires = found.get("requires", [])
    if "encryption" in requires:
        raise DamagedError(f"{what} is encrypted, which this version of recover.py cannot read")
    if found["major"] != 1 or requires:
        raise DamagedError(f"{what} has format {found['major']} and requires {requires}: take a newer recover.py")


def id_of(text: str) -> bytes:
    """Return an id from its 64 hexadecimal digits; ValueError if it is none."""
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise ValueError(f"{text!r} is not an id")
    return bytes.fromhex(text)


def raw(record: dict[str, Any], name: str) -> bytes:
    """Return the bytes that stand under `name`, or in base64 under `name`_b64; none if neither is there."""
    coded = record.get(name + "_b64")
    plain: bytes = record.get(name, "").encode() if coded is None else base64.b64decode(coded, validate=True)
    return plain


def number(record: dict[str, Any], name: str, low: int, high: int, default: int | None = None) -> int:
    """Return a whole number between low and high; ValueError if it is none."""
    value = record.get(name, default)
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}")
    return value


def child_of(record: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return first path and id of a child of a list or root."""
    return raw(record, "first"), id_of(record["id"])


def order(path: bytes) -> bytes:
    """Return the key by which paths are sorted: a directory stands directly before its content."""
    return path.replace(b"/", b"\0")


def below(path: bytes, directory: bytes) -> bool:
    """Is it the directory itself or something in it? The empty path is the source, which holds all."""
    return not directory or path == directory or path.startswith(directory + b"/")


class Entry:
    """One path of the manifest. What the manifest says is not trusted: ValueError and the like if it breaks a rule."""

    def __init__(self, line: bytes) -> None:
        record = json.loads(line.decode())
        self.path, self.type = raw(record, "path"), str(record["type"])
        parts = self.path.split(b"/")
        if len(self.path) > 4096 or b"\0" in self.path or max(map(len, parts)) > 255 or {b"", b".", b".."} & {*parts}:
            raise ValueError("this path may not be restored")
        if self.type not in {*"fdlpcb"} or len(line) > MAX_JSON:
            raise ValueError("the type is not known, or the line is too long")
        self.mode = number(record, "mode", 0, 0o7777)
        self.uid, self.gid = (number(record, name, -1, 1 << 32, -1) for name in ("uid", "gid"))
        self.mtime = number(record, "mtime_ns", -1 << 63, (1 << 63) - 1)
        self.xattrs = {str(k): base64.b64decode(v, validate=True) for k, v in record.get("xattrs", {}).items()}
        self.rdev = number(record, "rdev", 0, 1 << 64, 0)
        self.size = number(record, "size", 0, 1 << 63, 0) if self.type == "f" else 0
        self.lists, self.blobs = ([id_of(text) for text in record.get(name, ())] for name in ("lists", "blobs"))
        self.proof = b""  # what stands for the content in the tree hash
        self.twin: tuple[Any, ...] = ()  # equal for the names of one hard-linked file
        if self.type == "f":
            self.proof = id_of(record["sha256"])
            if self.size and not self.lists and not self.blobs:
                self.blobs = [self.proof]
            if record.get("link"):
                self.twin = (number(record, "link", 1, 1 << 48), self.proof, self.size, self.mode, self.mtime)
        elif self.type == "l":
            self.proof = raw(record, "target")
            if not self.proof or b"\0" in self.proof:
                raise ValueError("the link has no target, or one with a NUL")
        elif self.type in "cb":
            self.proof = b"%d" % self.rdev


def hash_fields(path: bytes, letter: str, mode: int, proof: bytes) -> bytes:
    """Return what one path adds to the tree hash. Symbolic links have no mode."""
    fields = (path, letter.encode(), b"" if letter == "l" else b"%o" % mode, proof)
    return b"".join(len(field).to_bytes(4, "little") + field for field in fields)


# ---- The repository ------------------------------------------------------------------------------------------------


class Repository:
    """Finds and decodes blobs. Every blob that it returns has the SHA-256 that was asked for.

    Where blobs lie is learned from the packs' tables, and if those fail from the index and the hints; all three
    are only clues, since the hash decides. A place is one number: frame << 48 | offset in it << 24 | length.
    """

    def __init__(self, root: str) -> None:
        """Read the settings. StopError if this is no repository that can be read."""
        self.root = root
        self.packs: list[str] = []
        self.pack_numbers: dict[bytes, int] = {}
        self.frames: list[tuple[int, int, int]] = []  # pack, offset in it, compressed length
        self.frame_numbers: dict[tuple[int, int, int], int] = {}
        self.places: dict[bytes, int] = {}  # the first 16 bytes of an id are enough to look for it
        self.other_places: dict[bytes, list[int]] = {}
        self.index_loaded = False
        self.decoded: OrderedDict[int, bytes] = OrderedDict()
        self.decoded_size = 0
        self.read_settings()

    def read_packs(self) -> None:
        """Read the tables of all packs. StopError if there is nothing here that decodes zstd."""
        self.decoder = find_decoder()
        for directory in self.names("packs"):
            for name in self.names("packs", directory):
                if name.endswith(".enc"):
                    raise StopError(20, "the repository is encrypted, which this version of recover.py cannot read")
                if re.fullmatch(r"[0-9a-f]{64}\.zst", name):
                    self.pack_numbers[bytes.fromhex(name[:64])] = len(self.packs)
                    self.packs.append(os.path.join(self.root, "packs", directory, name))
        for pack, path in enumerate(self.packs):
            try:
                self.read_pack(pack, path)
            except (DamagedError, OSError) as error:
                say(f"warning: {path}: {error}; looking in the index and the hints for what it holds")
                self.load_index()

    def names(self, *directory: str) -> list[str]:
        """Return the sorted names in a directory of the repository; none if it is missing."""
        path = os.path.join(self.root, *directory)
        return sorted(os.listdir(path)) if os.path.isdir(path) else []

    def read_settings(self) -> None:
        """Check drkit.json and its copy; with neither, go on if it looks like a repository."""
        good = None
        for name in ("drkit.json", "drkit-copy.json"):
            try:
                settings = json.loads(read_range(os.path.join(self.root, name), 0, MAX_JSON).decode())
                checksum = settings.pop("checksum")
                text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
                if hashlib.sha256(text.encode()).hexdigest() != checksum:
                    raise ValueError("its checksum is wrong")
                good = good or settings
            except (OSError, *INVALID) as error:
                say(f"warning: {name} is missing or damaged: {reason(error)}")
        if not good and not self.names("snapshots"):
            raise StopError(10, f"there is no drkit repository in {self.root}")
        try:
            check_format(good["format"] if good else {"major": 1}, "the repository")
        except (DamagedError, *INVALID) as error:
            raise StopError(20, str(error)) from None

    def read_pack(self, pack: int, path: str) -> None:
        """Learn the places of a pack's blobs from the tables at its end."""
        size = os.path.getsize(path)
        footer = Columns(read_range(path, max(0, size - 9), 9))
        count = footer.numbers(1)[0]
        start = size - 17 - 8 * count
        if footer.take(5) != b"\0\xb1\xea\x92\x8f" or not count or start < 0:
            raise DamagedError("the end of the pack is damaged")
        seek_table = Columns(read_range(path, start, 8 + 8 * count))
        header = seek_table.take(8)
        sizes = [seek_table.numbers(2) for _ in range(count)]
        if header != struct.pack("<II", 0x184D2A5E, 8 * count + 9) or sum(row[0] for row in sizes) != start:
            raise DamagedError("the seek table is damaged")
        table = read_range(path, start - sizes[-1][0], sizes[-1][0])
        if table[:8] != struct.pack("<II", 0x184D2A5D, len(table) - 8):
            raise DamagedError("the blob table is damaged")
        columns = Columns(self.decode(table[8:], MAX_TABLE))
        check_format({"major": columns.numbers(2, "H")[0]}, "the pack")
        frames, blobs, ids = columns.numbers(3)
        counts, kinds, lengths = columns.numbers(frames), columns.numbers(blobs, "B"), columns.numbers(blobs)
        self.learn_pack(pack, sizes[:-1], counts, list(zip(kinds, lengths)), columns.ids(ids))

    def load_index(self) -> bool:
        """Learn the places that the index objects know, once. Return whether this was the first time."""
        if self.index_loaded:
            return False
        self.index_loaded = True
        for name in self.names("index"):
            try:
                data = read_range(os.path.join(self.root, "index", name), 0, MAX_TABLE)
                if hashlib.sha256(data).hexdigest() + ".zst" != name:
                    raise DamagedError("its bytes do not hash to its name")
                self.read_index(Columns(self.decode(data, MAX_TABLE)))
            except (DamagedError, OSError) as error:
                say(f"warning: index/{name}: {error}")
        return True

    def read_index(self, columns: Columns) -> None:
        """Learn the places in one index object. Its columns run over all its packs in order."""
        if columns.take(4) != b"DRKI":
            raise DamagedError("this is no index object")
        check_format({"major": columns.numbers(2, "H")[0]}, "the index object")
        superseded, pack_count, frame_count, blob_count, id_count = columns.numbers(5)
        columns.ids(superseded)
        packs, _ = columns.ids(pack_count), columns.numbers(pack_count, "q")
        frames_of = columns.numbers(pack_count)
        sizes = list(zip(columns.numbers(frame_count), columns.numbers(frame_count)))
        counts = columns.numbers(frame_count)
        blobs = list(zip(columns.numbers(blob_count, "B"), columns.numbers(blob_count)))
        ids = iter(columns.ids(id_count, 16))
        frame = blob = 0
        for pack, frames in zip(packs, frames_of):
            here = slice(frame, frame + frames)
            there = slice(blob, blob + sum(counts[here]))
            own = list(itertools.islice(ids, sum(kind != HINTS for kind, _ in blobs[there])))
            if pack in self.pack_numbers:
                self.learn_pack(self.pack_numbers[pack], sizes[here], counts[here], blobs[there], own)
            frame, blob = here.stop, there.stop

    def learn_pack(
        self, pack: int, sizes: Sequence[Sequence[int]], counts: Iterable[int], blobs: Iterable[Any], ids: list[bytes]
    ) -> None:
        """Learn a pack's blobs from its frames' sizes, and the blobs' numbers in frames, (kind, length) and ids."""
        rows, remaining, frame_offset = iter(blobs), iter(ids), 0
        for (compressed, plain), count in zip(sizes, counts):
            offset = 0
            for kind, length in itertools.islice(rows, count):
                if kind != HINTS:
                    self.learn(next(remaining, b""), (pack, frame_offset, compressed), offset, length)
                offset += length
            if offset != plain:
                raise DamagedError("the blobs of a frame do not add up to its size")
            frame_offset += compressed

    def learn(self, blob: bytes, where: tuple[int, int, int], offset: int, length: int) -> None:
        """Learn one place of a blob: (pack, offset in it, compressed length) of its frame, and its place in there."""
        if where[2] > 2 * MAX_FRAME or not 0 < length <= MAX_FRAME or offset > MAX_FRAME:
            return  # this cannot be true
        frame = self.frame_numbers.setdefault(where, len(self.frames))
        if frame == len(self.frames):
            self.frames.append(where)
        place = frame << 48 | offset << 24 | length
        if self.places.setdefault(blob[:16], place) != place:
            others = self.other_places.setdefault(blob[:16], [])
            if place not in others:
                others.append(place)

    def learn_hints(self, place: int, children: list[bytes]) -> None:
        """Learn where a node's children are from the hints directly behind the node, if there are any that fit."""
        children = list(OrderedDict.fromkeys(children))
        own_pack = self.frames[place >> 48][0]
        columns = Columns(self.decoded_frame(place >> 48), (place >> 24 & 0xFFFFFF) + (place & 0xFFFFFF))
        try:
            pack_count, rows = columns.numbers(2)
            packs = [self.pack_numbers.get(pack, -1) if any(pack) else own_pack for pack in columns.ids(pack_count)]
            table = [columns.numbers(rows) for _ in range(5)] if rows == len(children) else [()] * 5
        except DamagedError:
            return
        before, end = (-1, -1), 0
        for child, pack, frame_offset, compressed, difference, length in zip(children, *table):
            offset = (difference + (end if before == (pack, frame_offset) else 0)) & 0xFFFFFFFF
            before, end = (pack, frame_offset) if length else (-1, -1), offset + length
            if pack < pack_count and packs[pack] >= 0:
                self.learn(child, (packs[pack], frame_offset, compressed), offset, length)

    def decode(self, data: bytes, limit: int) -> bytes:
        """Return the plaintext of a zstd frame, or what of it can be had. DamagedError if it must not be decoded."""
        size, ends = frame_layout(data, limit)
        return self.decoder(data, ends, size)

    def decoded_frame(self, frame: int) -> bytes:
        """Return a frame's plaintext, or what of it can be had, which may be nothing."""
        if frame in self.decoded:
            self.decoded.move_to_end(frame)
            return self.decoded[frame]
        pack, offset, compressed = self.frames[frame]
        try:
            plain = self.decode(read_range(self.packs[pack], offset, compressed), MAX_FRAME)
        except (DamagedError, OSError) as error:
            say(f"warning: {self.packs[pack]}, frame at {offset}: {error}")
            plain = b""
        self.decoded[frame] = plain
        self.decoded_size += len(plain)
        while self.decoded_size > CACHE:
            self.decoded_size -= len(self.decoded.popitem(last=False)[1])
        return plain

    def blob(self, blob: bytes) -> tuple[bytes, int]:
        """Return a blob and its place. DamagedError if it is nowhere, or nowhere whole."""
        tried: list[int] = []
        known = self.places.get(blob[:16])
        for _ in range(2):
            for place in [] if known is None else [known, *self.other_places.get(blob[:16], ())]:
                if place not in tried:
                    offset, length = place >> 24 & 0xFFFFFF, place & 0xFFFFFF
                    data = self.decoded_frame(place >> 48)[offset : offset + length]
                    if hashlib.sha256(data).digest() == blob:
                        return data, place
                    tried.append(place)
            if not self.load_index():
                break
            known = self.places.get(blob[:16])
        packs = {os.path.basename(self.packs[self.frames[place >> 48][0]]) for place in tried}
        raise DamagedError(f"blob {blob.hex()} is {'damaged in ' + ', '.join(packs) if packs else 'missing'}")

    def content(self, entry: Entry) -> Iterator[bytes]:
        """Yield a file's content, blob by blob. DamagedError when it is not, or is more than, what `entry` says."""
        size, digest = 0, hashlib.sha256()
        for group in entry.lists or [b""]:
            ids = entry.blobs
            if group:
                data, place = self.blob(group)
                ids = Columns(data).ids(len(data) // 32)
                self.learn_hints(place, ids)
            for blob in ids:
                data, _ = self.blob(blob)
                size += len(data)
                if size > entry.size:
                    raise DamagedError("there is more content than the size in the manifest")
                digest.update(data)
                yield data
        if size != entry.size or digest.digest() != entry.proof:
            raise DamagedError("the content does not have the size and SHA-256 in the manifest")

    def snapshot_names(self) -> list[str]:
        """Return the names of the snapshots, oldest first."""
        pattern = r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{64}\.json"
        return [name for name in self.names("snapshots") if re.fullmatch(pattern, name)]

    def snapshot(self, name: str) -> dict[str, Any]:
        """Return a snapshot. DamagedError if it is, or if it is of a kind that this program does not know."""
        try:
            data = read_range(os.path.join(self.root, "snapshots", name), 0, MAX_JSON + 1)
            if hashlib.sha256(data).hexdigest() != name[-69:-5]:
                raise DamagedError(f"snapshots/{name} is damaged: its bytes do not hash to its name")
            snapshot: dict[str, Any] = json.loads(data.decode())
            check_format(snapshot["format"], f"snapshots/{name}")
            snapshot["tags"] = [str(tag) for tag in snapshot.get("tags") or ()]
            if snapshot["scope"] != "whole":
                raise DamagedError(f"snapshots/{name} is a partial snapshot: take a newer recover.py")
        except (OSError, *INVALID) as error:
            raise DamagedError(f"snapshots/{name} cannot be read: {error!r}") from None
        return snapshot


# ---- Writing -------------------------------------------------------------------------------------------------------

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
KINDS = dict(zip("dflpcb", (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK)))


def write(fd: int, data: bytes) -> None:
    """Write all of it, leaving holes for long runs of zeros."""
    for start in range(0, len(data), len(HOLE)):
        part = data[start : start + len(HOLE)]
        if part == HOLE:
            os.lseek(fd, len(part), os.SEEK_CUR)
        else:
            while part:
                part = part[os.write(fd, part) :]


def file_hash(name: bytes, folder: int, mode: int) -> bytes:
    """Return the SHA-256 of a file; one that its owner may not read is made readable for a moment."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=folder)
    except PermissionError:
        os.chmod(name, 0o600, dir_fd=folder)
        fd = os.open(name, flags, dir_fd=folder)
        os.fchmod(fd, mode)
    digest = hashlib.sha256()
    with open(fd, "rb", buffering=0) as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.digest()


class Target:
    """The directory that is restored into. Nothing is opened but below it, and never through a symbolic link."""

    def __init__(self, path: str) -> None:
        try:
            os.makedirs(path, exist_ok=True)
            self.root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StopError(2, f"cannot restore into {path}: {error.strerror}") from None
        if os.listdir(self.root):
            raise StopError(2, f"{path} is not empty: name a directory that is missing or empty")
        self.near = (b"", os.dup(self.root))  # the directory that was used last
        self.made_up: set[bytes] = set()  # directories whose entries are lost
        self.refused: dict[str, list[Any]] = {}  # what the system refused: how often, first path, its error

    def directory(self, path: bytes, make: bool = False) -> int:
        """Return a descriptor of a directory, good until the next call; `make` makes those that are missing."""
        if path == self.near[0]:
            return self.near[1]
        done, fd = self.near if below(path, self.near[0]) else (b"", self.root)
        fd = os.dup(fd)
        for part in filter(None, path[len(done) :].split(b"/")):
            done = done + b"/" + part if done else part
            try:
                if make and os.fsdecode(part) not in os.listdir(fd):
                    os.mkdir(part, 0o700, dir_fd=fd)
                    self.made_up.add(done)
                inner = os.open(part, OPEN_DIRECTORY, dir_fd=fd)
            finally:
                os.close(fd)
            fd = inner
        os.close(self.near[1])
        self.near = (path, fd)
        return fd

    def parent(self, path: bytes, make: bool = False) -> tuple[bytes, int]:
        """Return the last component, and a descriptor of the directory that it stands in."""
        directory, _, name = path.rpartition(b"/")
        return name, self.directory(directory, make)

    def put(self, entry: Entry, content: Iterable[bytes], make: bool, twin: bytes | None) -> None:
        """Restore one path, which must not be there; with `twin` as a hard link of that path."""
        name, folder = self.parent(entry.path, make)
        if twin is not None:
            folder = os.dup(folder)
            try:
                twin_name, twin_folder = self.parent(twin)
                os.link(twin_name, name, src_dir_fd=twin_folder, dst_dir_fd=folder, follow_symlinks=False)
            finally:
                os.close(folder)
        elif entry.type == "d":
            os.mkdir(name, 0o700, dir_fd=folder)  # its own mode comes when everything is in it
        elif entry.type == "f":
            self.put_file(entry, content, name, folder)
        else:
            if entry.type == "l":
                os.symlink(entry.proof, name, dir_fd=folder)
            else:
                os.mknod(name, KINDS[entry.type] | 0o600, entry.rdev, dir_fd=folder)
            self.dress(entry, name, folder)

    def put_file(self, entry: Entry, content: Iterable[bytes], name: bytes, folder: int) -> None:
        """Write a file. If anything goes wrong, no file is left."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=folder)
        try:
            for data in content:
                write(fd, data)
            os.ftruncate(fd, entry.size)  # its end may be a hole
            self.dress(entry, fd)
        except BaseException:
            os.unlink(name, dir_fd=folder)
            raise
        finally:
            os.close(fd)

    def dress(self, entry: Entry, at: int | bytes, folder: int | None = None) -> None:
        """Set owner, xattrs, mode and time of a descriptor, or of a name in `folder`, in an order that keeps all."""
        if os.geteuid() == 0 and entry.uid >= 0 and entry.gid >= 0:
            try:
                os.chown(at, entry.uid, entry.gid, dir_fd=folder, follow_symlinks=folder is None)
            except (OSError, OverflowError) as error:
                self.refuse("owner", entry, error)
        for name, value in entry.xattrs.items():
            try:
                if folder is not None:
                    raise OSError(errno.ENOTSUP, "can be set on files and directories only")
                os.setxattr(at, name, value)
            except (OSError, AttributeError, ValueError) as error:  # only Linux has os.setxattr
                self.refuse(f"extended attribute {name!r}", entry, error)
        if entry.type != "l":
            os.chmod(at, entry.mode, dir_fd=folder)
        os.utime(at, ns=(entry.mtime, entry.mtime), dir_fd=folder, follow_symlinks=folder is None)

    def refuse(self, what: str, entry: Entry, error: Exception) -> None:
        """Note that the system refused something which is not content."""
        self.refused.setdefault(what, [0, entry.path, error])[0] += 1

    def tree_hash(self, with_root: bool) -> str:
        """Read everything back from the disk and return its tree hash."""
        digest = hashlib.sha256()
        if with_root:
            digest.update(hash_fields(b"", "d", stat.S_IMODE(os.fstat(self.root).st_mode), b""))
        letters = {kind: letter for letter, kind in KINDS.items()}
        pending = self.listing(b"")
        while pending:
            path = pending.pop()
            name, folder = self.parent(path)
            info = os.stat(name, dir_fd=folder, follow_symlinks=False)
            letter, mode, proof = letters.get(stat.S_IFMT(info.st_mode), "s"), stat.S_IMODE(info.st_mode), b""
            if letter == "f":
                proof = file_hash(name, folder, mode)
            elif letter == "l":
                proof = os.readlink(name, dir_fd=folder)
            elif letter in "cb":
                proof = b"%d" % info.st_rdev
            elif letter == "d":
                pending += self.listing(path)
            if path not in self.made_up:
                digest.update(hash_fields(path, letter, mode, proof))
        return digest.hexdigest()

    def listing(self, path: bytes) -> list[bytes]:
        """Return the paths in a directory, last first."""
        names = sorted(map(os.fsencode, os.listdir(self.directory(path))), reverse=True)
        return [path + b"/" + name if path else name for name in names]


# ---- The work ------------------------------------------------------------------------------------------------------


def matches(names: list[bytes], pattern: list[bytes]) -> bool:
    """Do these path components match? `**` stands for any number of them."""
    if not pattern or pattern[0] != b"**":
        same = bool(names and pattern) and fnmatch.fnmatchcase(names[0], pattern[0])
        return matches(names[1:], pattern[1:]) if same else not names and not pattern
    return any(matches(names[i:], pattern[1:]) for i in range(len(names) + 1))


def chosen(entries: Iterable[Entry], globs: list[str]) -> Iterator[Entry]:
    """Yield the entries that match a glob, all that is below them, and the directories that lead there.

    A glob without `/` matches any component, one with `/` matches from the root.
    """
    patterns = [os.fsencode(glob if "/" in glob else "**/" + glob).strip(b"/").split(b"/") for glob in globs]
    leading: list[Entry] = []
    whole: bytes | None = None
    for entry in entries:
        while leading and not below(entry.path, leading[-1].path):
            leading.pop()
        if whole is None or not below(entry.path, whole):
            if not any(matches(entry.path.split(b"/"), pattern) for pattern in patterns):
                leading += [entry] if entry.type == "d" else []
                continue
            whole = entry.path
        yield from leading
        yield entry
        leading = []


class Recovery:
    """One run: a snapshot, or a plugin of it, restored into a target, or only checked if there is no target."""

    def __init__(self, repo: Repository, snapshot: dict[str, Any], target: Target | None) -> None:
        self.repo, self.snapshot, self.target = repo, snapshot, target
        self.lost: dict[str, str] = {}
        self.gap = False  # a stretch of the manifest is lost
        self.counts = {"files": 0, "directories": 0, "others": 0, "bytes": 0}
        self.directories: list[Entry] = []
        self.twins: dict[tuple[Any, ...], bytes] = {}
        self.expected = hashlib.sha256()
        self.next_report = time.monotonic() + 1

    def lose(self, first: bytes, end: bytes | None, why: str) -> None:
        """Note that a stretch of the manifest or the plugin table is lost."""
        self.gap = True
        self.lost[f"everything from {shown(first)} " + (f"to before {shown(end)}" if end else "to the end")] = why

    def segments(
        self, children: list[tuple[bytes, bytes]], level: int, end: bytes | None, only: bytes
    ) -> Iterator[tuple[list[bytes], int]]:
        """Yield lines and place of the segments below these nodes that can hold the path `only` or what is in it."""
        for (first, node), upto in zip(children, [*(child[0] for child in children[1:]), end]):
            if upto is not None and order(upto) <= order(only):
                continue
            if order(first) > order(only) and not below(first, only):
                break
            try:
                if upto is not None and order(upto) <= order(first):
                    raise DamagedError("the list is not sorted")
                data, place = self.repo.blob(node)
                if level:
                    lower = [child_of(json.loads(line.decode())) for line in data.split(b"\n")[:-1]]
                    if lower[0][0] != first:
                        raise DamagedError("the list does not begin where it should")
                    self.repo.learn_hints(place, [child[1] for child in lower])
            except (DamagedError, *INVALID) as error:
                self.lose(first, upto, str(error))
                continue
            if level:
                yield from self.segments(lower, level - 1, upto, only)
            else:
                yield data.split(b"\n")[:-1], place

    def tree(self, name: str, only: bytes) -> Iterator[tuple[list[bytes], int]]:
        """Yield the segments of the snapshot's `manifest` or `plugin_table`, as `segments` does."""
        try:
            level = number(self.snapshot[name], "level", 0, 7)
            children = [child_of(record) for record in self.snapshot[name]["children"]]
            for record, (_, node) in zip(self.snapshot[name]["children"], children):
                pack = self.repo.pack_numbers.get(bytes.fromhex(record.get("pack", "")))
                if pack is not None:
                    keys = ("frame_offset", "frame_length", "offset", "length")
                    frame_offset, compressed, offset, length = (number(record, key, 0, 1 << 32, 0) for key in keys)
                    self.repo.learn(node, (pack, frame_offset, compressed), offset, length)
        except INVALID as error:
            raise StopError(20, f"the snapshot's {name} cannot be read: {error!r}") from None
        return self.segments(children, level, None, only)

    def plugin(self, wanted: str) -> tuple[bytes, str]:
        """Return path and tree hash of the plugin with this path or name; StopError if there is not exactly one."""
        rows: list[tuple[bytes, str, str]] = []
        for lines, _ in self.tree("plugin_table", b""):
            try:
                records = [json.loads(line.decode()) for line in lines]
                rows += [(raw(record, "path"), record.get("name", ""), record["tree_sha256"]) for record in records]
            except INVALID as error:
                raise StopError(20, f"the plugin table cannot be read: {error!r}") from None
        path = os.fsencode(wanted).strip(b"/") if wanted != "." else b""
        found = [row for row in rows if row[0] == path] or [row for row in rows if row[1] == wanted]
        if not found and self.gap:
            return path, ""
        if len(found) != 1:
            several = "several plugins are" if found else "no plugin is"
            paths = "\n  ".join(shown(row[0]) for row in found or rows)
            raise StopError(2, f"{several} called {wanted}; name one of these paths:\n  {paths}")
        return found[0][0], found[0][2]

    def entries(self, only: bytes) -> Iterator[Entry]:
        """Yield the manifest's entries at and below `only`, with paths relative to it.

        An entry that breaks a rule is lost, and never stops the others.
        """
        previous = b""
        parents: list[bytes] = []
        for lines, place in self.tree("manifest", only):
            good: list[Entry] = []
            children: list[bytes] = []
            for line in lines:
                try:
                    entry = Entry(line)
                    children += entry.lists or entry.blobs
                    if order(entry.path) <= previous:
                        raise ValueError("the path is not greater than the one before")
                    previous = order(entry.path)
                    if not below(entry.path, only):
                        continue
                    entry.path = entry.path[len(only) :].lstrip(b"/")
                    while parents and not below(entry.path, parents[-1]):
                        parents.pop()
                    if entry.path.rpartition(b"/")[0] != (parents or [b""])[-1] and not self.gap:
                        raise ValueError("its parent is not a directory of the manifest")
                    if entry.type == "d":
                        parents += filter(None, [entry.path])
                    elif not entry.path:
                        raise ValueError("it is not a directory")
                    good.append(entry)
                except INVALID as error:
                    self.lost[shown(line[:200])] = f"refused: {reason(error)}"
            self.repo.learn_hints(place, children)
            yield from good

    def run(self, only: bytes, globs: list[str]) -> None:
        """Restore, or check, everything that is asked for; whatever cannot be had is in `lost` afterwards."""
        entries = chosen(self.entries(only), globs) if globs else self.entries(only)
        while batch := list(itertools.islice(entries, BATCH)):
            batch_order = sorted(batch, key=self.first_place)
            gone = {entry.path for entry in batch_order if not self.restore(entry)}
            for entry in batch:
                if entry.path not in gone:
                    self.expected.update(hash_fields(entry.path, entry.type, entry.mode, entry.proof))
        for entry in reversed(self.directories if self.target else []):
            assert self.target
            try:
                self.target.dress(entry, self.target.directory(entry.path))
            except (OSError, OverflowError) as error:
                self.target.refuse("mode or time", entry, error)

    def first_place(self, entry: Entry) -> int:
        """Return where a file's content begins, so that a frame is decoded once; what has no content comes first."""
        start = (entry.lists or entry.blobs or [b""])[0]
        return self.repo.places.get(start[:16], 0) if start else -1

    def restore(self, entry: Entry) -> bool:
        """Restore one path. Return whether it is there now; if not, it is in `lost`."""
        twin = self.twins.get(entry.twin) if entry.twin else None
        try:
            if self.target is None:
                for _ in self.repo.content(entry) if entry.type == "f" else ():
                    pass
            elif entry.path:
                self.target.put(entry, self.repo.content(entry), self.gap, twin)
        except (DamagedError, OSError, OverflowError) as error:
            if getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT):
                raise StopError(3, f"no space left: {shown(entry.path)} and all after it are missing") from None
            self.lost[shown(entry.path)] = reason(error)
            return False
        if entry.twin:
            self.twins.setdefault(entry.twin, entry.path)
        if entry.type == "d":
            self.directories.append(entry)
        self.counts[{"f": "files", "d": "directories"}.get(entry.type, "others")] += 1
        self.counts["bytes"] += entry.size
        if time.monotonic() >= self.next_report:
            self.next_report = time.monotonic() + 1
            say(f"{self.counts['files']} files, {self.counts['bytes'] >> 20} MiB, at {shown(entry.path)}")
        return True

    def finish(self, wanted: str) -> int:
        """Read back what was restored, tell what was lost, and return the exit code.

        `wanted` is the tree hash in the snapshot, or empty if only a part of its tree was asked for.
        """
        print("restored" if self.target else "checked", ", ".join(f"{n} {what}" for what, n in self.counts.items()))
        for what, why in self.lost.items():
            print(f"LOST {what}: {why}")
        refused = self.target.refused if self.target else {}
        for what, (count, path, error) in refused.items():
            print(f"NOT SET {what}, {count} times, first on {shown(path)}: {reason(error)}")
        if self.target and os.geteuid():
            say("owners were not restored: only root can do that")
        found = expected = self.expected.hexdigest()
        if self.target:
            say("reading back what was restored")
            try:
                found = self.target.tree_hash(with_root=any(not entry.path for entry in self.directories[:1]))
            except OSError as error:
                raise StopError(21, f"what was restored cannot be read back: {error}") from None
        if found != expected or (wanted and not self.lost and expected != wanted):
            raise StopError(21, f"MISMATCH: the tree hash is {found}, it should be {wanted or expected}")
        if self.lost:
            print("everything but what is lost is right")
            return 3 if any(self.counts.values()) else 20
        print(f"tree hash equal: {found}" + ("" if wanted else " (of the part that was asked for)"))
        return 3 if refused else 0


# ---- The command line ----------------------------------------------------------------------------------------------


def list_snapshots(repo: Repository) -> int:
    """Print one line for each snapshot, oldest first."""
    code = 0
    for name in repo.snapshot_names():
        try:
            snapshot = repo.snapshot(name)
            tags = "".join(f" [{tag}]" for tag in snapshot["tags"])
            source = shown(raw(snapshot, "source"))
            counts = f"{snapshot.get('files', 0)} files, {snapshot.get('plugins', 0)} plugins"
            print(f"{name[:23]}  {name[24:40]}  {source}  {counts}{tags}")
        except (DamagedError, *INVALID) as error:
            code = 3
            print(f"{name[:23]}  {name[24:40]}  UNREADABLE: {error}")
    return code


def find_snapshot(repo: Repository, spec: str) -> tuple[dict[str, Any], int]:
    """Return a snapshot by id prefix or `latest`, and the exit code 3 if a newer one is damaged, else 0."""
    names = repo.snapshot_names()
    if not names:
        raise StopError(20 if repo.packs else 2, "the repository has no snapshot")
    code = 0
    if spec != "latest":
        names = [name for name in names if name[24:].startswith(spec)]
        if len(names) != 1:
            raise StopError(2, f"{len(names)} snapshots have an id that begins with {spec}: see --list")
    for name in reversed(names):
        try:
            snapshot = repo.snapshot(name)
        except DamagedError as error:
            say(f"warning: {error}")
            code = 3
            continue
        if spec != "latest" or "rejected" not in snapshot["tags"]:
            say(f"snapshot {name[24:40]} of {name[:23]}")
            return snapshot, code
    raise StopError(20 if code else 2, "no snapshot can be read" if code else "all snapshots are tagged rejected")


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for, and return the exit code."""
    repo = Repository(args.repo)
    if args.list:
        return list_snapshots(repo)
    repo.read_packs()
    snapshot, code = find_snapshot(repo, args.snapshot)
    if code:
        print("A NEWER SNAPSHOT IS DAMAGED; this is the newest that can be read")
    work = Recovery(repo, snapshot, None)
    only, wanted = work.plugin(args.plugin) if args.plugin else (b"", str(snapshot.get("tree_sha256")))
    work.target = Target(args.target) if args.target else None
    work.run(only, args.include)
    if not any(work.counts.values()) and not work.lost and args.include:
        raise StopError(2, "nothing in the snapshot matches")
    return max(work.finish("" if args.include else wanted), code)


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="show the snapshots")
    what.add_argument("--target", metavar="DIR", help="restore into DIR, which must be missing or empty")
    what.add_argument("--check", action="store_true", help="decode and hash everything, write nothing")
    parser.add_argument("--plugin", metavar="PLUGIN", help="only this plugin (path or name), its content into DIR")
    parser.add_argument(
        "--include", metavar="GLOB", action="append", default=[], help="only what matches; ** stands for directories"
    )
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("--repo", metavar="DIR", default=here, help="the repository (default: where this file lies)")
    parser.add_argument(
        "snapshot", metavar="SNAP", nargs="?", default="latest", help="the beginning of an id, or latest"
    )
    try:
        return run(parser.parse_args(arguments))
    except StopError as stop:
        say(f"error: {stop}")
        return stop.code
    except KeyboardInterrupt:
        say("interrupted; what was restored so far is incomplete")
        return 130


if __name__ == "__main__":
    sys.exit(main())
