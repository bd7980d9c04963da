"""drkit.json: the settings of a repository, written once, in two identical copies."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from msgspec import Struct, field

from drkit.errors import FormatError
from drkit.format import limits
from drkit.model import FormatVersion

KNOWN_FEATURES: frozenset[str] = frozenset()
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

    small_level: int = 6
    chunk_level: int = 3


class ParitySettings(Struct, frozen=True):
    """Parity of packs: of `data` + `parity` shards any `parity`, which are no more than `data`, may be lost."""

    data: int
    parity: int


class Settings(Struct, frozen=True):
    """The content of drkit.json."""

    format: FormatVersion
    repository_id: str
    created: str
    chunker: ChunkerSettings = field(default_factory=ChunkerSettings)
    compression: CompressionSettings = field(default_factory=CompressionSettings)
    parity: ParitySettings | None = None


def encode(settings: Settings) -> bytes:
    """Return drkit.json, checksum included."""
    plain = {key: value for key, value in msgspec.to_builtins(settings).items() if value is not None}
    plain["checksum"] = hashlib.sha256(_canonical(plain)).hexdigest()
    return msgspec.json.format(_canonical(plain), indent=2) + b"\n"


def decode(data: bytes) -> Settings:
    """Return the settings. FormatError if the bytes are damaged, or written for a newer version."""
    try:
        plain = msgspec.json.decode(data, type=dict[str, Any])
        checksum = plain.pop("checksum", None)
        if checksum != hashlib.sha256(_canonical(plain)).hexdigest():
            raise FormatError("its checksum is wrong")
        check_format(msgspec.convert(plain.get("format"), FormatVersion))
        settings = msgspec.convert(plain, Settings)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise FormatError(f"it cannot be read: {error}") from error
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
    return settings


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


def _canonical(plain: dict[str, Any]) -> bytes:
    return msgspec.json.encode(plain, order="deterministic")
