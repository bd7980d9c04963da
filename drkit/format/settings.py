"""drkit.json: the settings of a repository, written once, in two identical copies."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from msgspec import Struct, field

from drkit.errors import FormatError
from drkit.format import limits
from drkit.model import FormatVersion

ENCRYPTION = "encryption"
KNOWN_FEATURES = frozenset({ENCRYPTION})
"""What this version can read of `format.requires`."""


class ChunkerSettings(Struct, frozen=True):
    """How files at or above `threshold` bytes are cut."""

    algorithm: str = "fastcdc-2020"
    gear: str = "destor"
    seed: int = 0
    normalization: int = 1
    threshold: int = limits.CHUNK_THRESHOLD
    min: int = limits.CHUNK_MIN
    avg: int = limits.CHUNK_AVG
    max: int = limits.CHUNK_MAX


class CompressionSettings(Struct, frozen=True):
    """zstd levels: of frames of small files, and of frames of chunks of large ones."""

    small_level: int = 7
    chunk_level: int = 3


class ParitySettings(Struct, frozen=True):
    """Parity of packs: of `data` + `parity` shards any `parity`, which are no more than `data`, may be lost."""

    data: int
    parity: int


class KdfSettings(Struct, frozen=True):
    """How scrypt makes a key of a passphrase; `salt` is base64."""

    salt: str
    algorithm: str = "scrypt"
    n: int = 1 << 17
    r: int = 8
    p: int = 1


class EncryptionSettings(Struct, frozen=True):
    """How everything is sealed."""

    kdf: KdfSettings
    cipher: str = "AES-256-GCM"


class Settings(Struct, frozen=True):
    """The content of drkit.json; with `encryption`, most of it lies in `sealed`, base64 of a sealed object."""

    format: FormatVersion
    repository_id: str
    created: str
    chunker: ChunkerSettings = field(default_factory=ChunkerSettings)
    compression: CompressionSettings = field(default_factory=CompressionSettings)
    parity: ParitySettings | None = None
    encryption: EncryptionSettings | None = None
    sealed: str = ""


_CLEAR = ("format", "repository_id", "encryption")
"""What stands outside of the sealed part, too."""


def encode(settings: Settings) -> bytes:
    """Return drkit.json, checksum included."""
    plain = _builtins(settings)
    if settings.encryption is not None:
        plain = {key: plain[key] for key in _CLEAR} | {"sealed": settings.sealed}
    plain["checksum"] = hashlib.sha256(canonical(plain)).hexdigest()
    return msgspec.json.format(canonical(plain), indent=2) + b"\n"


def encode_inside(settings: Settings) -> bytes:
    """Return what is to be sealed of the settings of an encrypted repository: all of them."""
    return canonical(_builtins(settings))


def decode(data: bytes) -> Settings:
    """Return the settings. FormatError if the bytes are damaged, or written for a newer version.

    Of an encrypted repository only what is in clear is right: `decode_inside` gives the rest.
    """
    try:
        plain = msgspec.json.decode(data, type=dict[str, Any])
        checksum = plain.pop("checksum", None)
        if checksum != hashlib.sha256(canonical(plain)).hexdigest():
            raise FormatError("its checksum is wrong")
        check_format(msgspec.convert(plain.get("format"), FormatVersion))
        encrypted = "encryption" in plain
        if encrypted != (ENCRYPTION in plain["format"].get("requires", ())):
            raise FormatError("it does not say clearly whether the repository is encrypted")
        if encrypted:
            plain = {key: plain.get(key) for key in (*_CLEAR, "sealed")} | {"created": ""}
        settings = msgspec.convert(plain, Settings)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise FormatError(f"it cannot be read: {error}") from error
    _check(settings)
    return settings


def decode_inside(outside: Settings, data: bytes) -> Settings:
    """Return the settings of an encrypted repository, of which the sealed part holds `data`.

    FormatError if that cannot be read, or says anything else than what stands in clear.
    """
    try:
        plain = msgspec.json.decode(data, type=dict[str, Any])
        settings = msgspec.convert({**plain, "sealed": outside.sealed}, Settings)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise FormatError(f"its sealed part cannot be read: {error}") from error
    if any(getattr(settings, key) != getattr(outside, key) for key in _CLEAR):
        raise FormatError("what stands in clear is not what is sealed: somebody has changed it")
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    """Raise FormatError for numbers and names that cannot be."""
    if settings.encryption is not None:
        _check_encryption(settings.encryption)
    chunker = settings.chunker
    known = ChunkerSettings()
    if (chunker.algorithm, chunker.gear, chunker.normalization) != (
        known.algorithm,
        known.gear,
        known.normalization,
    ):
        raise FormatError(f"it names a chunker that this drkit does not know: {chunker.algorithm}/{chunker.gear}")
    most = limits.CHUNK_MAX  # larger blobs could make frames and packs over their limits
    if not 64 <= chunker.min <= chunker.avg <= chunker.max <= most or not 0 <= chunker.threshold <= most:
        raise FormatError("its chunk sizes are not in order")
    if settings.parity is not None:
        check_parity(settings.parity)


def _check_encryption(encryption: EncryptionSettings) -> None:
    kdf = encryption.kdf
    if (encryption.cipher, kdf.algorithm) != ("AES-256-GCM", "scrypt"):
        raise NewerFormat(f"the repository is encrypted in a way that this drkit does not know: {encryption.cipher}")
    # More would let whoever can write to the store have every reader compute for hours.
    if not (2 <= kdf.n <= 1 << 20 and kdf.n & (kdf.n - 1) == 0 and 1 <= kdf.r <= 16 and 1 <= kdf.p <= 4):
        raise FormatError("its key derivation has numbers that are out of bounds")


def check_parity(parity: ParitySettings) -> None:
    """Raise FormatError for numbers of shards that there cannot be."""
    if not 1 <= parity.parity <= parity.data <= limits.SHARDS_MAX - parity.parity:
        raise FormatError(f"there is no parity of {parity.data}+{parity.parity} shards")


def check_format(version: FormatVersion) -> None:
    """Raise FormatError for what this version must not read."""
    unknown = sorted(set(version.requires) - KNOWN_FEATURES)
    if version.major != limits.FORMAT_MAJOR or unknown:
        what = f"needs {', '.join(unknown)}" if unknown else f"is of format {version.major}.{version.minor}"
        raise NewerFormat(
            f"the repository {what}; this drkit reads format {limits.FORMAT_MAJOR}.{limits.FORMAT_MINOR}",
        )


class NewerFormat(FormatError):
    """Written by a newer drkit; not damaged."""

    default_hint = "upgrade drkit: pip install -U drkit"


def _builtins(settings: Settings) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(settings)
    return {key: value for key, value in plain.items() if value is not None and key != "sealed"}


def canonical(plain: dict[str, Any]) -> bytes:
    """Return an object in the encoding that checksums are of, and what authenticates key slots."""
    return msgspec.json.encode(plain, order="deterministic")
