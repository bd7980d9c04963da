"""Stores: named immutable objects in a directory or in memory. `drkit.store.base` says what a store must do."""

from drkit.store.base import ObjectInfo, Store
from drkit.store.local import LocalStore
from drkit.store.memory import MemoryStore
from drkit.store.url import open_store

__all__ = ["LocalStore", "MemoryStore", "ObjectInfo", "Store", "open_store"]
