#!/usr/bin/env python3
"""Bring everything back from this drkit repository, without drkit.

    python3 recover.py --list                   show the snapshots
    python3 recover.py --target DIR [SNAP]      restore a snapshot (default: the latest) into DIR
    python3 recover.py --check [SNAP]           decode and hash all of a snapshot, write nothing

DIR must be missing or empty. Needs Python 3.8 or later on Linux, macOS or another Unix, and one of: Python 3.14,
the Python package `zstandard`, the command `zstd`; for an encrypted repository the package `cryptography`, too, and the
passphrase (it asks, or takes DRKIT_PASSWORD, DRKIT_PASSWORD_FILE, DRKIT_PASSWORD_COMMAND) or --key-file.
RECOVER.md beside this file says what the bytes mean.

Exit codes: 0 all is there and proved; 2 wrong usage; 3 done in part, and what is lost is listed; 10 no repository;
12 wrong key; 20 damaged beyond reading, or of a kind that this program cannot read; 21 what was restored is not what
was backed up.
"""
# This file must run on Python 3.8, which has no zip(strict=...).
# ruff: noqa: B905

from __future__ import annotations

import argparse
import base64
import contextlib
import errno
import functools
import getpass
import hashlib
import hmac
import importlib
import itertools
import json
import os
import re
import shlex
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

MAX_FRAME = 8 << 20  # plaintext and window of a frame
MAX_TABLE = 64 << 20  # plaintext of a blob table or an index object
MAX_JSON = 1 << 20  # a line of the manifest, a snapshot, the settings
CACHE = 80 << 20  # bytes of decoded frames that are kept
PIECE = 512  # bytes that are decoded at a time, and that can become 16 MiB at most
HOLE = bytes(64 << 10)  # as many zeros become a hole in the file
HINTS = 3  # the kind of blob that has no id; not needed here
PLACE = struct.Struct("<IQ3I")  # pack, offset of the frame in it, compressed length, offset in the frame, length
INVALID = (ValueError, LookupError, TypeError, AttributeError, RecursionError)  # what bad JSON comes to


class StopError(Exception):
    """The program cannot go on, and ends with this exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class DamagedError(ValueError):
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


# -- zstd


def frame_size(data: bytes, limit: int) -> int:
    """Return the size that the zstd frame at the start of `data` states.

    DamagedError if the header makes no sense, or if the size or the window, the memory to decode it, is over `limit`.
    """
    if data[:4] != b"\x28\xb5\x2f\xfd" or len(data) < 9:
        raise DamagedError("this is no zstd frame")
    flags = data[4]
    single = bool(flags & 0x20)
    width = (int(single), 2, 4, 8)[flags >> 6]
    if flags & 0x0B or not width:
        raise DamagedError("the zstd frame does not state its size, wants a dictionary, or is of a later version")
    start = 5 if single else 6
    size = int.from_bytes(data[start : start + width], "little") + (256 if width == 2 else 0)
    window = size if single else ((8 + (data[5] & 7)) << (10 + (data[5] >> 3))) // 8
    if max(size, window) > limit:
        raise DamagedError(f"the zstd frame wants {max(size, window)} bytes of memory, {limit} are allowed")
    return size


def decode_with_library(zstd: Any, data: bytes, size: int) -> bytes:
    """Decode with a Python module; a damaged frame again, byte by byte, so that all before the damage is kept."""
    plain = bytearray()
    for step in (PIECE, 1):
        stream = zstd.ZstdDecompressor()
        if hasattr(stream, "decompressobj"):  # the package zstandard
            stream = stream.decompressobj()
        plain.clear()
        try:
            for start in range(0, len(data), step):
                plain += stream.decompress(data[start : start + step])
                if len(plain) >= size:
                    break
            break
        except (zstd.ZstdError, EOFError):
            continue
    return bytes(plain[:size])


def decode_with_command(data: bytes, size: int) -> bytes:
    """Decode with the zstd command, which also prints what stands before a damage."""
    with tempfile.TemporaryFile() as frame:
        frame.write(data)
        frame.seek(0)
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        with subprocess.Popen(["zstd", "-dcq"], stdin=frame, stdout=pipe, stderr=null) as process:
            plain = process.stdout.read(size) if process.stdout else b""
            process.kill()
    return plain


def find_decoder() -> Callable[[bytes, int], bytes]:
    """Return a function of (frame, stated size) that decodes with what this machine has.

    It returns what can be decoded, never more than the stated size. Whether it is right is for the hashes to say.
    """
    for name in ("compression.zstd", "zstandard"):
        try:
            return functools.partial(decode_with_library, importlib.import_module(name))
        except ImportError:
            continue
    if shutil.which("zstd"):
        return decode_with_command
    raise StopError(2, "no zstd here: install the command (apt install zstd) or the package (pip install zstandard)")


# -- Reading bytes


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


class Files:
    """The objects of a repository in a directory, by the names that the format gives them."""

    def __init__(self, root: str) -> None:
        self.root = root

    def stored(self, directory: str) -> list[str]:
        """Return the sorted names of the files in a directory of the repository; none if it is missing."""
        path = os.path.join(self.root, directory)
        return sorted(os.listdir(path)) if os.path.isdir(path) else []

    def names(self, directory: str) -> list[str]:
        """Return the sorted names of the objects in a directory, `packs`, `index` or `snapshots`."""
        inner = self.stored(directory) if directory == "packs" else [""]
        paths = [f"{directory}/{part}" if part else directory for part in inner]
        return [f"{path}/{name}" for path in paths for name in self.stored(path)]

    def path(self, name: str) -> str:
        """Return where an object lies."""
        return os.path.join(self.root, name)

    def size(self, name: str) -> int:
        """Return how many bytes an object has."""
        return os.path.getsize(self.path(name))

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return these bytes of an object, or as many as can be had."""
        return read_range(self.path(name), offset, length)


