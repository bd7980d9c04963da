"""A made-up marketplace of plugins, like real ones in shape, size and mess; and trees of any size made of it.

    python scripts/marketplace.py DIR --plugins 235 --seed 7
    python scripts/marketplace.py DIR --multiply SOURCE --copies 96

The same arguments give the same tree, byte for byte and nanosecond for nanosecond. What a file system refuses
(names that are not UTF-8, extended attributes) is left out and named in the summary.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from dataclasses import dataclass, field
from functools import partial
from random import Random

from marketplace_text import Writer, between, pick, shell_script, subset
from marketplace_tree import Tree, read_tree
from marketplace_words import LICENSE, ROLES, TOPICS

MANIFEST = b".claude-plugin/plugin.json"
FEWEST = 12
_SIZES = {  # typical sizes in characters, ascending: each size is drawn between two neighbours
    "readme": (380, 420, 470, 560, 1_100, 2_900, 7_000, 19_000),
    "command": (420, 620, 800, 1_000, 2_200, 4_500, 9_500, 26_000, 60_000),
    "agent": (700, 1_600, 4_000, 8_000, 15_000),
    "skill": (700, 1_200, 2_400, 2_900, 3_300, 9_000),
    "script": (200, 700, 1_800, 4_000),
}

_SHORT_README = """# {title} Plugin

{description}.

## Installation

```bash
/plugin install {name}@marketplace
```

## Features

- {feature}
- Works with {topic} projects of any size

## License

