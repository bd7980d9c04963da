"""The tables of recorded rows: one description for reading, writing, shipping and bringing back.

Every recorded row has two columns first: `inventory`, the id of the inventory that recorded it, and `id`, unique and
ascending in that inventory over all tables. Together they are its key everywhere: here, in Turso, in the repository.
"""

from __future__ import annotations

from msgspec import Struct

KEY = ("inventory", "id")


class Table(Struct, frozen=True):
    """A table by name, and what its columns are besides the key.

    Rows of a table with the column `version` may be replaced: the one with the greatest version stands.
    """

    name: str
    columns: tuple[str, ...]
    blobs: frozenset[str] = frozenset()

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


def _table(name: str, columns: str, blobs: str = "") -> Table:
    return Table(name, tuple(columns.split()), frozenset(blobs.split()))


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
        "enhancements",
        "version run timestamp plugin_name plugin_path enhancement_type status processing_time_seconds "
        "snapshot model detail",
        "plugin_path",
    ),
    _table("analyses", "at run plugin_path kind result", "plugin_path"),
    _table(
        "responses",
        "at run plugin_path model request_sha256 finish_reason tokens_in tokens_out response",
        "plugin_path",
    ),
    _table("quota_ledger", "at model window requests tokens"),
    _table("quality_scores", "at run plugin_path rule score detail", "plugin_path"),
    _table("audit", "at event detail previous hash"),
)
BY_NAME = {table.name: table for table in TABLES}
