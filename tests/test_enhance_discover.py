"""Plugins at any depth, nested ones, bad manifests, hostile names: found, reported, never fatal."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from drkit.errors import UsageError
from drkit.source import PluginRules
from enhance.discover import Discovery, discover
from enhance.fix import named_skills
from enhance.material import ENOUGH, TEXT_MAX, is_placeholder, material
from enhance.validators import check_source
from tests.support.skills import GOOD, MANIFEST, skill, write_tree

TREE: dict[bytes, bytes] = {
    b".claude-plugin/marketplace.json": json.dumps(
        {
            "name": "shop",
            "owner": {"name": "O"},
            "plugins": [
                {"name": "sql", "source": "./plugins/sql", "version": "1.0.0", "category": "database"},
                {"name": "pack", "source": "./plugins/pack"},
            ],
        }
    ).encode(),
    b"README.md": b"# Shop\n",
    **{b"plugins/sql/" + path: data for path, data in GOOD.items()},
    b"plugins/pack/.claude-plugin/plugin.json": MANIFEST,
    b"plugins/pack/README.md": b"# Pack\n",
    b"plugins/pack/inner/deep/sql/.claude-plugin/plugin.json": MANIFEST,
    b"plugins/pack/inner/deep/sql/README.md": b"# Inner\n",
    b"plugins/pack/inner/note.md": b"not of the inner plugin\n",
}


def names(discovery: Discovery) -> list[bytes]:
    return [plugin.path for plugin in discovery.plugins]


def test_a_file_belongs_to_its_innermost_plugin(tmp_path: Path) -> None:
    found = discover(write_tree(tmp_path / "s", TREE))
    assert names(found) == [b"plugins/pack", b"plugins/pack/inner/deep/sql", b"plugins/sql"]
    by_path = {plugin.path: plugin for plugin in found.plugins}
    assert by_path[b"plugins/pack"].files == (b".claude-plugin/plugin.json", b"README.md", b"inner/note.md")
    assert by_path[b"plugins/pack/inner/deep/sql"].files == (b".claude-plugin/plugin.json", b"README.md")
    assert {plugin.name for plugin in found.plugins} == {"sql"}  # names may repeat: paths are the keys
    assert found.loose == (b".claude-plugin/marketplace.json", b"README.md")
    assert by_path[b"plugins/sql"].category == "database"
    assert by_path[b"plugins/pack/inner/deep/sql"].category == "deep"
    assert found.skills() == (b"plugins/sql/skills/sql-format/SKILL.md",)
    assert found.contents(by_path[b"plugins/pack"])[b"README.md"]() == b"# Pack\n"


def test_the_source_itself_may_be_a_plugin_or_a_skill(tmp_path: Path) -> None:
    found = discover(write_tree(tmp_path / "sql", GOOD))
    assert names(found) == [b""]
    assert check_source(found.source, found, "portable") == []
    loose = discover(write_tree(tmp_path / "sql-format", {b"SKILL.md": skill("other")}))
    assert loose.plugins == ()
    assert check_source(loose.source, loose, "portable") == []  # the source's own name is nobody's business
    inside = discover(write_tree(tmp_path / "all", {b"sql-format/SKILL.md": skill("other")}))
    assert [one.rule for one in check_source(inside.source, inside, "portable")] == ["SK006"]
    by_marker = discover(inside.source, PluginRules(markers=("SKILL.md",)))
    assert names(by_marker) == [b"sql-format"]
    assert "SK006" in {one.rule for one in check_source(inside.source, by_marker, "portable")}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"null",
        b'"x"',
        b"[" * 100_000,
        b'{"name": 7}',
        b'{"name": ""}',
        b"\xef\xbb\xbf{}",
    ],
)
def test_a_bad_manifest_leaves_the_directory_name_and_a_finding(tmp_path: Path, data: bytes) -> None:
    found = discover(write_tree(tmp_path / "s", {b"a/b/.claude-plugin/plugin.json": data, b"a/b/README.md": b"x"}))
    (plugin,) = found.plugins
    assert plugin.name == "b"
    assert plugin.category == "a"
    levels = {one.rule: one.level for one in check_source(found.source, found, "portable")}
    assert levels.get("PM001", levels.get("PM002", levels.get("PM003"))) == "error"
    assert len([one for one in check_source(found.source, found, "portable") if one.rule == "PM001"]) <= 1


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    outside = tmp_path / "secret.md"
    outside.write_bytes(skill("sql-format"))
    root = write_tree(tmp_path / "s", {b"p/" + path: data for path, data in GOOD.items()})
    os.makedirs(root + b"/p/skills/linked")
    os.symlink(outside, root + b"/p/skills/linked/SKILL.md")
    os.makedirs(root + b"/p/skills/piped")
    os.mkfifo(root + b"/p/skills/piped/SKILL.md")
    os.makedirs(root + b"/p/skills/hollow")
    os.makedirs(root + b"/p/skills/sql-format/scripts")
    os.symlink("/etc", root + b"/p/skills/sql-format/etc")
    os.symlink(root, root + b"/p/loop")
    found = discover(root)
    (plugin,) = found.plugins
    assert plugin.files == tuple(sorted(GOOD))
    told = [(one.rule, one.path) for one in check_source(root, found, "portable")]
    assert told == [
        ("SK001", "p/skills/linked"),
        ("SK001", "p/skills/piped"),
        ("SK001", "p/skills/hollow"),
        ("SK025", "p/skills/sql-format/scripts"),
    ]
    assert b"secret" not in b"".join(material(root, plugin, profile="portable").texts)


def test_a_manifest_that_is_a_link_is_reported(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "s", {b"p/README.md": b"x", b"m.json": MANIFEST})
    os.makedirs(root + b"/p/.claude-plugin")
    os.symlink(root + b"/m.json", root + b"/p/.claude-plugin/plugin.json")
    found = discover(root, PluginRules(globs=("p",)))
    assert [one.rule for one in found.plugins[0].problems] == ["PM001"]
    assert found.plugins[0].name == "p"


def test_names_that_are_not_text(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path / "s",
        {
            b"p\xff\n/.claude-plugin/plugin.json": b"{}",
            b"p\xff\n/README.md": b"x",
            b"p\xff\n/skills/\xfe/SKILL.md": skill("sql-format"),
            b"p\xff\n/skills/\xfe/scripts/\xfd.sh": b"echo",
        },
    )
    found = discover(root)
    assert found.plugins[0].path == b"p\xff\n"
    told = {(one.rule, one.path) for one in check_source(root, found, "portable")}
    assert ("SK006", r"p\xff\n/skills/\xfe/SKILL.md") in told
    assert all(path.isprintable() for _, path in told)


def test_a_file_that_cannot_be_read_any_more_is_a_finding(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "s", {b"p/" + path: data for path, data in GOOD.items()})
    found = discover(root)
    for path in (*GOOD, b".claude-plugin/marketplace.json"):
        if os.path.exists(root + b"/p/" + path):
            os.unlink(root + b"/p/" + path)
            os.mkfifo(root + b"/p/" + path)  # what was a file at the walk is none now
    told = {one.rule: one.message for one in check_source(root, found, "portable")}
    assert {"PM001", "SK002", "CM001"} <= set(told)
    assert "cannot be read" in told["SK002"]
    made = material(root, found.plugins[0], profile="portable")
    assert made.texts == {}
    assert len(made.findings) == len(GOOD)


def test_a_source_must_be_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        discover(os.fsencode(tmp_path / "none"))


def test_excludes_and_repositories_of_others_are_left_out(tmp_path: Path) -> None:
    tree = {**TREE, b"plugins/sql/.git/config": b"x", b"old/p/.claude-plugin/plugin.json": MANIFEST}
    found = discover(write_tree(tmp_path / "s", tree), excludes=("old",))
    assert b"old/p" not in names(found)
    assert not any(b".git" in path for path in found.files)


# Material


def test_material_is_the_plugins_own_words(tmp_path: Path) -> None:
    files = {
        **GOOD,
        b"big.md": b"word " * TEXT_MAX,
        b"image.png": b"\x89PNG\0",
        b"latin.md": b"caf\xe9",
        b"skills/sql-format/scripts/README.md": b"# Scripts\n\nBundled resources\n\n- [ ] format.py: to be written\n",
        b"EMPTY.md": b" \n",
    }
    root = write_tree(tmp_path / "s", {b"p/" + path: data for path, data in files.items()})
    plugin = discover(root).plugins[0]
    made = material(root, plugin, profile="portable")
    assert set(made.texts) == {*GOOD, b"big.md"}
    assert len(made.texts[b"big.md"]) == TEXT_MAX
    assert made.sizes == {path: len(data) for path, data in files.items()}
    assert not made.thin


def test_what_enhance_wrote_is_in_no_hash_until_somebody_changes_it(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "s", {b"p/" + path: data for path, data in GOOD.items()})
    plugin = discover(root).plugins[0]
    before = material(root, plugin, profile="portable")
    new = b"skills/other/SKILL.md"
    write_tree(tmp_path / "s/p", {new: skill("other")})
    plugin = discover(root).plugins[0]
    from hashlib import sha256

    written = {new: sha256(skill("other")).hexdigest()}
    assert material(root, plugin, profile="portable").input_sha256 != before.input_sha256
    same = material(root, plugin, profile="portable", written=written)
    assert same.input_sha256 == before.input_sha256
    assert new not in same.texts
    write_tree(tmp_path / "s/p", {new: skill("other", body="edited")})
    edited = material(root, plugin, profile="portable", written=written)
    assert edited.input_sha256 != before.input_sha256
    assert new in edited.texts
    os.chmod(root + b"/p/README.md", 0o600)
    assert material(root, plugin, profile="portable").input_sha256 != before.input_sha256


def test_thin_counts_what_can_be_written_from(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path / "s",
        {
            b"p/.claude-plugin/plugin.json": MANIFEST,
            b"p/LICENSE": b"x" * 20_000,
            b"p/skills/a/SKILL.md": b"x" * 20_000,
            b"p/README.md": b"y" * (ENOUGH["marketplace"] - len(MANIFEST) - 1),
        },
    )
    plugin = discover(root).plugins[0]
    assert material(root, plugin, profile="marketplace").thin
    assert not material(root, plugin, profile="portable").thin
    with open(root + b"/p/README.md", "ab") as file:
        file.write(b"z")
    assert not material(root, plugin, profile="marketplace").thin


@pytest.mark.parametrize(
    ("path", "text", "placeholder"),
    [
        (b"README.md", "", True),
        (b"a.py", "\n", True),
        (b"x/README.md", "# Assets\n\nBundled resources for x skill\n\n- [ ] a.json: a template\n- [ ] b.json\n", True),
        (b"x/readme.txt", "- [ ] TODO\n", True),
        (b"notes.md", "# Notes\n\nTODO\n\n- [ ] TODO: write\n", True),
        (b"notes.md", "Coming soon!\n", True),
        (b"README.md", "# Release\n\n" + "Real words that say how a release is made.\n" * 9 + "- [ ] tag\n", False),
        (b"checklist.md", "# Release\n\n- [ ] tag it\n- [ ] push it\n", False),
        (b"README.md", "# Name\n\nIt formats SQL.\n", False),
        (b"a.py", "# TODO\n", False),
    ],
)
def test_placeholders_are_no_content(path: bytes, text: str, placeholder: bool) -> None:
    assert is_placeholder(path, text) is placeholder


def test_skills_that_others_name_are_known(tmp_path: Path) -> None:
    tree = {
        **TREE,
        b"plugins/sql/skills/other/SKILL.md": skill("other"),
        b"docs/guide.md": b"See [it](../plugins/sql/skills/sql-format/SKILL.md).\n",
        b"plugins/sql/README.md": b"plugins/sql/skills/other\n",
    }
    found = discover(write_tree(tmp_path / "s", tree))
    assert named_skills(found) == {b"plugins/sql/skills/sql-format"}
