"""The tables of recorded rows: one description for reading, writing, shipping and bringing back.

Every recorded row has two columns first: `inventory`, the id of the inventory that recorded it, and `id`, unique and
ascending in that inventory over all tables. Together they are its key everywhere: here, in Turso, in the repository.
"""

from __future__ import annotations

from msgspec import Struct

KEY = ("inventory", "id")


class Table(Struct, frozen=True):
    """A table by name, and what its columns are besides the key.

    Rows of a table whose first column is `version` may be replaced: the one with the greatest version stands.
    """

    name: str
    columns: tuple[str, ...]
    blobs: frozenset[str] = frozenset()
    unique: tuple[str, ...] = ()
    """The columns that identify a row of a mutable table in its inventory."""
    page: int = 2_000
    """How many rows are fetched from Turso at once; few where they are long."""

    @property
    def all(self) -> tuple[str, ...]:
        """All columns, the key first."""
        return KEY + self.columns

    @property
    def mutable(self) -> bool:
        """Whether a row may be replaced by a later version of itself."""
        return "version" in self.columns

    @property
    def order(self) -> str:
        """The column by which rows are shipped."""
        return "version" if self.mutable else "id"

    @property
    def in_place(self) -> str:
        """What follows VALUES so that a row of ours that is there is updated, NULL leaving a column as it is.

        The row keeps its id and takes the new version; empty for a table of rows that are only added.
        """
        if not self.mutable:
            return ""
        sets = ", ".join(f"{column} = COALESCE(excluded.{column}, {self.name}.{column})" for column in self.columns)
        return f"ON CONFLICT ({', '.join(('inventory', *self.unique))}) DO UPDATE SET {sets}"


def _table(name: str, columns: str, blobs: str = "", unique: str = "", page: int = 2_000) -> Table:
    return Table(name, tuple(columns.split()), frozenset(blobs.split()), tuple(unique.split()), page)


TABLES = (
    _table(
        "snapshots",
        "at repository store snapshot name time host source parent tags files dirs others plugins bytes skipped "
        "tree_sha256 bytes_added packs_added files_unchanged duration_s warnings",
        "source",
    ),
    _table("plugins", "repository snapshot path name version_text files bytes tree_sha256", "path"),
    _table("packs", "repository pack size snapshot"),
    _table("copies", "at repository pack store"),
    _table(
        "verifications",
        "at repository store snapshot plugin level ok findings packs_read bytes_read duration_s",
        "plugin",
    ),
    _table(
        "drills",
        "at repository store snapshot plugin by first_byte_s restore_s verify_s total_s rto_s rpo_s bytes files "
        "passed reason",
        "plugin",
    ),
    _table(
        "enhancement_runs",
        "version run started ended repository source generator model profile options snapshot_before snapshot_after "
        "exit_code report",
        "source",
        unique="run",
    ),
    _table(
        "enhancements",
        "version run timestamp plugin_name plugin_path enhancement_type status processing_time_seconds "
        "snapshot model detail repository source reason input_sha256 cache_key",
        "plugin_path source",
        unique="run plugin_path",
    ),
    _table("analyses", "at run plugin_path kind result repository cache_key", "plugin_path", page=100),
    _table(
        "responses",
        "at run plugin_path model request_sha256 finish_reason tokens_in tokens_out response repository phase "
        "cache_key cost_usd latency_s detail",
        "plugin_path response",
        page=100,
    ),
    _table(
        "proposals",
        "at run repository source plugin_path path cache_key content",
        "source plugin_path path content",
        page=100,
    ),
    _table("written_files", "at run repository source plugin_path path sha256", "source plugin_path path"),
    _table("quality_scores", "at run plugin_path rule score detail repository", "plugin_path"),
    _table("audit", "at event detail previous hash"),
)
BY_NAME = {table.name: table for table in TABLES}
