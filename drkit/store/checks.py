"""What a store accepts as names, prefixes and ranges: one rule for every store."""

from __future__ import annotations

from drkit.errors import UsageError

TEMPORARY = ".tmp-"
"""How the names of unfinished objects begin; no component of an object's name may begin so."""


def is_component(component: str) -> bool:
    """Whether an object's name may have this between two slashes; `lost+found` belongs to the file system."""
    return (
        component not in {"", ".", "..", "lost+found"}
        and component.isascii()
        and component.isprintable()
        and not component.startswith(TEMPORARY)
    )


def check_name(name: str) -> None:
    """UsageError unless `name` is a relative path of printable ASCII without empty, `.` or `..` components."""
    if not all(map(is_component, name.split("/"))):
        raise UsageError(f"{name!r} cannot be the name of an object")


def check_prefix(prefix: str) -> None:
    """UsageError unless names may begin with `prefix`; what follows its last slash may be incomplete."""
    folder, slash, stem = prefix.rpartition("/")
    if slash:
        check_name(folder)
    if not (stem.isascii() and stem.isprintable()):
        raise UsageError(f"{prefix!r} cannot begin the name of an object")


def check_range(offset: int, length: int) -> None:
    """UsageError unless both are zero or more."""
    if offset < 0 or length < 0:
        raise UsageError(f"there is no range of {length} bytes at offset {offset}")
