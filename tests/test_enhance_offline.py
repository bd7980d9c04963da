"""What the offline generator makes of a plugin's texts: which sections, in whose words, under which name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from drkit.errors import UsageError
from enhance.frontmatter import parse_frontmatter
from enhance.generators import GENERATORS, make
from enhance.generators.base import BadReply
from enhance.generators.offline import Offline
from enhance.generators.offline.composing import ROOMS
from enhance.model import Finding, Material, Plan, Plugin, Reply
from tests.support.offline import COMMAND, README, TEXTS, by_the_specification, errors, material, plan, propose, skill

CODE = "\n\n".join(f"def step_{number}(rows):\n    return rows[{number}]" for number in range(900))

VAGUE = {
    "README.md": "# X\n\nFinds slow queries in logs.\n\n## Features\n\n"
    "- Sensible defaults for every need of a team\n- Works everywhere without any further steps\n- Helps to save time\n"
}


def test_a_skill_says_what_the_command_says() -> None:
    text = skill(material(TEXTS, description="Find slow queries in a PostgreSQL log"))
    assert "# Slow Queries\n" in text
    assert "Reads the log of slow queries and proposes indexes for the worst of them." in text
    assert "Use `/slow-queries` when:" in text
    assert "`/slow-queries [file] --limit N`, or `/sq` for short" in text
    assert "CREATE INDEX orders_customer ON orders (customer_id);" in text
    assert "| SELECT … FROM orders | 2.1 s | orders_customer |" in text
    assert "PostgreSQL 14 or later" in text
    assert text.index("## When to Use") < text.index("## Process") < text.index("## Error Handling")


def test_a_skill_leaves_out_what_nobody_needs() -> None:
    text = skill(material(TEXTS))
    for word in ("You are a database expert", "/plugin install", "MIT", "shields.io", "License"):
        assert word not in text, word


def test_the_description_says_what_and_when_in_the_third_person() -> None:
    (planned,) = plan(material(TEXTS, description="Find slow queries in a PostgreSQL log")).skills
    assert planned.description.startswith("Finds slow queries in a PostgreSQL log.")
    assert "Use when a page takes longer than a second" in planned.description
    assert planned.description.endswith("or when the user runs /slow-queries.")


def test_numbers_of_headings_do_not_reach_the_description() -> None:
    cases = "## Use Cases\n\n### 1. Query reviews\n\nRead the log.\n\n### 2. Index audits\n\nList the indexes.\n"
    text = f"# Slow\n\nFinds slow queries in logs.\n\n{cases}\n## Process\n\n1. Read the log of slow queries.\n"
    (planned,) = plan(material({"commands/slow.md": text})).skills
    assert "query reviews or index audits" in planned.description


def test_metadata_tells_the_sources_and_their_hashes() -> None:
    head = parse_frontmatter(skill(material(TEXTS)).encode()).mapping
    told = head["metadata"]
    assert all(isinstance(value, str) for value in told.values())
    assert told["generator"] == "drkit offline"
    for path, text in TEXTS.items():
        assert f"{path} sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}" in told["sources"]


def test_what_is_made_is_valid_by_rules_and_specification(tmp_path: Path) -> None:
    found = material(TEXTS)
    _, proposal = propose(found)
    assert errors(found, proposal) == []
    assert by_the_specification(proposal, tmp_path) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("slow-queries", "slow-queries"),
        ("Slow Queries", "slow-queries"),
        ("SlowQueries", "slow-queries"),
        ("Überwachung_für.Datenbanken", "uberwachung-fur-datenbanken"),
        ("claude-slow-query-finder", "slow-query-finder"),
        ("claude", "slow-queries"),
        ("anthropic-tools", "slow-queries"),
        ("遅いクエリ", "slow-queries"),
        ("x" * 80, "x" * 64),
        ("word-" * 20, "-".join(["word"] * 13)[:64]),
    ],
)
def test_names_are_made_of_the_plugin_or_of_what_it_does(name: str, expected: str) -> None:
    (planned,) = plan(material(TEXTS, name=name)).skills
    assert planned.name == expected.strip("-")


def test_a_plugin_with_a_skill_gets_none() -> None:
    texts = {**TEXTS, "skills/sql/SKILL.md": "---\nname: sql\ndescription: Formats SQL.\n---\n" + "Words. " * 30}
    assert plan(material(texts)) == Plan((), "it has a skill already")


def test_the_name_of_a_skill_that_is_only_a_placeholder_is_not_taken() -> None:
    found = material(TEXTS)
    sizes = {**found.sizes, b"skills/slow-queries/SKILL.md": 12}
    held = Material(found.plugin, found.profile, found.texts, sizes, found.input_sha256, thin=False)
    assert [one.name for one in plan(held).skills] == ["slow-queries-guide"]


def test_the_name_of_what_was_written_before_stays() -> None:
    """What enhance wrote is among the plugin's files, but in neither texts nor sizes."""
    found = material(TEXTS)
    files = (*found.plugin.files, b"skills/slow-queries/SKILL.md")
    plugin = Plugin(found.plugin.path, found.plugin.name, found.plugin.category, found.plugin.manifest, files)
    again = Material(plugin, found.profile, found.texts, found.sizes, found.input_sha256, thin=False)
    assert propose(again) == propose(found)


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ({}, "no text to write from"),
        ({"LICENSE": "MIT License"}, "no text to write from"),
        ({"README.md": "# X\n\n## License\n\nMIT\n"}, "do not say what it does"),
        (VAGUE, "any plugin"),
        ({"README.md": "# X\n\nFinds slow queries in logs.\n"}, "too little"),
        ({"README.md": "# X\n\nStatus: under development.\n\n## Planned Features\n\n- Finds queries\n"}, "announced"),
    ],
)
def test_poor_material_gives_a_reason(texts: dict[str, str], reason: str) -> None:
    found = plan(material(texts))
    assert found.skills == ()
    assert reason in found.reason


