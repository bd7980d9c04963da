"""Our rules beside the two official validators: skills-ref as it is installed, quick_validate by its documented rules.

What has no error here passes both, but for the differences that docs/rules.md accepts; what is written by us passes
both without exception.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enhance.fix import Write, repair
from enhance.frontmatter import dump_frontmatter, is_portable, parse_frontmatter
from tests.support.skills import BODY, DESCRIPTION, check_skill, plugin_of, skill

skills_ref = pytest.importorskip("skills_ref")

QUICK_KEYS = {"name", "description", "license", "allowed-tools", "metadata", "compatibility"}


def quick_validate(data: bytes) -> str:
    """Say what quick_validate would refuse, empty if nothing: a short restatement of its rules."""
    content = data.decode()
    match = re.match(r"^---\n(.*?)\n---", content, re.DOTALL)
    if match is None:
        return "format"
    try:
        head = yaml.safe_load(match[1])
    except yaml.YAMLError:
        return "yaml"
    if not isinstance(head, dict):
        return "no mapping"
    if set(head) - QUICK_KEYS:
        return "keys"
    name, description = head.get("name"), head.get("description")
    if not isinstance(name, str) or not isinstance(description, str):
        return "missing or no string"
    name, description = name.strip(), description.strip()
    if (
        not re.fullmatch(r"[a-z0-9-]+", name)
        or name.startswith("-")
        or name.endswith("-")
        or "--" in name
        or len(name) > 64
    ):
        return "name"
    if "<" in description or ">" in description or len(description) > 1024:
        return "description"
    compatibility = head.get("compatibility", "")
    return "compatibility" if not isinstance(compatibility, str) or len(compatibility) > 500 else ""


def reference(tmp: Path, data: bytes, directory: str = "sql-format") -> list[str]:
    """Return what skills-ref says of a SKILL.md in a directory of some name."""
    place = tmp / directory
    place.mkdir(exist_ok=True)
    (place / "SKILL.md").write_bytes(data)
    return list(skills_ref.validate(place))


def errors(data: bytes) -> set[str]:
    return {one.rule for one in check_skill(data) if one.level == "error"}


def test_the_good_skill_passes_all_three(tmp_path: Path) -> None:
    assert errors(skill()) == set()
    assert quick_validate(skill()) == ""
    assert reference(tmp_path, skill()) == []


@pytest.mark.parametrize(
    ("data", "ours", "theirs", "quick"),
    [
        # the table of accepted differences in docs/rules.md, in its order: whether each refuses
        (skill(more="allowed-tools: [Read]\n"), False, True, False),
        (skill(more="metadata: {a: b}\n"), False, True, False),
        (skill(more='license: "MIT --- or not"\n'), False, True, False),
        (skill(more="license: &a MIT\n"), False, True, False),
        (skill(more="license: &a MIT\ncompatibility: *a\n"), True, True, False),
        (skill(more="license: !!str MIT\n"), True, True, False),
        (skill(more="license: MIT\nlicense: BSD\n"), True, True, False),
        (skill(name="größe"), True, True, True),
        (skill(name="123"), True, True, True),
        (skill(name="other"), True, True, False),
        (skill(description="Formats <sql>. Use when asked."), True, False, True),
        (skill().replace(b"\n", b"\r\n"), True, False, True),
        # where all three agree
        (skill(more="version: 1.0.0\n"), True, True, True),
        (skill(name="Sql"), True, True, True),
        (skill(name="-a"), True, True, True),
        (skill(name="a--b"), True, True, True),
        (skill(name="x" * 65), True, True, True),
        (skill(description="x " * 600), True, True, True),
        (skill(more="compatibility: " + "x " * 300 + "\n"), True, True, True),
        (b"no head\n" + skill(), True, True, True),
        (b"---\nname: sql-format\n", True, True, True),
        (b"---\n- a\n---\n", True, True, True),
        (skill(description="a: b: c"), True, True, True),
    ],
)
def test_where_the_three_agree_and_where_not(
    tmp_path: Path, data: bytes, ours: bool, theirs: bool, quick: bool
) -> None:
    assert bool(errors(data)) is ours
    assert bool(reference(tmp_path, data)) is theirs
    assert bool(quick_validate(data)) is quick


def test_names_that_the_directory_decides_about(tmp_path: Path) -> None:
    for name, theirs, quick in (("größe", False, True), ("claude-sql", False, False)):
        data = skill(name)
        assert errors(data)
        assert bool(reference(tmp_path, data, name)) is theirs
        assert bool(quick_validate(data)) is quick
    assert reference(tmp_path, skill("123"), "123") == []
    lower = tmp_path / "sql-format"
    lower.mkdir()
    (lower / "skill.md").write_bytes(skill())
    assert skills_ref.validate(lower) == []


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
ODD = (
    *(
        "yes",
        "null",
        "1.0",
        "- a",
        "a: b",
        "# c",
        "---",
        "a --- b",
        "'",
        '"',
        "{x}",
        "[y",
        "&a",
        "*b",
        "!c",
        "%d",
        "@e",
    ),
    *("`f", "|", ">", " x ", "x:", "0x1", "1e3", "~", "", "=", "<<", "?", "2024-01-01", "a\nb", "\\", "a #b", "\u2028"),
)
STRINGS = WORDS | st.sampled_from(ODD)
HEADS = st.fixed_dictionaries(
    {},
    optional={
        "license": STRINGS,
        "compatibility": STRINGS,
        "allowed-tools": STRINGS,
        "metadata": st.dictionaries(STRINGS, STRINGS, max_size=3),
    },
)
ONE_DIRECTORY = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(HEADS, STRINGS)
@ONE_DIRECTORY
def test_what_we_write_passes_both(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    head = {"name": "sql-format", "description": DESCRIPTION + words.replace("<", "").replace(">", ""), **more}
    data = dump_frontmatter(head) + BODY.encode()
    parsed = parse_frontmatter(data)
    assert is_portable(parsed.head)
    assert dict(parsed.mapping) == {key: value for key, value in head.items() if value != {}}
    if errors(data) <= {"SK013", "SK027"}:  # an empty compatibility, or hidden characters: ours alone
        assert quick_validate(data) == ""
        assert reference(tmp_path, data) == []


@given(HEADS, st.sampled_from([None, True, False]), st.booleans())
@ONE_DIRECTORY
def test_what_has_no_error_passes_both_but_for_what_is_accepted(
    tmp_path: Path, more: dict[str, Any], flow: bool | None, unicode: bool
) -> None:
    head = {"name": "sql-format", "description": DESCRIPTION, **more}
    text = yaml.safe_dump(head, default_flow_style=flow, allow_unicode=unicode, sort_keys=False)
    data = b"---\n" + text.encode() + b"---\n" + BODY.encode()
    if errors(data):
        return
    assert quick_validate(data) == ""
    if is_portable(parse_frontmatter(data).head):
        assert reference(tmp_path, data) == []


@given(HEADS, st.sampled_from(["Sql Format", "sql-format", "other"]), st.sampled_from([None, True, False]))
@ONE_DIRECTORY
def test_what_is_mended_passes_both(tmp_path: Path, more: dict[str, Any], name: str, flow: bool | None) -> None:
    head = {"name": name, "description": DESCRIPTION, **more, "version": 1, "allowed-tools": ["Read", "Bash(git:*)"]}
    data = b"---\n" + yaml.safe_dump(head, default_flow_style=flow, sort_keys=False).encode() + b"---\n" + BODY.encode()
    files = {b"skills/sql-format/SKILL.md": data, b"README.md": b"skills/sql-format"}
    for edit in repair(files, plugin_of(files), "portable"):
        assert isinstance(edit, Write)
        if errors(edit.data) <= {"SK013", "SK027"}:
            assert quick_validate(edit.data) == ""
            assert reference(tmp_path, edit.data) == []
