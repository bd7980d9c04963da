"""Questions about snapshots: pure functions over the repository's read access, streaming, changing nothing."""
