"""A plugin's texts as what they are: commands, agents, README, further pages, hooks, servers, scripts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from enhance.frontmatter import parse_frontmatter
from enhance.generators.offline import cleaning, markdown
from enhance.generators.offline.markdown import Section
from enhance.model import Material

_COMPONENT = re.compile(r"^(?:(.*)/)?(commands|agents)/(?:.*/)?([^/]+)\.md$")
_NO_PAGE = re.compile(
    r"(?i)licen[cs]e|change|contribut|conduct|security\.md|summary|report|test|seo|complete|install|launch|release|readme"
    r"|todo|roadmap|credits|template|fixture|sample|claude\.md|agents\.md|node_modules"
)
_SCRIPT = re.compile(r"(?:^|/)(?:scripts|bin|hooks|servers?)/[^/]+$|^[^/]+$")
_SCRIPT_END = (".sh", ".py", ".js", ".mjs", ".ts", ".rb", ".pl", ".ps1")
_TAGLINE_END = re.compile(r"(?<=[.!?])\s")
_ANNOUNCED = re.compile(
    r"(?i)\b(?:under development|coming soon|planned features?|not (?:yet )?(?:released|implemented))\b"
)


class Page(Struct, frozen=True):
    """A Markdown text of the plugin. `name` is a command's or agent's name, or the page's title.

    `group` is the directory above `commands/` or `agents/`: collections keep their parts apart that way.
    """

    kind: Literal["command", "agent", "readme", "page"]
    path: str
    name: str
    description: str
    body: Section
    size: int
    head: Mapping[str, Any] = {}
    group: str = ""


class Fact(Struct, frozen=True):
    """Something that is no prose: a hook, a server, a script. `text` says what it is, in the plugin's own words."""

    path: str
    name: str
    text: str


class Sources(Struct, frozen=True):
    """All that a skill can be made of. `hashes` are the SHA-256 of the texts by path, as they were read."""

    components: tuple[Page, ...]
    readme: Page | None
    pages: tuple[Page, ...]
    hooks: tuple[Fact, ...]
    servers: tuple[Fact, ...]
    scripts: tuple[Fact, ...]
    description: str
    keywords: tuple[str, ...]
    hashes: Mapping[str, str]
    announced: bool


def read(material: Material) -> Sources:
    """Sort a plugin's texts. Whatever cannot be read as what its name says is left out."""
    texts = {_shown(path): text for path, text in sorted(material.texts.items())}
    manifest = material.plugin.manifest
    pages = [page for path, text in texts.items() if path.lower().endswith(".md") and (page := _page(path, text))]
    readmes = [page for page in pages if page.kind == "readme"]
    components = tuple(page for page in pages if page.kind in {"command", "agent"})
    hooks = tuple(_hooks(texts, manifest))
    servers = tuple(_servers(texts, manifest))
    scripts = tuple(_scripts(texts))
    built = bool(components or hooks or servers or scripts)
    notice = texts.get(readmes[0].path, "")[:4000] if readmes else ""
    return Sources(
        components=components,
        readme=readmes[0] if readmes else None,
        pages=tuple(page for page in pages if page.kind == "page"),
        hooks=hooks,
        servers=servers,
        scripts=scripts,
        description=line(manifest.get("description")),
        keywords=tuple(word for item in _list(manifest.get("keywords")) if (word := line(item))),
        hashes={path: hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() for path, text in texts.items()},
        announced=not built and (line(manifest.get("status")) == "planned" or bool(_ANNOUNCED.search(notice))),
    )


def line(value: object) -> str:
    """Return a value of a manifest or head as one clean line; empty for what is no text or may not be used."""
    if not isinstance(value, str) or "$(" in value:  # what a shell should have filled in
        return ""
    text = cleaning.prose(cleaning.visible(" ".join(value[:2000].split())))
    return "" if cleaning.hazard(text) else " ".join(text.split())


def lines(value: object) -> list[str]:
    """Return a list of a manifest or head, or a string with commas, as clean lines."""
    found = value.split(",") if isinstance(value, str) else _list(value)
    return [text for item in found if (text := line(item))]


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()


