"""Deterministic repairs: what they do, that they end, that they take nothing away, that a second run finds nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enhance.discover import discover, join
from enhance.fix import Edit, Move, Write, fixes, kebab, repair
from enhance.frontmatter import dump_frontmatter, parse_frontmatter, rewrite_frontmatter
from enhance.model import Plugin
from enhance.validators import check_plugin
from tests.support.skills import BODY, DESCRIPTION, GOOD, plugin_of, read_tree, skill, write_tree

OLD = b"skills/sql-format/SKILL.md"


def applied(files: Mapping[bytes, bytes], edits: Sequence[Edit]) -> dict[bytes, bytes]:
    """Return the files after some edits; each path that an edit names must be there, or be free."""
    now = dict(files)
    for edit in edits:
        if isinstance(edit, Move):
            assert not any(path == edit.new or path.startswith(edit.new + b"/") for path in now)
            inside = [path for path in now if path.startswith(edit.old + b"/")]
            assert inside
            for path in inside:
                now[edit.new + path[len(edit.old) :]] = now.pop(path)
        else:
            assert edit.path in now
            assert now[edit.path] != edit.data
            now[edit.path] = edit.data
    return now


def mended(changes: Mapping[bytes, bytes | None], profile: str = "portable") -> tuple[list[Edit], dict[bytes, bytes]]:
    files = {path: data for path, data in {**GOOD, **changes}.items() if data is not None}
    edits = repair(files, plugin_of(files), profile)
    after = applied(files, edits)
    assert repair(after, plugin_of(after), profile) == []
    return edits, after


def head(data: bytes) -> dict[str, Any]:
    parsed = parse_frontmatter(data)
    assert parsed.problems == ()
    return dict(parsed.mapping)


def test_nothing_is_mended_where_nothing_is_wrong() -> None:
    assert mended({}) == ([], GOOD)
    assert mended({OLD: b"no head at all"})[0] == []
    assert mended({OLD: skill(more="license: [\n")})[0] == []


def test_the_directory_takes_the_name() -> None:
    files = {
        OLD: skill("Formatting SQL Files", body=BODY + "See skills/sql-format/scripts/x.py\n"),
        b"skills/sql-format/scripts/x.py": b"print(1)\n",
        b"skills/sql-format/references/a.json": b'{"at": "skills/sql-format/scripts/x.py"}',
    }
    edits, after = mended(files)
    new = b"skills/formatting-sql-files"
    assert edits[0] == Move(b"skills/sql-format", new)
    assert head(after[new + b"/SKILL.md"])["name"] == "formatting-sql-files"
    assert b"See skills/formatting-sql-files/scripts/x.py\n" in after[new + b"/SKILL.md"]
    assert after[new + b"/references/a.json"] == b'{"at": "skills/formatting-sql-files/scripts/x.py"}'
    assert new + b"/scripts/x.py" not in {edit.path for edit in edits if isinstance(edit, Write)}


@pytest.mark.parametrize(
    "more",
    [
        {b"README.md": b"See `skills/sql-format`.\n"},
        {b"commands/x.md": b"---\ndescription: x\n---\nRead ./skills/sql-format/SKILL.md\n"},
        {b".claude-plugin/plugin.json": b'{"name": "sql", "skills": ["./skills/sql-format"]}'},
        {b"skills/sql-format/scripts/x.sh": b"cat skills/sql-format/SKILL.md\n"},
        {b"skills/format-it/SKILL.md": skill("format-it")},
        {b"skills/format-it": b"a file"},
    ],
)
def test_the_name_becomes_the_directorys_where_that_must_stay(more: dict[bytes, bytes]) -> None:
    edits, after = mended({OLD: skill("Format It"), **more})
    assert edits == [Write(OLD, skill("sql-format"))]
    assert after[OLD] == skill("sql-format")


def test_a_path_that_only_begins_alike_is_another() -> None:
    edits, _ = mended({OLD: skill("format-it"), b"README.md": b"skills/sql-format-more myskills/sql-format\n"})
    assert edits == [Move(b"skills/sql-format", b"skills/format-it")]


def test_names_of_vendors_are_left_to_people() -> None:
    assert mended({OLD: skill("Claude SQL")})[0] == []
    assert mended({OLD: skill("anthropic-sql")})[0] == []
    edits, _ = mended({b"skills/claude-x/SKILL.md": skill("Some Thing"), b"README.md": b"skills/claude-x\n"})
    assert edits == [Write(b"skills/claude-x/SKILL.md", skill("some-thing"))]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Managing Database Migrations", "managing-database-migrations"),
        ("  CI/CD -- für Größe & Café ", "ci-cd-fur-gro-e-cafe"),
        ("It's", "its"),
        ("\u6f22\u5b57", ""),
        ("ﬁle\u2460", "file1"),
        ("word " * 30, "word-word-word-word-word-word-word-word-word-word-word-word-word"[:64]),
        ("x" * 80, "x" * 64),
        ("a" * 40 + " " + "b" * 40, "a" * 40),
        ("a" * 64 + " b", "a" * 64),
    ],
)
def test_kebab(text: str, name: str) -> None:
    assert kebab(text) == name
    assert kebab(name) == name


def test_unknown_keys_move_under_metadata() -> None:
    more = (
        "# a comment\nversion: 1.10\nsafe: yes\nmetadata:\n  author: Jane\n  version: 2.0\ntags: [a, b]\nfrom: {x: 1}\n"
    )
    _, after = mended({OLD: skill(more=more)})
    assert head(after[OLD])["metadata"] == {
        "author": "Jane",
        "version": "2.0",
        "version-2": "1.10",
        "safe": "yes",
        "tags": '["a", "b"]',
        "from": '{"x": 1}',
    }
    _, after = mended({OLD: skill(more="version: 1.0.0\n# a comment\nlicense: MIT\n")})
    expected = skill(more="# a comment\nlicense: MIT\nmetadata:\n  version: 1.0.0\n")
    assert head(after[OLD]) == head(expected)
    assert b"# a comment\nlicense: MIT\n" in after[OLD]
    assert mended({OLD: skill(more="model: sonnet\n")}, "claude-code")[0] == []
    assert mended({OLD: skill(more="metadata: words\nversion: 1\n")})[0] == []
    _, after = mended({OLD: skill(more="metadata: []\nversion: 1.10\n")})
    assert head(after[OLD])["metadata"] == {"version": "1.10"}


@pytest.mark.parametrize(
    ("value", "string"),
    [
        ("[Read, Write, 'Bash(git add:*)']", "Read Write Bash(git add:*)"),
        ("\n  - Read\n  - Grep", "Read Grep"),
        ("Read, Write,Bash(a:*, b:*)", "Read Write Bash(a:*, b:*)"),
    ],
)
def test_tools_become_a_string(value: str, string: str) -> None:
    _, after = mended({OLD: skill(more=f"allowed-tools: {value}\nlicense: MIT\n")})
    assert head(after[OLD])["allowed-tools"] == string
    assert after[OLD].startswith(skill().split(b"---\n\n")[0])  # the lines before stay as they were
    assert after[OLD].endswith(b"license: MIT\n---\n" + BODY.encode())


def test_heads_of_odd_form_are_written_anew() -> None:
    flow = b"---\n{name: Other Name, description: 'Does x. Use when y --- z is asked for.'}\n---\n" + BODY.encode()
    _, after = mended({OLD: flow})
    data = after[b"skills/other-name/SKILL.md"]
    assert head(data) == {"name": "other-name", "description": "Does x. Use when y --- z is asked for."}
    assert data.endswith(b"---\n" + BODY.encode())
    assert data.count(b"---") == 2


def test_line_ends_stay() -> None:
    data = skill("Other Name", more="version: 1\n").replace(b"\n", b"\r\n")
    _, after = mended({OLD: data})
    new = after[b"skills/other-name/SKILL.md"]
    assert new.count(b"\n") == new.count(b"\r\n")
    assert new.endswith(BODY.replace("\n", "\r\n").encode())


def test_a_chain_of_names_comes_to_an_end() -> None:
    files = {
        OLD: None,
        b"skills/a/SKILL.md": skill("b"),
        b"skills/b/SKILL.md": skill("c"),
        b"skills/c/SKILL.md": skill("a"),
        b"skills/d/SKILL.md": skill("e"),
        b"skills/e/SKILL.md": skill("F G"),
        b"skills/e/inner/SKILL.md": skill("H"),
    }
    _, after = mended(files)
    for path, data in after.items():
        if path.endswith(b"SKILL.md"):
            assert head(data)["name"].encode() == path.split(b"/")[-2]


def test_a_skill_that_is_the_plugin_itself_keeps_its_directory() -> None:
    files = {b"SKILL.md": skill("Other Name")}
    assert repair(files, plugin_of(files, b"plugins/sql"), "portable") == [Write(b"SKILL.md", skill("sql"))]
    assert repair(files, plugin_of(files, b""), "portable") == [Write(b"SKILL.md", skill("other-name"))]


# On the disk


def apply_on_disk(top: bytes, edits: Sequence[Edit]) -> None:
    for edit in edits:
        if isinstance(edit, Move):
            os.rename(join(top, edit.old), join(top, edit.new))
        else:
            with open(join(top, edit.path), "wb") as file:
                file.write(edit.data)


def planned(root: bytes, named: frozenset[bytes] = frozenset()) -> tuple[Plugin, list[Edit]]:
    found = discover(root)
    plugin = found.plugins[0]
    findings = check_plugin(found.contents(plugin), plugin, "portable")
    return plugin, fixes(root, plugin, findings, "portable", named=named)


def test_a_plugin_on_the_disk_is_mended_once(tmp_path: Path) -> None:
    files = {**GOOD, OLD: skill("Other Name"), b"skills/sql-format/scripts/x.sh": b"echo\n"}
    root = write_tree(tmp_path / "s", {b"p/" + path: data for path, data in files.items()})
    plugin, edits = planned(root)
    apply_on_disk(join(root, plugin.path), edits)
    after = read_tree(root)
    assert after[b"p/skills/other-name/SKILL.md"] == skill("other-name")
    assert after[b"p/skills/other-name/scripts/x.sh"] == b"echo\n"
    assert planned(root)[1] == []
    assert [
        one.rule for one in check_plugin(discover(root).contents(discover(root).plugins[0]), plugin, "portable")
    ] == []


@pytest.mark.parametrize("reason", ["link", "nested", "named"])
def test_what_the_disk_shows_may_forbid_a_move(tmp_path: Path, reason: str) -> None:
    files = {**GOOD, OLD: skill("Other Name")}
    if reason == "nested":
        files[b"skills/sql-format/inner/.claude-plugin/plugin.json"] = b"{}"
    root = write_tree(tmp_path / "s", {b"p/" + path: data for path, data in files.items()})
    if reason == "link":
        os.symlink("nowhere", root + b"/p/skills/other-name")
    _, edits = planned(root, frozenset({b"p/skills/sql-format"} if reason == "named" else ()))
    assert edits == [Write(OLD, skill("sql-format"))]


def test_without_findings_nothing_is_read(tmp_path: Path) -> None:
    assert fixes(os.fsencode(tmp_path / "none"), plugin_of([OLD]), [], "portable") == []


# Properties

KEYS = st.sampled_from(
    ["license", "version", "tags", "author", "model", "metadata", "allowed-tools", "compatibility", "on-x"]
)
SCALARS = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.booleans() | st.integers(-9, 9) | st.none()
)
VALUES = (
    SCALARS
    | st.lists(SCALARS, max_size=3)
    | st.dictionaries(st.text("abc", min_size=1, max_size=3), SCALARS, max_size=3)
)
NAMES = st.sampled_from(["a", "b", "A b", "c d e", "Claude x", "größe", "x" * 70, "12", "no", "a--b", "skill-adapter"])
BODIES = st.binary(max_size=60) | st.sampled_from([b"skills/a/x.md", b"see skills/b\n---\n", b"\r\n\r\nx", b""])


@st.composite
def skills(draw: st.DrawFn) -> bytes:
    mapping: dict[str, Any] = {
        "name": draw(NAMES),
        "description": DESCRIPTION,
        **draw(st.dictionaries(KEYS, VALUES, max_size=4)),
    }
    if draw(st.booleans()):
        import yaml

        flow = draw(st.sampled_from([None, True, False]))
        text = yaml.safe_dump(mapping, default_flow_style=flow, sort_keys=False, allow_unicode=draw(st.booleans()))
        data = b"---\n" + text.encode() + b"---\n" + draw(BODIES)
    else:
        data = dump_frontmatter(mapping) + draw(BODIES)
    return data.replace(b"\n", b"\r\n") if draw(st.integers(0, 9)) == 0 else data


DIRECTORIES = st.sampled_from(
    [b"skills/a", b"skills/b", b"skills/c d", b"skills/skill-adapter", b"skills/a/in", b"x", b"skills/c-d-e"]
)


@given(
    st.dictionaries(DIRECTORIES, skills(), min_size=1, max_size=4),
    st.dictionaries(st.sampled_from([b"README.md", b"skills/a/x.md", b"skills/b/run.sh"]), BODIES, max_size=2),
    st.sampled_from(["portable", "claude-code", "marketplace"]),
)
@settings(max_examples=250, deadline=None)
def test_repairs_end_and_take_nothing_away(made: dict[bytes, bytes], more: dict[bytes, bytes], profile: str) -> None:
    files = {**more, **{directory + b"/SKILL.md": data for directory, data in made.items()}}
    edits = repair(files, plugin_of(files), profile)
    after = applied(files, edits)
    assert repair(after, plugin_of(after), profile) == []
    assert len(after) == len(files)
    bodies = sorted(_without_paths(parse_frontmatter(data).body) for data in files.values())
    assert sorted(_without_paths(parse_frontmatter(data).body) for data in after.values()) == bodies
    for path, data in after.items():
        if path in files or not path.endswith(b"SKILL.md"):
            continue
        moved = parse_frontmatter(data).mapping["name"]
        if "laude" not in moved:  # such a one may have moved with the skill around it
            assert moved.encode() == path.split(b"/")[-2]
    for edit in edits:
        if isinstance(edit, Write) and edit.path.endswith(b"SKILL.md"):
            assert parse_frontmatter(edit.data).mapping["description"] == DESCRIPTION


def _without_paths(body: bytes) -> bytes:
    import re

    return re.sub(rb"skills/[\w-]+", b"skills/", body)


@given(skills(), st.dictionaries(KEYS, VALUES, max_size=4))
@settings(max_examples=250, deadline=None)
def test_a_rewritten_head_says_what_it_should(data: bytes, more: dict[str, Any]) -> None:
    before = parse_frontmatter(data)
    if any(problem.flaw != "encoding" for problem in before.problems):
        return
    wanted = {**before.mapping, **{key: value for key, value in more.items() if isinstance(value, str)}}
    after = parse_frontmatter(rewrite_frontmatter(data, wanted))
    assert after.body == before.body
    assert {key: after.mapping[key] for key in more if isinstance(more[key], str)} == {
        key: value for key, value in more.items() if isinstance(value, str)
    }
    assert set(after.mapping) == {key for key, value in wanted.items() if value not in ([], {})}
