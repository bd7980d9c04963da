"""MK001 to MK003: marketplace files, and whether they tell the truth about what lies below them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from drkit.model import show_path
from enhance.discover import Discovery, load_json, local_entries
from enhance.model import Finding, Plugin
from enhance.validators import standards
from enhance.validators.rules import Found, finding
from enhance.validators.skill_frontmatter import KEBAB


def check(discovery: Discovery) -> list[Finding]:
    """Hold each marketplace file of a source, and the plugins below it, against the rules."""
    found: list[Finding] = []
    for path in discovery.marketplaces:
        content, wrong = load_json(discovery.files[path])
        if wrong:
            found.append(finding(Found("MK001", path, wrong), show_path(path)))
            continue
        checks = (_head(content, path), _entries(discovery, content, path), _unlisted(discovery, content, path))
        found += [finding(one, show_path(one.path) or ".") for one in chain(*checks)]
    return found


def _head(content: Mapping[str, Any], path: bytes) -> Iterator[Found]:
    name = content.get("name")
    if not isinstance(name, str) or not KEBAB.fullmatch(name):
        yield Found("MK001", path, "the name is not in kebab-case" if name else "there is no name")
    elif name in standards.RESERVED_MARKETPLACES:
        yield Found("MK001", path, f"the name {name!r} is reserved")
    owner = content.get("owner")
    if not isinstance(owner, dict) or not isinstance(owner.get("name"), str) or not owner["name"].strip():
        yield Found("MK001", path, "there is no owner.name")
    if not isinstance(content.get("plugins"), list):
        yield Found("MK001", path, "plugins is not a list")


def _entries(discovery: Discovery, content: Mapping[str, Any], path: bytes) -> Iterator[Found]:
    entries = content.get("plugins")
    plugins = {plugin.path: plugin for plugin in discovery.plugins}
    places = {id(entry): where for entry, where in local_entries(content, path)}
    directories: set[bytes] | None = None
    names: set[str] = set()
    for number, entry in enumerate(entries if isinstance(entries, list) else [], 1):
        if not isinstance(entry, dict):
            yield Found("MK002", path, f"entry {number} is not an object")
            continue
        name, source = entry.get("name"), entry.get("source")
        what = f"entry {name!r}" if isinstance(name, str) and name else f"entry {number}"
        if not isinstance(name, str) or not name.strip():
            yield Found("MK002", path, f"{what} has no name")
        elif name in names:
            yield Found("MK002", path, f"{what}: the name stands there twice")
        else:
            names.add(name)
        if isinstance(source, dict) and source:
            continue
        if not isinstance(source, str) or not source.strip():
            yield Found("MK002", path, f"{what} has no source")
        elif ".." in source.split("/") or source.startswith("/"):
            yield Found("MK002", path, f"{what}: the source {source!r} leaves the marketplace")
        elif id(entry) in places:
            where = places[id(entry)]
            if where not in plugins:
                directories = _directories(discovery) if directories is None else directories
                if where and where not in directories:
                    yield Found("MK002", path, f"{what}: the source {source!r} is not there")
            elif message := _version(entry, plugins[where]):
                yield Found("MK002", path, f"{what}: {message}")


def _directories(discovery: Discovery) -> set[bytes]:
    found: set[bytes] = set()
    for path in discovery.files:
        directory = os.path.dirname(path)
        while directory and directory not in found:
            found.add(directory)
            directory = os.path.dirname(directory)
    return found


def _version(entry: Mapping[str, Any], plugin: Plugin) -> str:
    listed, own = entry.get("version"), plugin.manifest.get("version")
    if isinstance(listed, str) and isinstance(own, str) and listed != own:
        return f"it says version {listed}, the manifest says {own}"
    return ""


def _unlisted(discovery: Discovery, content: Mapping[str, Any], path: bytes) -> Iterator[Found]:
    """MK003, for the plugins to which no other marketplace is nearer."""
    listed = {where for _, where in local_entries(content, path)}
    top = _top(path)
    for plugin in discovery.plugins:
        nearest = max(
            (_top(other) for other in discovery.marketplaces if _below(plugin.path, _top(other))), key=len, default=None
        )
        if nearest == top and plugin.path not in listed and plugin.path != top:
            yield Found("MK003", plugin.path, "the marketplace does not list this plugin")


def _top(marketplace: bytes) -> bytes:
    return os.path.dirname(os.path.dirname(marketplace))


def _below(path: bytes, top: bytes) -> bool:
    return not top or path == top or path.startswith(top + b"/")
