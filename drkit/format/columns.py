"""Columns of little-endian u32 in binary tables."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable

from drkit.errors import FormatError


def u32_column(values: Iterable[int]) -> bytes:
    """Return the values as little-endian u32. OverflowError if one does not fit."""
    column = array("I", values)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


class Cursor:
    """Reads fields one after another from a table; FormatError when the table ends too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, length: int) -> bytes:
        """Return the next `length` bytes."""
        end = self._at + length
        if length < 0 or end > len(self._data):
            raise FormatError("a table ends before its last column")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def u16(self) -> int:
        """Return the next u16."""
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        """Return the next u32."""
        return int.from_bytes(self.take(4), "little")

    def u32s(self, count: int) -> array[int]:
        """Return the next `count` u32 as an array."""
        column = array("I")
        column.frombytes(self.take(4 * count))
        if sys.byteorder == "big":
            column.byteswap()
        return column

    def i64s(self, count: int) -> array[int]:
        """Return the next `count` i64 as an array."""
        column = array("q")
        column.frombytes(self.take(8 * count))
        if sys.byteorder == "big":
            column.byteswap()
        return column

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(len(self._data) - self._at)

    def end(self) -> None:
        """Check that nothing is left."""
        if self._at != len(self._data):
            raise FormatError(f"a table has {len(self._data) - self._at} bytes too many")