def _shown(path: bytes) -> str:
    return cleaning.visible(path.decode("utf-8", "replace"))


def _page(path: str, text: str) -> Page | None:
    name = path.rsplit("/", 1)[-1]
    if name == "SKILL.md" or "/skills/" in f"/{path}":
        return None
    found = _COMPONENT.match(path)
    if found is None and (name.lower() != "readme.md" or "/" in path) and _NO_PAGE.search(path):
        return None
    head = parse_frontmatter(text[: markdown.LONGEST_TEXT].encode("utf-8", "replace"))
    body = cleaning.section(markdown.parse(head.body.decode("utf-8", "replace")))
    description = line(head.mapping.get("description"))
    size = len(text.encode("utf-8", "replace"))
    if found is not None:
        kind: Literal["command", "agent"] = "command" if found[2] == "commands" else "agent"
        own = line(head.mapping.get("name")) if kind == "agent" else ""
        return Page(
            kind, path, own or cleaning.heading(found[3]), description, body, size, head.mapping, found[1] or ""
        )
    if name.lower() == "readme.md":
        return Page("readme", path, body.title, description, body, size, head.mapping)
    return Page("page", path, body.title or name[:-3], description, body, size, head.mapping)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _hooks(texts: Mapping[str, str], manifest: Mapping[str, Any]) -> Iterator[Fact]:
    found = [(path, _json(text)) for path, text in texts.items() if re.search(r"(?:^|/)hooks/[^/]+\.json$", path)]
    found.append((".claude-plugin/plugin.json", {"hooks": manifest.get("hooks")}))
    for path, content in found:
        for event, entries in _mapping(_mapping(content).get("hooks")).items():
            for entry in map(_mapping, _list(entries)):
                for hook in map(_mapping, _list(entry.get("hooks"))):
                    if entry.get("enabled") is not False and (command := line(hook.get("command"))):
                        on = f"`{event}`" + (f" on `{matcher}`" if (matcher := line(entry.get("matcher"))) else "")
                        said = line(hook.get("description")) or line(entry.get("description"))
                        yield Fact(path, on, f"`{command}`" + (f" ({said})" if said else ""))


def _servers(texts: Mapping[str, str], manifest: Mapping[str, Any]) -> Iterator[Fact]:
    found = [(path, _json(text)) for path, text in texts.items() if path.rsplit("/", 1)[-1] == ".mcp.json"]
    found.append((".claude-plugin/plugin.json", manifest))
    for path, content in found:
        whole = _mapping(content)
        for name, value in _mapping(whole.get("mcpServers") or (whole if path.endswith(".mcp.json") else {})).items():
            server = _mapping(value)
            call = " ".join([line(server.get("command")), *map(line, _list(server.get("args")))]).strip()
            call = call or line(server.get("url"))
            wanted = [key for key in _mapping(server.get("env")) if re.fullmatch(r"[A-Z][A-Z0-9_]{1,60}", str(key))]
            if call and (known := line(name)):
                needs = f", with {', '.join(f'`{key}`' for key in wanted)} in its environment" if wanted else ""
                yield Fact(path, f"`{known}`", f"`{call}`{needs}")


def _scripts(texts: Mapping[str, str]) -> Iterator[Fact]:
    for path, text in texts.items():
        if path.endswith(_SCRIPT_END) and _SCRIPT.search(path) and not re.search(r"(?i)test|config|\.d\.ts", path):
            yield Fact(path, f"`${{CLAUDE_PLUGIN_ROOT}}/{path}`", _said_at_top(text))


def _said_at_top(text: str) -> str:
    """The first sentence of a script's first comment, if it is one."""
    for found in text[:3000].split("\n")[:25]:
        bare = found.strip()
        if bare.startswith("#!") or not bare:
            continue
        if not bare.startswith(("#", "//", "/*", "*", '"""', "'''")):
            return ""
        said = line(_TAGLINE_END.split(bare.strip("#/*\"' "))[0])
        if len(said.split()) >= 3 and not re.search(r"(?i)copyright|licen[cs]e|eslint|coding[:=]", said):
            return said
    return ""
