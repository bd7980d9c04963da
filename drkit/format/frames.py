"""zstd frames: compress, decode within the limits, and salvage what a damaged one still holds."""

from __future__ import annotations

import zstandard

from drkit.errors import FormatError
from drkit.format.limits import FRAME_MAX, WINDOW_MAX


def compressor(level: int) -> zstandard.ZstdCompressor:
    """Return a compressor for frames of the format. Not for use by two threads at once."""
    return zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)


def check_header(data: bytes | memoryview, size: int | None, limit: int = FRAME_MAX) -> int:
    """Return the content size that the frame's header states, before anything is decoded.

    FormatError if it is unknown, differs from `size`, or asks for more memory than `limit` or the window limit:
    python-zstandard ignores max_output_size when a frame states its size.
    """
    try:
        header = zstandard.get_frame_parameters(data)
    except zstandard.ZstdError as error:
        raise FormatError(f"not a zstd frame: {error}") from error
    stated = header.content_size
    if stated == zstandard.CONTENTSIZE_UNKNOWN or not 0 < stated <= limit:
        raise FormatError(f"a frame states {stated} bytes of content, allowed are 1 to {limit}")
    if size is not None and stated != size:
        raise FormatError(f"a frame states {stated} bytes of content, its table says {size}")
    if header.window_size > max(WINDOW_MAX, limit):
        raise FormatError(f"a frame wants a window of {header.window_size} bytes, the limit is {WINDOW_MAX}")
    return int(stated)


def decode(data: bytes | memoryview, size: int | None = None, limit: int = FRAME_MAX) -> bytes:
    """Return the plaintext of exactly one frame. FormatError if it is damaged, too large or followed by more."""
    stated = check_header(data, size, limit)
    try:
        plain = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(f"a frame does not decode: {error}") from error
    if len(plain) != stated:
        raise FormatError(f"a frame gave {len(plain)} bytes, its header says {stated}")
    return plain


def salvage(data: bytes | memoryview) -> bytes:
    """Return as much plaintext as a damaged frame gives when it is decoded as a stream.

    What comes back may be wrong in any place: the caller hashes every blob before it keeps it.
    """
    try:
        size = check_header(data, None)
    except FormatError:
        return b""
    stream = zstandard.ZstdDecompressor(max_window_size=WINDOW_MAX).decompressobj()
    out = bytearray()
    step = 512
    for start in range(0, len(data), step):
        try:
            out += stream.decompress(bytes(data[start : start + step]))
        except zstandard.ZstdError:
            break
        if stream.eof or len(out) >= size:
            break
    return bytes(out[:size])
