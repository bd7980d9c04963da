"""From what a user writes to a store."""

from __future__ import annotations

import os

from drkit.errors import UsageError
from drkit.store.base import Store
from drkit.store.local import LocalStore
from drkit.store.memory import MemoryStore

FILE_SCHEME = "libsql-file"
DATABASES = frozenset({"turso", "turso+http", "libsql", FILE_SCHEME})
"""How the URLs of stores in libSQL databases begin."""


def open_store(url: str) -> Store:
    """Return the store that a user names: a directory's path, `file:///path`, `s3://…`, `gs://…`, `az://…`, `memory:`.

    A memory store is new and empty at each call. Nothing is touched: whether there is something in the store shows
    at its first use. UsageError if this version has no such store, or if the packages that it needs are missing.
    """
    if not url:
        raise UsageError("the store has no name", hint="give a directory with --repo or DRKIT_REPO")
    scheme, colon, rest = url.partition(":")
    if not colon or not _is_scheme(scheme):
        return LocalStore(url)
    if scheme == "memory" and not rest:
        return MemoryStore()
    if scheme == "file" and rest.startswith("///"):
        from urllib.parse import unquote_to_bytes

        return LocalStore(unquote_to_bytes(os.fsencode(rest[2:])))
    if scheme in {"s3", "gs", "az"} and rest.startswith("//"):
        from drkit.store.cloud import open_cloud

        return open_cloud(url)
    if scheme in DATABASES:
        from drkit.store.turso import open_libsql

        return open_libsql(url)
    raise UsageError(
        f"this version of drkit cannot open this {scheme}: store",
        hint="it has directories (a path, or file:///path), s3://, gs://, az://, turso://, libsql-file: and memory:; "
        "write ./NAME for a directory with a colon in its name",
    )


def _is_scheme(word: str) -> bool:
    return word[:1].isalpha() and word.isascii() and word.replace("+", "").replace("-", "").isalnum()


def file_of(url: str) -> bytes | None:
    """Return the absolute path of a libSQL file that a store's URL names; None if it names none."""
    scheme, _, path = url.partition(":")
    if scheme != FILE_SCHEME:
        return None
    if not path:
        raise UsageError("the libSQL file has no name", hint=f"write {FILE_SCHEME}:PATH")
    return os.path.abspath(os.fsencode(os.path.expanduser(path)))
