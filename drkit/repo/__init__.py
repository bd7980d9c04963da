"""The repository: packs, index, manifests and snapshots on top of a store. No printing, no clocks of its own."""

from drkit.repo.reader import BlobLost, BlobReader
from drkit.repo.repository import Repository, Segment, SnapshotRef

__all__ = ["BlobLost", "BlobReader", "Repository", "Segment", "SnapshotRef"]
