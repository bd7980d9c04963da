"""What is made of a model's answer: plans, skills and their names, whatever surrounds them, and what is refused."""

from __future__ import annotations

import pytest

pytest.importorskip("google.genai")

from enhance.frontmatter import parse_frontmatter
from enhance.generators.base import BadReply
from enhance.model import Finding, Plan
from tests.support.fake_google import BODY, FakeGoogle, a_plan, some_skills
from tests.support.google_calls import PATH, a_material, planned, proposed, server, vertex

__all__ = ["server"]


@pytest.mark.parametrize("kind", ["fence", "prose", "thoughts", ""])
def test_what_surrounds_the_json_is_ignored(server: FakeGoogle, kind: str) -> None:
    server.next(kind, kind)
    assert list(proposed(vertex(), a_material()).files) == [PATH]


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("list", "no JSON object"),
        ("number", "no JSON object"),
        ("error text", "no JSON object"),
        ("deep", "no JSON object"),
        ("wrong shape", "another shape"),
        ("wrong values", "another shape"),
        ("surrogate", "no valid Unicode"),
        ("truncated", "cut off"),
        ("truncated whole", "cut off"),
        ("truncated silently", "no JSON object"),
        ("unfinished", "no reason given|other"),
        ("new reason", "something_new"),
        ("continuation", "cut off"),
        ("safety", "safety"),
        ("recitation", "recitation.*found elsewhere"),
        ("nothing said", "empty"),
        ("function", "empty"),
        ("blocked prompt", "blocked the prompt.*PROHIBITED"),
        ("empty object", "other"),
    ],
)
@pytest.mark.parametrize("phase", ["plan", "generate"])
def test_an_answer_that_cannot_be_used_is_kept_and_refused(
    server: FakeGoogle, kind: str, word: str, phase: str
) -> None:
    generator, material = vertex(), a_material()
    request = generator.plan_request(material)
    plan = planned(generator, material)[1]
    if phase == "generate":
        request = generator.generate_request(material, plan)
    server.next(kind)
    reply = generator.send(request, material, timeout_s=20)
    with pytest.raises(BadReply, match=word):
        generator.read_plan(reply, material) if phase == "plan" else generator.read_proposal(reply, material, plan)
    assert len(server.calls) == 2


def test_one_repair_shows_the_findings_and_the_answer(server: FakeGoogle) -> None:
    generator, material = vertex(), a_material()
    server.skills = lambda call: some_skills(body=BODY + ("" if call.phase == "repair" else "\nTODO: more\n"))
    plan = planned(generator, material)[1]
    first = generator.read_proposal(
        generator.send(generator.generate_request(material, plan), material, timeout_s=20), material, plan
    )
    assert b"TODO" in first.files[PATH]
    findings = [Finding("SK022", "error", "plugins/tidy/" + PATH.decode(), "a placeholder: TODO: more")]
    request = generator.repair_request(material, plan, first, findings)
    second = generator.read_proposal(generator.send(request, material, timeout_s=20), material, plan)
    assert b"TODO" not in second.files[PATH]
    assert [call.phase for call in server.calls] == ["plan", "generate", "repair"]
    sent = request.prompt
    assert sent.index("SK022 (error)") < sent.index("TODO: more") < sent.index("Write the skills of the plan")
    assert "Moves stray files" in sent


@pytest.mark.parametrize(
    ("name", "skill"),
    [
        ("Make Tidy", "make-tidy"),
        ("make_tidy!", "make-tidy"),
        ("claude-make-tidy", "make-tidy"),
        ("Großes Aufräumen", "grosses-aufraumen"),
        ("../../etc/passwd", "etc-passwd"),
        ("word " * 30, "-".join(["word"] * 13)),
    ],
)
def test_names_become_what_a_skill_may_be_called(server: FakeGoogle, name: str, skill: str) -> None:
    server.plan = lambda call: a_plan(name)
    server.skills = lambda call: some_skills("something-else")
    proposal = proposed(vertex(), a_material())
    assert list(proposal.files) == [f"skills/{skill}/SKILL.md".encode()]
    assert any("something-else" in note for note in proposal.notes)


@pytest.mark.parametrize(
    ("plan", "word"),
    [
        ({"name": "claude"}, "no planned skill"),
        ({"grounds": ["src/invented.py"]}, "no planned skill"),
        ({"grounds": []}, "no planned skill"),
        ({"description": " "}, "no planned skill"),
        ({"grounds": "README.md"}, "another shape"),
    ],
)
def test_a_plan_without_ground_is_none(server: FakeGoogle, plan: dict[str, object], word: str) -> None:
    server.plan = lambda call: a_plan(**plan)  # type: ignore[arg-type]
    with pytest.raises(BadReply, match=word):
        planned(vertex(), a_material())


def test_a_plan_of_nothing_says_why(server: FakeGoogle) -> None:
    server.plan = lambda call: {"skills": [], "reason": "only a licence"}
    assert planned(vertex(), a_material())[1] == Plan((), "only a licence")


def test_a_skill_that_is_missing_or_empty_is_refused_and_an_extra_one_left_out(server: FakeGoogle) -> None:
    generator, material = vertex(), a_material()
    server.skills = lambda call: {"skills": []}
    with pytest.raises(BadReply, match="lacks what was planned: make-tidy"):
        proposed(generator, material)
    server.skills = lambda call: some_skills(body="---\nname: x\n---\n \n")
    with pytest.raises(BadReply, match="no body"):
        proposed(generator, material)
    server.skills = lambda call: {"skills": [*some_skills()["skills"], *some_skills("other")["skills"]]}
    proposal = proposed(generator, material)
    assert list(proposal.files) == [PATH]
    assert any("other" in note for note in proposal.notes)


@pytest.mark.parametrize(
    "body",
    [f"```markdown\n{BODY}\n```", f"---\nname: x\ndescription: y\n---\n\n{BODY}", f"````\n{BODY}\n````\n"],
)
def test_a_fence_or_a_head_around_a_body_is_taken_off(server: FakeGoogle, body: str) -> None:
    server.skills = lambda call: some_skills(body=body)
    written = proposed(vertex(), a_material()).files[PATH]
    assert parse_frontmatter(written).body.decode().strip() == BODY.strip()


def test_examples_at_both_ends_are_no_fence(server: FakeGoogle) -> None:
    body = "```\nfirst\n```\n\ntext\n\n```\nlast\n```"
    server.skills = lambda call: some_skills(body=body)
    assert body.encode() in proposed(vertex(), a_material()).files[PATH]