MIT
"""

_ODD_FILES: dict[str, tuple[bytes, bytes, int]] = {
    "space": (b"release notes.md", b"A space in the name.\n", 0o644),
    "newline": (b"two\nlines.md", b"A newline in the name.\n", 0o644),
    "backslash": (b"back\\slash.md", b"A backslash in the name.\n", 0o644),
    "quotes": (b"\"double\" and 'single'.md", b"Quotes in the name.\n", 0o644),
    "leading-dash": (b"-rf", b"A name like an option.\n", 0o644),
    "unicode": ("naïve-日本語-🧩.md".encode(), b"A name of many scripts.\n", 0o644),
    "not-utf8": (b"caf\xe9.md", b"A name in Latin-1.\n", 0o644),
    "long-name": (b"long-" * 50 + b"ab.md", b"A name of 255 bytes.\n", 0o644),
    "read-only": (b"read-only.md", b"Nobody writes here.\n", 0o444),
    "no-final-newline": (b"no-final-newline.txt", b"This line does not end", 0o644),
    "carriage-returns": (b"windows.txt", b"Carriage return\r\nand line feed\r\n", 0o644),
    "before-1970": (b"before-1970.md", b"Older than the epoch.\n", 0o600),
}


@dataclass(frozen=True)
class Summary:
    """What was made: `files` counts every name of a hard link, `size` is their sum in bytes.

    `traps` says what is odd and where it lies; `skipped` names what the file system refused.
    """

    plugins: int = 0
    files: int = 0
    directories: int = 0
    links: int = 0
    size: int = 0
    traps: dict[str, bytes] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Plugin:
    """One plugin of the plan; `number` decides which of the shared files it gets."""

    number: int
    path: bytes
    name: str
    topic: str


def generate(directory: bytes | str, *, plugins: int = 235, seed: int = 7, large: int = 3_000_000) -> Summary:
    """Make a marketplace of so many plugins in a new or empty directory.

    `large` is the size in bytes of the one big binary file, 0 for none. ValueError for fewer than 12 plugins:
    there would be no room for every trap. FileExistsError if the directory is not empty.
    """
    if plugins < FEWEST:
        raise ValueError(f"{plugins} plugins are too few: {FEWEST} are needed to hold every kind of trap")
    tree = Tree(os.fsencode(directory), seed)
    plan = _plan(plugins, seed)
    for plugin in plan:
        _write_plugin(tree, plugin, plugins, seed)
    _write_packs(tree, plan, seed)
    _write_catalog(tree, plan)
    times = _set_traps(tree, plan, seed, large)
    tree.set_times(times)
    return Summary(
        plugins=len(plan),
        files=tree.files,
        directories=len(tree.directories),
        links=tree.links,
        size=tree.size,
        traps=tree.traps,
        skipped=tuple(tree.skipped),
    )


def _plan(count: int, seed: int) -> list[_Plugin]:
    """Decide where each plugin lies: most in categories, some in packs, one in another, one name twice."""
    rng = Random(f"{seed}/plan")
    topics = [topic for topic in TOPICS for _ in range(between(rng, 1, 4))]
    things = dict.fromkeys(" ".join(TOPICS.values()).split())
    names = iter(subset(rng, [f"{thing}-{role}" for thing in things for role in ROLES.split()], count))
    packed = max(2, count // 16)
    plan: list[_Plugin] = []
    for number in range(count - packed - 2):
        topic, name = pick(rng, topics), next(names)
        plan.append(_Plugin(number, f"plugins/{topic}/{name}".encode(), name, topic))
    host = plan[3]
    name = next(names)
    plan.append(_Plugin(len(plan), host.path + b"/extras/" + name.encode(), name, host.topic))
    for number in range(packed):
        pack = f"plugins/packages/{list(TOPICS)[number // 5]}-pack"
        topic, name = pick(rng, topics), next(names)
        plan.append(_Plugin(len(plan), f"{pack}/plugins/0{number % 5}-{topic}/{name}".encode(), name, topic))
    twin = plan[4]
    path = os.path.dirname(plan[-1].path) + b"/" + twin.name.encode()
    plan.append(_Plugin(len(plan), path, twin.name, twin.topic))
    return plan


def _size(rng: Random, kind: str) -> int:
    marks = _SIZES[kind]
    step = between(rng, 0, len(marks) - 2)
    return between(rng, marks[step], marks[step + 1])


def _write_plugin(tree: Tree, plugin: _Plugin, plugins: int, seed: int) -> None:
    rng = Random(f"{seed}/{os.fsdecode(plugin.path)}")
    writer = Writer(rng, plugin.topic)
    root, title = plugin.path, plugin.name.replace("-", " ").title()
    description = writer.sentence()
    tree.file(root + b"/" + MANIFEST, _manifest(plugin, description, rng))
    tree.file(root + b"/README.md", _readme(plugin, description, writer, rng))
    if plugin.number % 2 == 0 and plugin.number // 2 < plugins * 61 // 235:
        tree.file(root + b"/LICENSE", LICENSE.format(holder="the contributors of the marketplace"))
    elif plugin.number % 2 and rng.random() < 0.5:
        tree.file(root + b"/LICENSE", LICENSE.format(holder=f"the authors of {plugin.name}"))
    for _ in range(pick(rng, (0, 1, 1, 1, 1, 1, 2, 3))):
        stem = f"{writer.identifier().strip('-').replace('_', '-')}-{between(rng, 10, 99)}"
        text = writer.document(title, _size(rng, "command"), front={"description": writer.sentence()})
        tree.file(root + f"/commands/{stem}.md".encode(), text)
    if rng.random() < 0.25:
        front = {"name": f"{plugin.name}-expert", "description": writer.sentence()}
        text = writer.document(f"{title} expert", _size(rng, "agent"), front=front)
        tree.file(root + f"/agents/{plugin.name}-expert.md".encode(), text)
    if rng.random() < 0.6:
        skill = root + f"/skills/{plugin.name}".encode()
        front = {"name": plugin.name, "description": f"{description}. {writer.sentence()}."}
        tree.file(skill + b"/SKILL.md", writer.document(title, _size(rng, "skill"), front=front))
        if plugin.number % 4 == 0:
            tree.file(skill + b"/references/conventions.md", _shared("writing", 2_000, seed))
    if rng.random() < 0.2:
        tree.file(root + b"/scripts/run.sh", shell_script(writer, rng, _size(rng, "script")), 0o755)
    if plugin.number % 8 == 0:
        tree.file(root + b"/scripts/common.sh", _shared("devops", 900, seed), 0o755)
    if plugin.number % 19 == 0:
        command = {"type": "command", "command": "${CLAUDE_PLUGIN_ROOT}/scripts/common.sh"}
        hooks = {"hooks": {"PostToolUse": [{"matcher": "Write|Edit", "hooks": [command]}]}}
        tree.file(root + b"/hooks/hooks.json", json.dumps(hooks, indent=2) + "\n")


def _shared(topic: str, size: int, seed: int) -> str:
    """Return text that many plugins carry word for word."""
    rng = Random(f"{seed}/shared/{topic}")
    writer = Writer(rng, topic)
    return shell_script(writer, rng, size) if topic == "devops" else writer.document("Conventions", size)


def _manifest(plugin: _Plugin, description: str, rng: Random) -> str:
    """Return a plugin.json; some have wrong types, one in sixty is no JSON object at all."""
    manifest: dict[str, object] = {
        "name": plugin.name,
        "version": f"{between(rng, 0, 4)}.{between(rng, 0, 20)}.{between(rng, 0, 9)}",
        "description": description,
        "author": {"name": "Marketplace contributors", "email": "plugins@example.com"},
        "license": "MIT",
        "keywords": [plugin.topic, *plugin.name.split("-"), *subset(rng, TOPICS[plugin.topic].split(), 3)],
    }
    wrong: dict[int, dict[str, object]] = {
        5: {"name": 42},
        6: {"name": None, "version": 1.0},
        7: {"keywords": "one, two", "author": ["first", "second"]},
        8: {"version": ["1", "0"], "description": {"en": description}},
    }
    manifest |= wrong.get(plugin.number % 47, {})
    text = json.dumps(manifest, indent=2, ensure_ascii=False)
    if plugin.number % 60 == 9:
        return json.dumps([manifest])
    if plugin.number % 60 == 10:
        return text[: len(text) // 2]
    return text if rng.random() < 0.1 else text + "\n"


def _readme(plugin: _Plugin, description: str, writer: Writer, rng: Random) -> str:
    """Return a README: some empty, some without a final newline, the short ones all of one pattern."""
    if plugin.number % 78 == 2:
        return ""
    title, size = plugin.name.replace("-", " ").title(), _size(rng, "readme")
    if size > 560:
        text = writer.document(title, size)
        return text if rng.random() < 0.9 else text.rstrip("\n")
    return _SHORT_README.format(
        title=title, description=description, name=plugin.name, topic=plugin.topic, feature=writer.sentence()
    )


def _write_packs(tree: Tree, plan: list[_Plugin], seed: int) -> None:
    """Give each pack a README of its own: it has no manifest, only the plugins in it do."""
    packs = {plugin.path.partition(b"/plugins/")[0] for plugin in plan if b"-pack/" in plugin.path}
    for pack in sorted(packs):
        writer = Writer(Random(f"{seed}/{os.fsdecode(pack)}"), "documentation")
        tree.file(pack + b"/README.md", writer.document("A pack of plugins", 1_500))
        tree.file(pack + b"/QUICK_START.md", writer.document("Quick start", 4_000))


def _write_catalog(tree: Tree, plan: list[_Plugin]) -> None:
    listing = [
        {"name": plugin.name, "source": f"./{os.fsdecode(plugin.path)}", "category": plugin.topic} for plugin in plan
    ]
    catalog = {"name": "made-up-marketplace", "owner": {"name": "Contributors"}, "plugins": listing}
    tree.file(b".claude-plugin/marketplace.json", json.dumps(catalog, indent=2) + "\n")
    tree.file(b"README.md", f"# A marketplace of {len(plan)} plugins\n\nEvery one of them is made up.\n")


def _set_traps(tree: Tree, plan: list[_Plugin], seed: int, large: int) -> dict[bytes, int]:
    """Add what breaks tools to the first three plugins, and return the times that are out of the ordinary."""
    first, second, third = (plugin.path for plugin in plan[:3])
    odd = first + b"/references/"
    for what, (name, content, mode) in _ODD_FILES.items():
        tree.trap(what, odd + name, partial(tree.file, odd + name, content, mode))
    tree.file(odd + b"original.md", "One file of two names.\n")
    tree.file(second + b"/shared/data.md", "One file of two plugins.\n")
    for what, path, existing in (
        ("hard-link", first + b"/second-name.md", odd + b"original.md"),
        ("hard-link-across", third + b"/shared-data.md", second + b"/shared/data.md"),
    ):
        tree.trap(what, path, partial(tree.hardlink, path, existing))
    for what, path, target in (
        ("link", first + b"/guide.md", b"references/original.md"),
        ("link-up", odd + b"manifest.json", b"../.claude-plugin/plugin.json"),
        ("link-to-directory", first + b"/latest", b"references"),
        ("dangling", odd + b"dangling", b"../no/such/file"),
    ):
        tree.trap(what, path, partial(tree.symlink, path, target))
    for what, path in (("xattr", first + b"/README.md"), ("xattr-directory", first + b"/references")):
        tree.trap(what, path, partial(tree.xattr, path, "user.origin", b"made\0up\xff"))
    tree.trap("empty-directory", first + b"/empty", partial(tree.directory, first + b"/empty"))
    if large:
        path = first + b"/assets/model.bin"
        tree.trap("large", path, partial(tree.file, path, _binary(large, seed)))
    tree.traps["nested"] = next(plugin.path for plugin in plan if b"/extras/" in plugin.path)
    tree.traps["twin"] = plan[-1].path
    return {tree.traps["before-1970"]: -123_456_789_012_345_678}


def _binary(size: int, seed: int) -> bytes:
    """Return bytes of which two thirds cannot be compressed and the rest is text."""
    noise = hashlib.shake_256(b"%d" % seed).digest(size * 2 // 3)
    writer = Writer(Random(f"{seed}/binary"), "learning")
    text = writer.document("Training log", 60_000).encode()
    return noise + (text * (size // len(text) + 1))[: size - len(noise)]


def multiply(source: bytes | str, target: bytes | str, copies: int, seed: int = 7) -> Summary:
    """Write copies of a tree into a new or empty directory, each with another seventh of its lines rewritten.

    Modes and symbolic links are kept, and files with a NUL byte are copied as they are; times are drawn anew,
    hard links become files of their own, and extended attributes are dropped. Plugins are not counted.
    """
    tree = Tree(os.fsencode(target), seed)
    directories, files, links = read_tree(os.fsencode(source))
    words = [word for data, _ in files.values() for word in data.split()[:20] if b"\0" not in data]
    for number in range(copies):
        rng = Random(f"{seed}/copy/{number}")
        base = b"copy%04d/" % number
        for path in directories:
            tree.directory((base + path).rstrip(b"/"))
        for path, (data, mode) in files.items():
            tree.file(base + path, data if b"\0" in data else _rewrite(data, words, rng), mode)
        for path, goal in links.items():
            tree.symlink(base + path, goal)
    tree.set_times({})
    return Summary(files=tree.files, directories=len(tree.directories), links=tree.links, size=tree.size)


def _rewrite(data: bytes, words: list[bytes], rng: Random) -> bytes:
    """Return the text with a seventh of its lines replaced by other words of the tree, each as long as before."""
    lines = data.split(b"\n")
    for number, line in enumerate(lines):
        if line.strip() and rng.random() < 1 / 7:
            new = b""
            while len(new) < len(line):
                new += pick(rng, words) + b" "
            lines[number] = new[: len(line)]
    return b"\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Make a marketplace of plugins, or copies of a tree.")
    parser.add_argument("directory", help="a new or empty directory")
    parser.add_argument("--plugins", type=int, default=235)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--large", type=int, default=3_000_000, help="bytes of the one big file, 0: none")
    parser.add_argument("--multiply", metavar="SOURCE", help="write copies of this tree instead")
    parser.add_argument("--copies", type=int, default=10)
    given = parser.parse_args(arguments)
    try:
        if given.multiply:
            made = multiply(given.multiply, given.directory, given.copies, given.seed)
        else:
            made = generate(given.directory, plugins=given.plugins, seed=given.seed, large=given.large)
    except (ValueError, OSError) as error:
        sys.exit(f"marketplace: {error}")
    print(f"{made.files} files, {made.directories} directories, {made.links} links, {made.size / 1e6:.1f} MB")
    if made.skipped:
        print(f"left out, because the file system refuses them: {', '.join(made.skipped)}")


if __name__ == "__main__":
    main()
