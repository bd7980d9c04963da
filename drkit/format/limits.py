"""The numbers of the format. Writers stay within them, readers refuse more (docs/format.md, section 11)."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

FORMAT_MAJOR: Final = 1
FORMAT_MINOR: Final = 0

FRAME_TARGET: Final = 2 * MIB
META_FRAME_TARGET: Final = 256 * KIB
FRAME_BLOBS: Final = 16_384
"""A frame with this many blobs is closed, however small they are: their rows in the tables need room too."""
POOL_TARGET: Final = 32 * MIB
"""So much new content may wait for content that is like it; a reader needs as many decoded frames at hand."""
FRAME_JOINED: Final = 512 * KIB
"""A prune joins frames of less plaintext than this with their neighbours."""
FRAME_MAX: Final = 8 * MIB
WINDOW_MAX: Final = 8 * MIB
PACK_TARGET: Final = 16 * MIB
PACK_MAX: Final = 64 * MIB
SMALL_BACKUP: Final = 4 * MIB
"""A backup that adds fewer bytes than this writes one pack."""

CHUNK_THRESHOLD: Final = 2 * MIB
CHUNK_MIN: Final = 256 * KIB
CHUNK_AVG: Final = MIB
CHUNK_MAX: Final = 4 * MIB

INLINE_BLOBS: Final = 64
"""An entry with more blobs than this names blob lists instead."""
LIST_BLOBS: Final = 16_384

SEGMENT_CUT: Final = 32
LIST_CUT: Final = 16
NODE_ENTRIES: Final = 256
NODE_BYTES: Final = MIB
ROOT_CHILDREN: Final = 16
LEVELS: Final = 8

LINE_MAX: Final = MIB
PATH_MAX: Final = 4096
COMPONENT_MAX: Final = 255
XATTRS_MAX: Final = 512 * KIB
"""Names and values of one entry, before base64, which must still fit into a line."""
SNAPSHOT_MAX: Final = MIB
PLUGIN_MANIFEST_MAX: Final = MIB

INDEX_PACKS: Final = 64
"""A backup writes an index object after this many packs."""
INDEX_LIVE: Final = 32
INDEX_MERGED: Final = 8 * MIB
INDEX_MAX: Final = 64 * MIB

SHARDS_MAX: Final = 256
"""Of data and parity together: what the code over a byte has room for."""
PARITY_PIECE: Final = 4 * KIB
"""Shards are hashed, and healed, in pieces of a sector: disks lose no less at once."""
PARITY_SEALED: Final = 64 * KIB
"""In encrypted repositories, of which no less is lost, of the size of what is encrypted at once."""