def test_long_material_is_condensed_and_the_rest_is_named() -> None:
    more = "".join(f"\n## Topic {number}\n\n" + f"Fact {number} holds here. " * 60 for number in range(30))
    text = skill(
        material({"commands/slow-queries.md": f"{COMMAND}\n## Implementation\n\n```python\n{CODE}\n```\n{more}"})
    )
    assert 8_000 <= len(text.encode()) <= ROOMS["marketplace"]
    assert "## Topic 0" in text
    assert "CREATE INDEX" in text
    assert "def step_0" not in text


def test_of_a_long_program_the_beginning_is_shown_where_there_is_room() -> None:
    text = skill(material({"commands/slow-queries.md": f"{COMMAND}\n## Implementation\n\n```python\n{CODE}\n```\n"}))
    assert "def step_30(rows):\n    return rows[30]\n" in text
    assert text.count("\n") < 500
    assert "# … continued in commands/slow-queries.md\n```" in text
    assert "## In full in the plugin's files\n\n- `commands/slow-queries.md`: Implementation" in text


def test_nothing_is_said_twice() -> None:
    readme = README + "\n## Process\n\n1. Read `slow.log` and group its queries by shape\n2. Run EXPLAIN\n"
    text = skill(material({**TEXTS, "README.md": readme}))
    assert text.count("## Process") == 1
    assert text.count("group its queries by shape") == 1


def test_several_commands_stand_under_their_own_headings() -> None:
    head = "---\ndescription: Drop unused indexes\n---\n"
    other = f"{head}# Index Cleaner\n\n## Process\n\n1. List indexes without scans\n2. Drop them\n"
    text = skill(material({**TEXTS, "commands/drop-indexes.md": other}))
    assert "- `/drop-indexes` (command): Drop unused indexes" in text
    assert text.index("## Index Cleaner (`/drop-indexes`)") < text.index("## Slow Query Finder (`/slow-queries`)")
    assert "### Process" in text


