"""PM001 to PM008: a plugin's manifest, and the plugin as a directory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from enhance.discover import MANIFEST, MARKETPLACE, SKILL
from enhance.validators import standards
from enhance.validators.rules import Found
from enhance.validators.skill_frontmatter import KEBAB
from enhance.validators.view import View

SEMVER = re.compile(
    r"(?:0|[1-9]\d{0,17})\.(?:0|[1-9]\d{0,17})\.(?:0|[1-9]\d{0,17})(?:-[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?(?:\+[0-9A-Za-z.-]+)?"
)
_TYPES: dict[str, type] = {"string": str, "list": list, "object": dict, "boolean": bool}
_COMPONENTS = ((b"commands/", b".md"), (b"agents/", b".md"), (b"hooks/", b".json"), (b"output-styles/", b".md"))
_FILES = frozenset({b".mcp.json", b".lsp.json"})


def check(view: View) -> Iterator[Found]:
    """Hold the manifest, if there is one, and the plugin's layout against the rules."""
    content: Mapping[str, Any] = {}
    if view.is_file(MANIFEST):
        content, wrong = view.json(MANIFEST)
        if wrong:
            yield Found("PM001", MANIFEST, wrong)
        else:
            yield from _name(content)
            yield from _types(content)
            yield from _paths(view, content)
    yield from _layout(view)
    yield from _substance(view, content)


def _name(content: Mapping[str, Any]) -> Iterator[Found]:
    name = content.get("name")
    if name is None or name == "":
        yield Found("PM002", MANIFEST, "there is no name")
    elif isinstance(name, str) and not KEBAB.fullmatch(name):
        yield Found("PM002", MANIFEST, f"the name {name!r} is not in kebab-case", warn=bool(name.strip()))
    version = content.get("version")
    if isinstance(version, str) and not SEMVER.fullmatch(version):
        yield Found("PM005", MANIFEST, f"the version {version!r} is not semantic: write for instance 1.2.0")


def _types(content: Mapping[str, Any]) -> Iterator[Found]:
    for key, value in content.items():
        if key not in standards.MANIFEST_TYPES:
            yield Found("PM004", MANIFEST, f"the key {key!r} is not known")
            continue
        types = standards.MANIFEST_TYPES[key]
        if type(value) not in {_TYPES[name] for name in types}:
            yield Found("PM003", MANIFEST, f"{key} is not a {' or '.join(types)}")
        elif key == "keywords" and not all(isinstance(item, str) for item in value):
            yield Found("PM003", MANIFEST, "keywords are not all strings")
        elif key == "dependencies" and not all(_dependency(item) for item in value):
            yield Found("PM003", MANIFEST, "dependencies are not all names, or objects with a name")
        elif key == "author":
            wrong = [part for part in ("name", "email", "url") if not isinstance(value.get(part, ""), str)]
            if wrong:
                yield Found("PM003", MANIFEST, f"of the author these are not strings: {', '.join(wrong)}")


def _dependency(item: object) -> bool:
    return isinstance(item, str) or (isinstance(item, dict) and isinstance(item.get("name"), str))


def _paths(view: View, content: Mapping[str, Any]) -> Iterator[Found]:
    for key in standards.COMPONENT_KEYS:
        value = content.get(key)
        for path in [value] if isinstance(value, str) else value if isinstance(value, list) else []:
            if not isinstance(path, str) or (key in {"mcpServers", "hooks", "lspServers"} and "://" in path):
                continue
            if message := _component_path(view, path):
                yield Found("PM006", MANIFEST, f"{key}: {path!r} {message}")


def _component_path(view: View, path: str) -> str:
    if not path.startswith("./"):
        return "does not begin with ./"
    if ".." in path.split("/"):
        return "has .. in it"
    clean = os.path.normpath(path)
    return "" if view.has(b"" if clean == "." else clean.encode("utf-8", "surrogatepass")) else "is not there"


def _layout(view: View) -> Iterator[Found]:
    told = set()
    for path in view.below(b".claude-plugin"):
        if path in {MANIFEST, MARKETPLACE}:
            continue
        first = b"/".join(path.split(b"/")[:2])
        if first not in told:
            told.add(first)
            name = first.split(b"/")[1].decode("utf-8", "backslashreplace")
            message = f"{name} lies inside .claude-plugin, where only manifests belong"
            yield Found("PM007", first, message)


def _substance(view: View, content: Mapping[str, Any]) -> Iterator[Found]:
    readmes = [path for path in view.paths if re.fullmatch(rb"readme(?:\.\w+)?", path, re.IGNORECASE)]
    if not readmes:
        yield Found("PM008", b"", "there is no README")
    elif all(not view.data(path).strip() for path in readmes):
        yield Found("PM008", readmes[0], "the README is empty")
    if not any(_is_component(path) for path in view.paths) and not any(
        content.get(key) for key in standards.COMPONENT_KEYS
    ):
        yield Found("PM008", b"", "there is no component: no command, agent, skill, hook or server")


def _is_component(path: bytes) -> bool:
    if path in _FILES or os.path.basename(path) == SKILL:
        return True
    return any(path.startswith(top) and path.endswith(end) for top, end in _COMPONENTS)