# -- Encryption

CHUNK, HEAD, TAG = 64 << 10, 20, 16  # bytes of a chunk: plaintext, and what stands before and after the ciphertext
STORED = HEAD + CHUNK + TAG


def derived(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """Return a key of 32 bytes by HKDF-SHA256."""
    return hmac.new(hmac.new(salt, secret, "sha256").digest(), info + b"\1", "sha256").digest()


def canonical(record: Any) -> bytes:
    """Return the JSON that checksums are of, and that authenticates key slots."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def find_crypto() -> Any:
    """Return what is needed of the package `cryptography`; StopError if it is not there."""
    try:
        aead = importlib.import_module("cryptography.hazmat.primitives.ciphers.aead")
        errors = importlib.import_module("cryptography.exceptions")
        return types.SimpleNamespace(AESGCM=aead.AESGCM, AESSIV=aead.AESSIV, InvalidTag=errors.InvalidTag)
    except (ImportError, AttributeError):
        message = "the repository is encrypted: install the Python package cryptography, 37 or later"
        raise StopError(2, f"{message} (pip install cryptography, apt install python3-cryptography)") from None


def parse_key(text: str) -> bytes:
    """Return the 32 bytes of a key file: base64, or the four lines of a paper sheet. ValueError if it has none."""
    parts = {}
    for number, digits in re.findall(r"(?im)^\W*([1-4])\s*:((?:\s*[0-9a-f]){20})\s*$", text):
        line = bytes.fromhex("".join(digits.split()))
        if hashlib.sha256(b"drkit key line" + bytes([int(number)]) + line[:8]).digest()[:2] != line[8:]:
            raise ValueError(f"line {number} of the key is mistyped")
        parts[number] = line[:8]
    key = b"".join(parts[number] for number in sorted(parts)) or base64.b64decode("".join(text.split()), validate=True)
    if len(key) != 32:
        raise ValueError("it holds no whole key")
    return key


PASSWORDS = ("DRKIT_PASSWORD", "DRKIT_PASSWORD_FILE", "DRKIT_PASSWORD_COMMAND")
"""What gives the passphrase; the first that is set."""


def given_secrets(path: str) -> list[tuple[str, bytes]]:
    """Return the kinds of slots that can be opened, `keyfile` or `passphrase`, each with the key or the passphrase.

    `path` is that of the key file, empty if none was named.
    """
    text, file, command = map(os.environ.get, PASSWORDS)
    secrets, what = [], path
    try:
        if path:
            secrets.append(("keyfile", parse_key(read_range(os.path.expanduser(path), 0, 64 << 10).decode())))
        what = "the passphrase" if text or not (file or command) else file or "what DRKIT_PASSWORD_COMMAND prints"
        if text:
            secrets.append(("passphrase", os.fsencode(text)))
        elif file or command:
            if file:
                said = read_range(os.path.expanduser(file), 0, 64 << 10)
            else:
                done = subprocess.run(shlex.split(command or ""), stdout=subprocess.PIPE)
                if done.returncode:
                    raise ValueError(f"the command ended with {done.returncode}")
                said = done.stdout
            secrets.append(("passphrase", re.sub(rb"\r?\n\Z", b"", said)))
        elif not path and sys.stdin.isatty():
            secrets.append(("passphrase", os.fsencode(getpass.getpass("passphrase of the repository: "))))
    except (OSError, ValueError, EOFError, subprocess.SubprocessError) as error:
        raise StopError(2, f"{what} cannot be read: {reason(error)}") from None
    if not secrets:
        raise StopError(12, "the repository is encrypted: give --key-file FILE, or set DRKIT_PASSWORD_FILE")
    return secrets


def slot_key(kind: str, secret: bytes, repository: str, kdf: dict[str, Any]) -> bytes:
    """Return the key that a secret gives; one of INVALID if the numbers for it make no sense."""
    salt = base64.b64decode(kdf["salt"])
    if kind == "keyfile":
        return derived(secret, salt, b"drkit key file" + repository.encode())
    n, r, p = number(kdf, "n", 2, 1 << 20), number(kdf, "r", 1, 16), number(kdf, "p", 1, 4)
    return hashlib.scrypt(secret, salt=salt, n=n, r=r, p=p, maxmem=1 << 30, dklen=32)


def open_sealed(files: Files, found: list[dict[str, Any]], key_file: str) -> SealedFiles:
    """Return the objects of an encrypted repository in clear; one of `found` must be its settings.

    StopError if what is given opens no key slot.
    """
    if not all(isinstance(settings.get("encryption"), dict) for settings in found):
        raise DamagedError("the settings do not say clearly whether, and how, there is encryption")
    crypto, secrets = find_crypto(), given_secrets(key_file)
    rings: list[dict[str, Any]] = []
    for settings in found:
        repository = str(settings["repository_id"])
        for kind, secret in secrets:
            key = slot_key(kind, secret, repository, settings["encryption"]["kdf"])
            for name in files.names("keys"):
                with contextlib.suppress(OSError, crypto.InvalidTag, *INVALID):
                    slot = json.loads(files.read(name, 0, MAX_JSON).decode())
                    wrapped = base64.b64decode(slot.pop("wrapped"))
                    about = b"drkit key slot" + repository.encode() + b"\0" + canonical(slot)
                    rings.append(json.loads(crypto.AESGCM(key).decrypt(wrapped[:12], wrapped[12:], about)))
        if rings:
            sealed = SealedFiles(files.root, repository, max(rings, key=lambda ring: int(ring["current"])), crypto)
            sealed.check_settings(settings)
            return sealed
    if not files.names("keys"):
        raise StopError(20, "the repository is encrypted, and its key slots, the folder `keys`, are lost")
    raise StopError(12, "the key that was given does not open the repository")


class SealedFiles(Files):
    """The objects of an encrypted repository, in clear and under their own names."""

    def __init__(self, root: str, repository: str, ring: dict[str, Any], crypto: Any) -> None:
        super().__init__(root)
        self.info, self.crypto = b"drkit object" + repository.encode() + b"\0", crypto
        self.siv = crypto.AESSIV(base64.b64decode(ring["name"]))
        self.masters = {int(epoch): base64.b64decode(key) for epoch, key in ring["masters"].items()}
        self.lies: dict[str, str] = {}  # where the objects lie, by their own names
        self.ciphers: dict[str, tuple[bytes, Any]] = {}  # by name: the start of each chunk's header, and what opens it
        self.told: set[tuple[str, int]] = set()

    def check_settings(self, settings: dict[str, Any]) -> None:
        """Warn if the settings are not those that were sealed. Nothing of them is needed any more."""
        data = base64.b64decode(settings["sealed"])
        with contextlib.suppress(self.crypto.InvalidTag, *INVALID):
            inside = json.loads(self.opened("drkit.json", 0, data, True))
            if all(inside[key] == settings[key] for key in ("format", "repository_id", "encryption")):
                return
        say("warning: drkit.json is not as it was written: somebody has changed it")

    def names(self, directory: str) -> list[str]:
        """Return the sorted names of the objects in a directory, in clear."""
        for stored in super().names(directory):
            try:
                self.lies[self.unsealed(stored)] = stored
            except (ValueError, self.crypto.InvalidTag):
                say(f"warning: {stored} is no object of this repository")
        return sorted(name for name in self.lies if name.startswith(directory + "/"))

    def unsealed(self, stored: str) -> str:
        """Return the name that a sealed one stands for; ValueError or InvalidTag if it stands for none."""
        match = re.fullmatch(r"(packs/|index/|snapshots/)(?:[0-9a-f]{2}/)?(.*-)?([0-9a-f]{96})(\.\w+)\.enc", stored)
        if not match:
            raise ValueError(stored)
        name = self.siv.decrypt(bytes.fromhex(match[3]), None).hex()
        folder = f"{name[:2]}/" if match[1] == "packs/" else ""
        return f"{match[1]}{folder}{match[2] or ''}{name}{match[4]}"

    def path(self, name: str) -> str:
        """Return where an object lies."""
        return os.path.join(self.root, self.lies.get(name, name))

    def size(self, name: str) -> int:
        """Return how many bytes an object has in clear."""
        stored = super().size(name)
        return stored - -(-stored // STORED) * (HEAD + TAG)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return these bytes of an object in clear, or as many as can be had: up to a chunk that is not authentic."""
        if name not in self.lies:
            return super().read(name, offset, length)
        count = -(-super().size(name) // STORED)
        first, plain = offset // CHUNK, b""
        upto = min(count, -(-(offset + length) // CHUNK))
        data = read_range(self.path(name), first * STORED, (upto - first) * STORED)
        for number in range(first, upto):
            start = (number - first) * STORED
            try:
                plain += self.opened(name, number, data[start : start + STORED], number == count - 1)
            except (ValueError, KeyError, self.crypto.InvalidTag):
                if (name, number) not in self.told:
                    self.told.add((name, number))
                    say(f"warning: {self.path(name)}: bytes from {number * STORED} do not authenticate")
                break
        return plain[offset - first * CHUNK :][:length]

    def opened(self, name: str, number: int, chunk: bytes, last: bool) -> bytes:
        """Return the plaintext of a chunk; ValueError, KeyError or InvalidTag if it is not that chunk."""
        head = chunk[:HEAD]
        version, epoch, flag, zero = head[:4].ljust(4, b"\xff")
        if version != 1 or flag != last or zero:
            raise ValueError("this is no such chunk")
        writing, cipher = self.ciphers.get(name, (b"", None))  # all chunks of an object have the same epoch and salt
        if not writing:
            writing = head[1:2] + head[4:]
            cipher = self.crypto.AESGCM(derived(self.masters[epoch], head[4:], self.info + name.encode()))
        elif writing != head[1:2] + head[4:]:
            raise ValueError("this chunk is of another writing of the object")
        plain: bytes = cipher.decrypt(struct.pack("<IB7x", number, last), chunk[HEAD:], head)
        self.ciphers[name] = writing, cipher
        return plain


class Columns:
    """A binary table, read column by column."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def read(self, count: int, code: str = "I") -> list[Any]:
        """Return a column: numbers (B, H, I unsigned, q signed) or ids (32s, 16s). DamagedError if it is cut short."""
        start = self.position
        self.position += count * struct.calcsize("<" + code)
        if self.position > len(self.data):
            raise DamagedError("a table is cut short")
        return [row[0] for row in struct.iter_unpack("<" + code, self.data[start : self.position])]


def check_format(found: dict[str, Any], what: str, known: Iterable[str] = ()) -> None:
    """Raise DamagedError if something is of a version that this program does not know."""
    if found["major"] != 1 or {*found.get("requires", ())} - {*known}:
        raise DamagedError(f"{what} is of format {found}: take a newer recover.py")


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


def order(path: bytes) -> bytes:
    """Return the key by which paths are sorted: a directory stands directly before its content."""
    return path.replace(b"/", b"\0")


def below(path: bytes, directory: bytes) -> bool:
    """Is it the directory itself or something in it? The empty path is the source, which holds all."""
    return not directory or path == directory or path.startswith(directory + b"/")


class Entry:
    """One path of the manifest. What the manifest says is not trusted: one of INVALID if it breaks a rule."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.path, self.type = raw(record, "path"), str(record["type"])
        parts = self.path.split(b"/")
        if len(self.path) > 4096 or b"\0" in self.path or max(map(len, parts)) > 255 or {b"", b".", b".."} & {*parts}:
            raise ValueError("this path may not be restored")
        if self.type not in {*"fdlpcb"}:
            raise ValueError("its type is not known")
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


# -- The repository


class Repository:
    """Finds and decodes blobs. Every blob that it returns has the SHA-256 that was asked for.

    Where blobs lie is learned from the tables in the packs and from the index objects, which say the same. Both are
    only clues, since the hash decides, and one of the two is enough.
    """

    def __init__(self, files: Files, key_file: str = "") -> None:
        """Read the settings. StopError if this is no repository that can be read."""
        self.files = files
        self.packs: list[str] = []
        self.pack_numbers: dict[bytes, int] = {}
        self.places: dict[bytes, bytes] = {}  # by 16 bytes of the id; further places have one + more each
        self.cache: dict[tuple[int, int, int], bytes] = {}  # decoded frames, the last used last
        self.cached = 0
        self.read_settings(key_file)

    def read(self, name: str, limit: int = MAX_JSON) -> bytes:
        """Return an object; DamagedError if its bytes do not hash to the id in its name, where it has one."""
        data = self.files.read(name, 0, limit)
        wanted = re.search(r"([0-9a-f]{64})\.", name)
        if wanted and hashlib.sha256(data).hexdigest() != wanted[1]:
            raise DamagedError("its bytes do not hash to its name")
        return data

    def read_settings(self, key_file: str) -> None:
        """Check drkit.json and its copy, and open what is encrypted; with neither, go on if it looks like one."""
        found = []
        for name in ("drkit.json", "drkit-copy.json"):
            try:
                settings = json.loads(self.read(name).decode())
                checksum = settings.pop("checksum")
                if hashlib.sha256(canonical(settings)).hexdigest() != checksum:
                    raise DamagedError("its checksum is wrong")
                found += [settings] if settings not in found else []
            except (OSError, *INVALID) as error:
                say(f"warning: {name} is missing or damaged: {reason(error)}")
        if not found and not self.files.names("snapshots"):
            raise StopError(10, f"there is no drkit repository in {self.files.root}")
        try:
            for settings in found[:1]:
                check_format(settings["format"], "the repository", ["encryption"])
                if "encryption" in settings["format"].get("requires", ()):
                    self.files = open_sealed(self.files, found, key_file)
                elif key_file or any(map(os.environ.get, PASSWORDS)):
                    say("warning: a key is given, but the repository is not encrypted: is it the one that you mean?")
        except INVALID as error:
            raise StopError(20, reason(error)) from None
        names = [] if isinstance(self.files, SealedFiles) else self.files.names("snapshots")
        if names and all(name.endswith(".enc") for name in names):
            raise StopError(20, "the repository is encrypted, and the settings that tell how are lost")

    def read_places(self) -> None:
        """Learn where all blobs lie. StopError if there is nothing here that decodes zstd."""
        self.decoder = find_decoder()
        for name in self.files.names("packs"):
            if name.endswith(".enc"):
                raise StopError(20, "the repository is encrypted, and the settings that tell how are lost")
            match = re.fullmatch(r"packs/[^/]+/([0-9a-f]{64})\.zst", name)
            if match:
                self.pack_numbers[bytes.fromhex(match[1])] = len(self.packs)
                self.packs.append(name)
        for pack, name in enumerate(self.packs):
            try:
                self.read_pack(pack, name)
            except (DamagedError, OSError) as error:
                say(f"warning: {self.files.path(name)}: {error}; what it holds can be found through the index only")
        for name in self.files.names("index"):
            try:
                self.read_index(Columns(self.decode(self.read(name, MAX_TABLE), MAX_TABLE)))
            except (DamagedError, OSError) as error:
                say(f"warning: {self.files.path(name)}: {error}")

    def read_pack(self, pack: int, name: str) -> None:
        """Learn the places of a pack's blobs from the tables at its end."""
        end = self.files.size(name) - 9
        count, _, magic = struct.unpack("<IBI", self.files.read(name, max(0, end), 9).rjust(9, b"\0"))
        start = end - 8 * count
        if magic != 0x8F92EAB1 or not count or start < 8:
            raise DamagedError("the end of the pack is damaged")
        sizes = Columns(self.files.read(name, start, 8 * count)).read(2 * count)[::2]
        table = self.files.read(name, max(0, start - 8 - sizes[-1]), sizes[-1])
        columns = Columns(self.decode(table[8:], MAX_TABLE))
        check_format({"major": columns.read(2, "H")[0]}, "the pack")
        frames, blobs, ids = columns.read(3)
        counts = columns.read(frames)
        self.learn(
            pack, sizes[:-1], counts, zip(columns.read(blobs, "B"), columns.read(blobs)), iter(columns.read(ids, "32s"))
        )

    def read_index(self, columns: Columns) -> None:
        """Learn the places in one index object. Its columns run over all its packs in order."""
        columns.read(4, "B")
        check_format({"major": columns.read(2, "H")[0]}, "the index object")
        superseded, packs, frames, blobs, ids = columns.read(5)
        columns.read(superseded, "32s")
        names, _, frames_of = columns.read(packs, "32s"), columns.read(packs, "q"), columns.read(packs)
        sizes, _, counts = iter(columns.read(frames)), columns.read(frames), iter(columns.read(frames))
        rows, names_of_blobs = zip(columns.read(blobs, "B"), columns.read(blobs)), iter(columns.read(ids, "16s"))
        for name, own in zip(names, frames_of):
            here = list(itertools.islice(sizes, own)), list(itertools.islice(counts, own))
            self.learn(self.pack_numbers.get(name), *here, rows, names_of_blobs)

    def learn(
        self, pack: int | None, sizes: list[int], counts: list[int], blobs: Iterator[Any], ids: Iterator[bytes]
    ) -> None:
        """Learn a pack's blobs from the sizes of its frames, how many blobs each has, their (kind, length) and ids."""
        frame_offset = 0
        for compressed, count in zip(sizes, counts):
            offset = 0
            for kind, length in itertools.islice(blobs, count):
                key = next(ids, b"")[:16] if kind != HINTS else b""
                if key and pack is not None and offset + length <= MAX_FRAME and compressed <= 2 * MAX_FRAME:
                    place = PLACE.pack(pack, frame_offset, compressed, offset, length)
                    while len(key) < 32 and self.places.setdefault(key, place) != place:
                        key += b"+"
                offset += length
            frame_offset += compressed

    def decode(self, data: bytes, limit: int) -> bytes:
        """Return the plaintext of a zstd frame, or what of it can be had. DamagedError if it must not be decoded."""
        return self.decoder(data, frame_size(data, limit))

    def frame(self, pack: int, offset: int, compressed: int) -> bytes:
        """Return a frame's plaintext, or what of it can be had, which may be nothing."""
        key = (pack, offset, compressed)
        plain = self.cache.pop(key, None)
        if plain is None:
            try:
                plain = self.decode(self.files.read(self.packs[pack], offset, compressed), MAX_FRAME)
            except (DamagedError, OSError) as error:
                say(f"warning: {self.files.path(self.packs[pack])}, frame at {offset}: {error}")
                plain = b""
            self.cached += len(plain)
        self.cache[key] = plain
        while self.cached > CACHE:
            self.cached -= len(self.cache.pop(next(iter(self.cache))))
        return plain

    def blob(self, blob: bytes) -> bytes:
        """Return a blob. DamagedError if it is nowhere, or nowhere whole."""
        key, tried = blob[:16], []
        while key in self.places:
            pack, frame_offset, compressed, offset, length = PLACE.unpack(self.places[key])
            data = self.frame(pack, frame_offset, compressed)[offset : offset + length]
            if hashlib.sha256(data).digest() == blob:
                return data
            tried.append(os.path.basename(self.packs[pack]))
            key += b"+"
        raise DamagedError(f"blob {blob.hex()} is {'damaged in ' + ', '.join(tried) if tried else 'missing'}")

    def blob_ids(self, entry: Entry) -> Iterator[bytes]:
        """Yield the ids of a file's blobs, in order."""
        yield from entry.blobs
        for blob_list in map(self.blob, entry.lists):
            yield from Columns(blob_list).read(len(blob_list) // 32, "32s")

    def content(self, entry: Entry) -> Iterator[bytes]:
        """Yield a file's content, blob by blob. DamagedError when it is not, or is more than, what `entry` says."""
        size, digest = 0, hashlib.sha256()
        for blob in self.blob_ids(entry):
            data = self.blob(blob)
            size += len(data)
            if size > entry.size:
                raise DamagedError("there is more content than the size in the manifest")
            digest.update(data)
            yield data
        if size != entry.size or digest.digest() != entry.proof:
            raise DamagedError("the content does not have the size and SHA-256 in the manifest")

    def snapshot_names(self) -> list[str]:
        """Return the names of the snapshots, oldest first."""
        pattern = r"snapshots/(\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{64}\.json)"
        found = (re.fullmatch(pattern, name) for name in self.files.names("snapshots"))
        return [match[1] for match in found if match]

    def snapshot(self, name: str) -> dict[str, Any]:
        """Return a snapshot. DamagedError if it is, or if it is of a kind that this program does not know."""
        try:
            snapshot: dict[str, Any] = json.loads(self.read("snapshots/" + name).decode())
            check_format(snapshot["format"], "it")
            snapshot["tags"] = [str(tag) for tag in snapshot.get("tags") or ()]
            if snapshot["scope"] != "whole":
                raise DamagedError("it is a partial snapshot: take a newer recover.py")
        except (OSError, *INVALID) as error:
            raise DamagedError(f"snapshots/{name} cannot be read: {reason(error)}") from None
        return snapshot


# -- Writing

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
MAKE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
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
    try:
        fd = os.open(name, OPEN_FILE, dir_fd=folder)
    except PermissionError:
        os.chmod(name, 0o600, dir_fd=folder)
        fd = os.open(name, OPEN_FILE, dir_fd=folder)
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
        self.refused: dict[str, list[Any]] = {}  # what the system refused: how often, first path, its error

    @contextlib.contextmanager
    def directory(self, path: bytes) -> Iterator[int]:
        """Open a directory, one component after the other."""
        fd = os.dup(self.root)
        try:
            for part in path.split(b"/") if path else ():
                outer, fd = fd, os.open(part, OPEN_DIRECTORY, dir_fd=fd)
                os.close(outer)
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def parent(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Open the directory that a path is in; with the path's last component."""
        parent, _, name = path.rpartition(b"/")
        with self.directory(parent) as folder:
            yield folder, name

    def put(self, entry: Entry, content: Iterable[bytes], twin: bytes | None) -> None:
        """Restore one path, which must not be there; with `twin` as a hard link of that path."""
        with self.parent(entry.path) as (folder, name):
            if twin is not None:
                with self.parent(twin) as (source, old):
                    os.link(old, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
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
        fd = os.open(name, MAKE_FILE, 0o600, dir_fd=folder)
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

    def dress_directory(self, entry: Entry) -> None:
        """Give a directory, with all that is in it restored, its own mode and time."""
        try:
            with self.directory(entry.path) as fd:
                self.dress(entry, fd)
        except (OSError, OverflowError) as error:
            self.refuse("mode or time", entry, error)

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
            with self.parent(path) as (folder, name):
                info = os.stat(name, dir_fd=folder, follow_symlinks=False)
                letter, mode, proof = letters.get(stat.S_IFMT(info.st_mode), "s"), stat.S_IMODE(info.st_mode), b""
                if letter == "f":
                    proof = file_hash(name, folder, mode)
                elif letter == "l":
                    proof = os.readlink(name, dir_fd=folder)
                elif letter in "cb":
                    proof = b"%d" % info.st_rdev
            if letter == "d":
                pending += self.listing(path)
            digest.update(hash_fields(path, letter, mode, proof))
        return digest.hexdigest()

    def listing(self, path: bytes) -> list[bytes]:
        """Return the paths in a directory, last first."""
        with self.directory(path) as fd:
            names = sorted(map(os.fsencode, os.listdir(fd)), reverse=True)
        return [path + b"/" + name if path else name for name in names]


# -- The work


def glob_pattern(globs: list[str]) -> re.Pattern[bytes]:
    """Return what matches the same paths as these globs, and all that is below them.

    A glob without `/` matches any component, one with `/` from the root; `**` stands for any number of components.
    """
    words = {r"\*\*/": "(.*/)?", r"\*\*": ".*", r"\*": "[^/]*", r"\?": "[^/]"}
    found = re.compile("|".join(map(re.escape, words)))
    rooted = (glob.strip("/") if "/" in glob else "**/" + glob for glob in globs)
    choices = [found.sub(lambda match: words[match[0]], re.escape(glob)) for glob in rooted]
    return re.compile(os.fsencode(f"(?s:({'|'.join(choices)})(/.*)?)"))


def chosen(entries: Iterable[Entry], pattern: re.Pattern[bytes]) -> Iterator[Entry]:
    """Yield the entries that match, and before them the directories that lead there."""
    leading: list[Entry] = []
    for entry in entries:
        while leading and not below(entry.path, leading[-1].path):
            leading.pop()
        if pattern.fullmatch(entry.path):
            yield from leading
            yield entry
            leading = []
        elif entry.type == "d":
            leading.append(entry)


class Recovery:
    """One run: a snapshot, or a plugin of it, restored into a target, or only checked if there is no target."""

    def __init__(self, repo: Repository, snapshot: dict[str, Any]) -> None:
        self.repo, self.snapshot = repo, snapshot
        self.target: Target | None = None
        self.lost: dict[str, str] = {}
        self.gap = False  # a stretch of the manifest is lost
        self.counts = {"files": 0, "directories": 0, "others": 0, "bytes": 0}
        self.directories: list[Entry] = []
        self.twins: dict[tuple[Any, ...], bytes] = {}
        self.expected = hashlib.sha256()
        self.next_report = time.monotonic() + 1

    def nodes(
        self, records: Iterable[dict[str, Any]], level: int, end: bytes | None, only: bytes
    ) -> Iterator[list[bytes]]:
        """Yield the lines of the segments below these nodes that can hold the path `only` or what is in it."""
        children = [(raw(record, "first"), id_of(record["id"])) for record in records]
        for (first, node), upto in zip(children, [*(child[0] for child in children[1:]), end]):
            if upto is not None and order(upto) <= order(only):
                continue
            if order(first) > order(only) and not below(first, only):
                break
            try:
                if upto is not None and order(upto) <= order(first):
                    raise DamagedError("the list is not sorted")
                lines = self.repo.blob(node).split(b"\n")[:-1]
                if level:
                    yield from self.nodes([json.loads(line.decode()) for line in lines], level - 1, upto, only)
            except INVALID as error:
                self.gap = True
                stretch = f"to before {shown(upto)}" if upto else "to the end"
                self.lost[f"everything from {shown(first)} {stretch}"] = str(error)
            else:
                if not level:
                    yield lines

    def segments(self, name: str, only: bytes) -> Iterator[list[bytes]]:
        """Yield segments of the snapshot's `manifest` or `plugin_table`, as `nodes` does."""
        try:
            level = number(self.snapshot[name], "level", 0, 7)
            yield from self.nodes(self.snapshot[name]["children"], level, None, only)
        except INVALID as error:
            raise StopError(20, f"the snapshot's {name} cannot be read: {error!r}") from None

    def plugin(self, wanted: str) -> tuple[bytes, str]:
        """Return path and tree hash of the plugin with this path or name; StopError if there is not exactly one."""
        path = os.fsencode(wanted).strip(b"/") if wanted != "." else b""
        rows: list[tuple[bytes, str, str]] = []
        try:
            for line in itertools.chain.from_iterable(self.segments("plugin_table", b"")):
                row = json.loads(line.decode())
                rows.append((raw(row, "path"), str(row.get("name")), str(row["tree_sha256"])))
        except INVALID as error:
            raise StopError(20, f"the plugin table cannot be read: {error!r}") from None
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

        An entry that breaks a rule is lost, and never stops the others. Where a stretch of the manifest is lost,
        directories that the entries behind it need are made up.
        """
        previous = b""
        known: list[bytes] = []  # the directories that lead to the present path
        for line in itertools.chain.from_iterable(self.segments("manifest", only)):
            try:
                if len(line) > MAX_JSON:
                    raise ValueError("the line is too long")
                entry = Entry(json.loads(line.decode()))
                if order(entry.path) <= previous:
                    raise ValueError("the path is not greater than the one before")
                previous = order(entry.path)
                if not below(entry.path, only):
                    continue
                entry.path = entry.path[len(only) :].lstrip(b"/")
                if not entry.path and entry.type != "d":
                    raise ValueError("it is not a directory")
                known = [path for path in known if below(entry.path, path)]
                above = itertools.accumulate(entry.path.split(b"/")[:-1], lambda path, name: path + b"/" + name)
                missing = [path for path in above if path not in known]
                if missing and not self.gap:
                    raise ValueError("its parent is not a directory of the manifest")
            except INVALID as error:
                self.lost[shown(line[:200])] = f"refused: {reason(error)}"
                continue
            for path in missing:
                coded = base64.b64encode(path).decode()
                yield Entry({"path_b64": coded, "type": "d", "mode": 0o700, "mtime_ns": entry.mtime})
            known += missing
            if entry.type == "d" and entry.path:
                known.append(entry.path)
            yield entry

    def run(self, only: bytes, globs: list[str]) -> None:
        """Restore, or check, everything that is asked for; whatever cannot be had is in `lost` afterwards."""
        entries = self.entries(only)
        for entry in chosen(entries, glob_pattern(globs)) if globs else entries:
            try:
                self.restore(entry)
            except (DamagedError, OSError, OverflowError) as error:
                if getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT):
                    raise StopError(3, f"no space left: {shown(entry.path)} and all after it are missing") from None
                self.lost[shown(entry.path)] = reason(error)
                continue
            self.expected.update(hash_fields(entry.path, entry.type, entry.mode, entry.proof))
            if entry.type == "d":
                self.directories.append(entry)
            elif entry.twin:
                self.twins.setdefault(entry.twin, entry.path)
            self.counts[{"f": "files", "d": "directories"}.get(entry.type, "others")] += 1
            self.counts["bytes"] += entry.size
            if time.monotonic() >= self.next_report:
                self.next_report = time.monotonic() + 1
                say(f"{self.counts['files']} files, {self.counts['bytes'] >> 20} MiB, at {shown(entry.path)}")
        if self.target:
            for entry in reversed(self.directories):
                self.target.dress_directory(entry)

    def restore(self, entry: Entry) -> None:
        """Restore or check one path. DamagedError or what the system says if it cannot be."""
        content = self.repo.content(entry) if entry.type == "f" else iter(())
        if self.target is None:
            for _ in content:
                pass
        elif entry.path:
            self.target.put(entry, content, self.twins.get(entry.twin))

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
        found = expected = self.expected.hexdigest()
        if self.target:
            if os.geteuid():
                say("owners were not restored: only root can do that")
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


# -- The command line


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
        except INVALID as error:
            code = 3
            print(f"{name[:23]}  {name[24:40]}  UNREADABLE: {error}")
    return code


def find_snapshot(repo: Repository, spec: str) -> tuple[dict[str, Any], int]:
    """Return a snapshot by id prefix or `latest`, and the exit code 3 if a newer one is damaged, else 0."""
    names, code = repo.snapshot_names(), 0
    if not names:
        raise StopError(20 if repo.packs else 2, "the repository has no snapshot")
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
        else:
            if spec != "latest" or "rejected" not in snapshot["tags"]:
                say(f"snapshot {name[24:40]} of {name[:23]}")
                return snapshot, code
    raise StopError(20 if code else 2, "no snapshot can be read" if code else "all snapshots are tagged rejected")


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for, and return the exit code."""
    repo = Repository(Files(args.repo), args.key_file or os.environ.get("DRKIT_KEY_FILE", ""))
    if args.list:
        return list_snapshots(repo)
    repo.read_places()
    snapshot, code = find_snapshot(repo, args.snapshot)
    if code:
        print("A NEWER SNAPSHOT IS DAMAGED; this is the newest that can be read")
    work = Recovery(repo, snapshot)
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
    parser.add_argument("--key-file", metavar="FILE", help="the key of an encrypted repository")
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