def test_a_collection_gets_a_skill_for_each_part() -> None:
    def page(topic: str) -> str:
        return f"---\ndescription: Find {topic} problems\n---\n# {topic.title()}\n\n" + "".join(
            f"## {topic.title()} Step {number}\n\nLook at {topic} number {number} and note what it costs.\n\n"
            for number in range(99)
        )

    texts = {
        f"plugins/{part}/commands/find-{topic}.md": page(topic)
        for part, topic in [("01-disks", "disk"), ("02-nets", "net")]
    }
    planned, proposal = propose(material(texts, name="ops-pack"))
    assert [one.name for one in planned.skills] == ["ops-disks", "ops-nets"]
    assert b"Look at net number" not in proposal.files[b"skills/ops-disks/SKILL.md"]
    assert errors(material(texts, name="ops-pack"), proposal) == []


def test_hooks_servers_and_scripts_are_told_without_values_of_the_environment() -> None:
    hooks = {
        "hooks": {
            "PostToolUse": [
                {"matcher": "Edit", "hooks": [{"type": "command", "command": "${CLAUDE_PLUGIN_ROOT}/scripts/fmt.sh"}]}
            ]
        }
    }
    servers = {
        "mcpServers": {"log-reader": {"command": "node", "args": ["server.js"], "env": {"LOG_TOKEN": "hunter2hunter2"}}}
    }
    texts = {
        **TEXTS,
        "hooks/hooks.json": json.dumps(hooks),
        ".mcp.json": json.dumps(servers),
        "scripts/fmt.sh": "#!/bin/sh\n# Formats the files that were edited.\nexec fmt\n",
    }
    found = material(texts)
    text = skill(found)
    assert "- `PostToolUse` on `Edit`: `${CLAUDE_PLUGIN_ROOT}/scripts/fmt.sh`" in text
    assert "- `log-reader`: `node server.js`, with `LOG_TOKEN` in its environment" in text
    assert "Formats the files that were edited" in text
    assert "hunter2" not in text
    assert errors(found, propose(found)[1]) == []


def test_repair_takes_out_the_block_that_a_finding_names() -> None:
    found = material(TEXTS)
    generator = Offline()
    planned, proposal = propose(found)
    lines = skill(found).split("\n")
    line = next(number for number, text in enumerate(lines, 1) if "CREATE INDEX" in text)
    wrong = Finding("SK028", "error", "plugins/x/skills/slow-queries/SKILL.md", "it is bad", line)
    request = generator.repair_request(found, planned, proposal, [wrong])
    (data,) = generator.read_proposal(generator.send(request, found, timeout_s=1), found, planned).files.values()
    assert b"CREATE INDEX" not in data
    assert b"Run EXPLAIN on the worst ten" in data


def test_answers_that_are_no_answers_are_refused() -> None:
    found, generator = material(TEXTS), Offline()
    planned = plan(found)
    for reply in (Reply("{}", "max_tokens"), Reply("no", "stop"), Reply("[]", "stop"), Reply("{}", "stop")):
        with pytest.raises(BadReply):
            generator.read_plan(reply, found)
        with pytest.raises(BadReply):
            generator.read_proposal(reply, found, planned)
    with pytest.raises(BadReply, match="lacks slow-queries"):
        generator.read_proposal(Reply('{"files": {}, "notes": []}', "stop"), found, planned)


def test_generators_are_made_by_name() -> None:
    assert set(GENERATORS) == {"offline", "vertex", "gemini", "replay"}
    generator = make("offline", {})
    assert (generator.name, generator.remote) == ("offline", False)
    assert make("gemini", {"model": "m"}).model == "m"
    with pytest.raises(UsageError, match="no generator 'other'"):
        make("other", {})
    with pytest.raises(UsageError, match="no model"):
        make("vertex", {})
    held = make("replay", {"recorded": generator, "lookup": lambda *_: None})
    assert held.key == generator.key
