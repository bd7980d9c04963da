"""Hashing restored files in a second process, while the first compares everything else about them.

Run as a program, this file is that second process: `python -I -S contents.py FD`, where FD is the tree's directory.
It reads (SHA-256, u32 length, path) from standard input, and at its end writes how many files it hashed (u32), then
(u32 length, path) of those with another content, ten at most. It imports nothing but the standard library, so that
it starts in a hundredth of a second.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_U32 = struct.Struct("<I")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE = 1 << 20
_SHOWN = 10
_LONGEST = 4000  # one open takes a path of at most 4,095 bytes
_BUFFERED = 1 << 16


class Contents:
    """The second process, from the side of the first. OSError if there is none to be had."""

    def __init__(self, root_fd: int) -> None:
        from drkit import osutil

        self._sent = 0
        self._buffer = bytearray()
        self._process = osutil.start_python(__file__, str(root_fd), pass_fds=(root_fd,))

    def takes(self, path: bytes) -> bool:
        """Whether the file can be left to the second process."""
        return len(path) <= _LONGEST

    def expect(self, path: bytes, sha256: bytes) -> None:
        """Have the file read and hashed."""
        self._sent += 1
        self._buffer += sha256 + _U32.pack(len(path)) + path
        if len(self._buffer) >= _BUFFERED:
            self._flush()

    def finish(self) -> list[bytes]:
        """Return the paths of files with another content, ten at most. OSError if the process did not do its work."""
        self._flush()
        out, _ = self._process.communicate()
        if len(out) < _U32.size or _U32.unpack_from(out)[0] != self._sent:
            raise OSError(f"the process that reads files back ended with {self._process.returncode}")
        return list(_paths(out, _U32.size))

    def close(self) -> None:
        """End the process, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def _flush(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(self._buffer)
        self._buffer.clear()


def _paths(data: bytes, at: int) -> Iterator[bytes]:
    while at < len(data):
        start = at + _U32.size
        at = start + _U32.unpack_from(data, at)[0]
        yield data[start:at]


def _digest(root_fd: int, path: bytes) -> bytes:
    fd = os.open(path, _READ, dir_fd=root_fd)
    try:
        data = os.read(fd, _PIECE)
        digest = hashlib.sha256(data)
        while data and (data := os.read(fd, _PIECE)):
            digest.update(data)
        return digest.digest()
    finally:
        os.close(fd)


def _serve(root_fd: int) -> None:
    count = 0
    wrong: list[bytes] = []
    stream = sys.stdin.buffer
    while len(head := stream.read(32 + _U32.size)) == 32 + _U32.size:
        path = stream.read(_U32.unpack_from(head, 32)[0])
        try:
            same = _digest(root_fd, path) == head[:32]
        except OSError:
            same = False
        if not same and len(wrong) < _SHOWN:
            wrong.append(path)
        count += 1
    sys.stdout.buffer.write(_U32.pack(count) + b"".join(_U32.pack(len(path)) + path for path in wrong))


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
