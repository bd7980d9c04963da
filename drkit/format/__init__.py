"""Pure codecs of the on-disk format. No I/O, no clocks. docs/format.md is the normative text."""

from drkit.format.treehash import TreeHash

__all__ = ["TreeHash"]
