"""Content-defined chunks of large files: FastCDC 2020 with the parameters that drkit.json names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from drkit.format.settings import ChunkerSettings


class Readable(Protocol):
    """A binary stream."""

    def readinto(self, b: memoryview) -> int:
        """Fill `b` from its start; return how many bytes came, 0 at the end."""
        ...


def cut(stream: Readable, settings: ChunkerSettings) -> Iterator[bytes]:
    """Yield the chunks of a stream in order; the same bytes give the same chunks on every machine."""
    from pyfastcdc import FastCDC

    cutter = FastCDC(
        settings.avg,
        min_size=settings.min,
        max_size=settings.max,
        normalized_chunking=1,
        seed=settings.seed,
    )
    for chunk in cutter.cut_stream(stream):
        yield bytes(chunk.data)
