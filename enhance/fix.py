"""What can be mended without a model: names of skills and their directories, unknown keys, the form of allowed-tools."""

from __future__ import annotations

from msgspec import Struct


class Write(Struct, frozen=True, tag="write"):
    """Write a file, whole. The path is relative to the plugin."""

    path: bytes
    data: bytes


class Move(Struct, frozen=True, tag="move"):
    """Move a directory with all that is in it, times kept. Both paths are relative to the plugin."""

    old: bytes
    new: bytes


Edit = Write | Move
"""One step of a repair, to be made in order: the paths of a step are those after the steps before it."""
