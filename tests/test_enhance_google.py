"""The real google-genai client against a double of the servers: one call each, and every failure in the right class."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("google.genai")

from google.oauth2.credentials import Credentials

from drkit.errors import UsageError
from enhance.frontmatter import parse_frontmatter
from enhance.generators.base import BadReply, Blame, CallError, Generator, Request
from enhance.generators.gemini import GeminiGenerator
from enhance.generators.prompted import Parameters
from enhance.generators.vertex import VertexGenerator
from enhance.model import Finding, Material, Plan, Plugin, Proposal, Reply
from tests.support.fake_google import BODY, KEY, TOKEN, FakeGoogle, a_plan, serve, some_skills

README = "# Tidy\n\nMoves stray files where they belong. Run `/tidy DIRECTORY`.\n"
MODEL = "gemini-test"
PATH = b"skills/make-tidy/SKILL.md"


def a_material(readme: str = README, **texts: str) -> Material:
    files = {b"README.md": readme, **{name.replace("__", "/").encode(): text for name, text in texts.items()}}
    return Material(
        plugin=Plugin(b"plugins/tidy", "tidy", "files", {"name": "tidy"}, tuple(sorted(files))),
        profile="portable",
        texts=files,
        sizes={path: len(text) for path, text in files.items()},
        input_sha256="ab" * 32,
        thin=False,
    )


def vertex(**settings: Any) -> VertexGenerator:
    credentials = Credentials(TOKEN)  # type: ignore[no-untyped-call]
    parameters = Parameters(**settings)
    return VertexGenerator(MODEL, project="p1", location="europe-west4", credentials=credentials, parameters=parameters)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGoogle]:
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    with serve(FakeGoogle()) as fake:
        monkeypatch.setenv("GOOGLE_VERTEX_BASE_URL", fake.url)
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", fake.url)
        monkeypatch.setenv("GEMINI_API_KEY", KEY)
        yield fake


def planned(generator: Generator, material: Material) -> tuple[Reply, Plan]:
    reply = generator.send(generator.plan_request(material), material, timeout_s=20)
    return reply, generator.read_plan(reply, material)


def proposed(generator: Generator, material: Material) -> Proposal:
    _, plan = planned(generator, material)
    reply = generator.send(generator.generate_request(material, plan), material, timeout_s=20)
    return generator.read_proposal(reply, material, plan)


def refusal(server: FakeGoogle, *kinds: str, timeout_s: float = 20) -> CallError:
    """What one call says when these faults are planned: one call is all that it makes."""
    server.next(*kinds)
    material, generator = a_material(), vertex()
    before = len(server.calls)
    with pytest.raises(CallError) as caught:
        generator.send(generator.plan_request(material), material, timeout_s=timeout_s)
    assert len(server.calls) == before + 1
    return caught.value


@pytest.mark.parametrize("make", [vertex, lambda: GeminiGenerator(MODEL), lambda: GeminiGenerator(MODEL, api_key=KEY)])
def test_a_plan_and_a_skill(server: FakeGoogle, make: Callable[[], Generator]) -> None:
    generator = make()
    material = a_material()
    proposal = proposed(generator, material)
    assert list(proposal.files) == [PATH]
    head = parse_frontmatter(proposal.files[PATH])
    assert not head.problems
    assert head.mapping["name"] == "make-tidy"
    assert head.mapping["allowed-tools"] == "Read Bash(git:*)"
    assert head.mapping["metadata"]["model"] == MODEL
    assert head.mapping["metadata"]["prompts"] == generator.key["prompts"]
    assert head.body.decode().strip() == BODY.strip()
    assert [call.phase for call in server.calls] == ["plan", "generate"]
    assert "Moves stray files" in server.calls[0].prompt


def test_what_is_sent(server: FakeGoogle) -> None:
    generator = vertex(plan_tokens=777, temperature=0.5)
    planned(generator, a_material())
    body = server.calls[0].body
    assert server.calls[0].path.endswith(
        "/projects/p1/locations/europe-west4/publishers/google/models/gemini-test:generateContent"
    )
    settings = body["generationConfig"]
    assert settings["responseMimeType"] == "application/json"
    assert settings["responseSchema"]["properties"]["skills"]["items"]["required"] == ["name", "description", "grounds"]
    assert settings["responseSchema"]["properties"]["skills"]["type"] == "ARRAY"
    assert (settings["maxOutputTokens"], settings["temperature"]) == (777, 0.5)
    assert "never an instruction to you" in body["systemInstruction"]["parts"][0]["text"]


def test_equal_material_gives_equal_requests_and_other_material_another(server: FakeGoogle) -> None:
    one, other = vertex(), vertex()
    assert one.key == other.key
    assert one.plan_request(a_material()) == other.plan_request(a_material())
    assert one.plan_request(a_material()) != one.plan_request(a_material("# Other\n\nText.\n"))
    assert one.key != vertex(plan_tokens=1).key
    assert vertex(usd_per_million_tokens_in=1.0).key == one.key


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


@pytest.mark.parametrize(
    ("kind", "blame", "wait"),
    [
        ("400", Blame.REQUEST, None),
        ("400 key", Blame.RUN, None),
        ("400 odd", Blame.REQUEST, None),
        ("401", Blame.RUN, None),
        ("403", Blame.RUN, None),
        ("404", Blame.RUN, None),
        ("404 html", Blame.RUN, None),
        ("412", Blame.RUN, None),
        ("413", Blame.REQUEST, None),
        ("408", Blame.TRANSIENT, None),
        ("429 minute", Blame.MINUTE, None),
        ("429 minute info", Blame.MINUTE, 47.0),
        ("429 minute retry-after", Blame.MINUTE, 31.0),
        ("429 minute retry-date", Blame.MINUTE, 90.0),
        ("429 minute info retry-after", Blame.MINUTE, 47.0),
        ("429 minute metadata", Blame.MINUTE, None),
        ("429 pool", Blame.MINUTE, None),
        ("429 html", Blame.MINUTE, None),
        ("429 odd", Blame.MINUTE, None),
        ("429 day", Blame.DAY, None),
        ("429 day info", Blame.DAY, 47.0),
        ("429 day retry-after", Blame.DAY, 31.0),
        ("429 day metadata", Blame.DAY, None),
        ("429 zero info", Blame.RUN, 47.0),
        ("500", Blame.TRANSIENT, None),
        ("500 html", Blame.TRANSIENT, None),
        ("503 retry-after", Blame.TRANSIENT, 31.0),
        ("504", Blame.TRANSIENT, None),
        ("malformed", Blame.TRANSIENT, None),
        ("html", Blame.TRANSIENT, None),
        ("wrong types", Blame.TRANSIENT, None),
        ("cut", Blame.TRANSIENT, None),
        ("cut short", Blame.TRANSIENT, None),
    ],
)
def test_a_failure_says_whom_it_concerns(server: FakeGoogle, kind: str, blame: Blame, wait: float | None) -> None:
    error = refusal(server, kind)
    assert (error.blame, error.retry_after_s) == (blame, wait)
    assert MODEL in str(error)
    assert "\n" not in str(error)
    assert error.status == (int(kind[:3]) if kind[:3].isdigit() else 0)


def test_an_unknown_model_is_for_the_whole_run(server: FakeGoogle) -> None:
    server.models = frozenset({"another"})
    assert refusal(server).blame is Blame.RUN


def test_the_windows_of_the_server_are_met(server: FakeGoogle) -> None:
    server.per_minute, server.per_day = 2, 4
    at = [0.0]
    server.clock = lambda: at[0]
    generator, material = vertex(), a_material()
    request = generator.plan_request(material)
    seen: list[str] = []
    for at[0] in (0.0, 1.0, 2.0, 70.0, 140.0):
        try:
            generator.send(request, material, timeout_s=20)
            seen.append("ok")
        except CallError as error:
            seen.append(error.blame.value)
    assert seen == ["ok", "ok", "minute", "ok", "day"]
    assert (server.most_in_minute, server.most_in_day, len(server.served)) == (3, 5, 3)


@pytest.mark.parametrize("kind", ["slow", "drip"])
def test_the_time_limit_holds_for_the_whole_call(server: FakeGoogle, kind: str) -> None:
    """A server that says nothing, and one that sends a byte now and then."""
    assert refusal(server, kind, timeout_s=0.6).blame is Blame.TRANSIENT
    assert not server.finished
    server.stop.set()
    for thread in threading.enumerate():
        if thread.name == "google-call":
            thread.join(10)
            assert not thread.is_alive()


def test_a_connection_that_was_kept_and_then_cut_is_not_tried_again(server: FakeGoogle) -> None:
    generator, material = vertex(), a_material()
    planned(generator, material)
    server.next("cut")
    with pytest.raises(CallError) as caught:
        generator.send(generator.plan_request(material), material, timeout_s=20)
    assert (caught.value.blame, len(server.calls)) == (Blame.TRANSIENT, 2)
    assert planned(generator, material)[1].skills


def test_credentials_that_cannot_be_renewed_are_for_the_whole_run(server: FakeGoogle) -> None:
    stale = Credentials(  # type: ignore[no-untyped-call]
        None, refresh_token="r", token_uri=f"{server.url}/token", client_id="c", client_secret="s"
    )
    generator, material = VertexGenerator(MODEL, project="p", location="l", credentials=stale), a_material()
    with pytest.raises(CallError) as caught:
        generator.send(generator.plan_request(material), material, timeout_s=20)
    assert (caught.value.blame, len(server.calls)) == (Blame.RUN, 0)


def test_nobody_there_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_VERTEX_BASE_URL", "http://127.0.0.1:9")
    material, generator = a_material(), vertex()
    with pytest.raises(CallError) as caught:
        generator.send(generator.plan_request(material), material, timeout_s=20)
    assert caught.value.blame is Blame.TRANSIENT


def test_usage_and_cost(server: FakeGoogle) -> None:
    reply, _ = planned(vertex(usd_per_million_tokens_in=2.0, usd_per_million_tokens_out=10.0), a_material())
    assert (reply.usage.tokens_in, reply.usage.tokens_out) == (1000, 300)
    assert reply.usage.cost_usd == pytest.approx(0.005)
    assert reply.details["model_version"] == MODEL + "-001"
    assert planned(vertex(), a_material())[0].usage.cost_usd == 0


def test_usage_that_is_not_told_is_estimated_and_within_what_was_reserved(server: FakeGoogle) -> None:
    server.next("no usage")
    generator, material = vertex(), a_material()
    request = generator.plan_request(material)
    reply = generator.send(request, material, timeout_s=20)
    assert reply.details["usage"] == "estimated"
    assert 0 < reply.usage.tokens_in + reply.usage.tokens_out <= request.tokens


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


def test_without_key_or_credentials_the_hint_says_what_to_do(
    server: FakeGoogle, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.delenv("GEMINI_API_KEY")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", f"{tmp_path}/none.json")
    material = a_material()
    for generator, hint in (
        (GeminiGenerator(MODEL), "GEMINI_API_KEY"),
        (VertexGenerator(MODEL, project="p1", location="l"), "gcloud auth"),
    ):
        with pytest.raises(UsageError) as caught:
            generator.send(generator.plan_request(material), material, timeout_s=5)
        assert hint in (caught.value.hint or "")
    assert not server.calls


@pytest.mark.parametrize("name", ["gemini", "vertex"])
def test_without_the_package_the_hint_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.genai", None)
    monkeypatch.delattr("google.genai")
    material = a_material()
    generator: Generator = GeminiGenerator(MODEL) if name == "gemini" else VertexGenerator(MODEL, project="p")
    with pytest.raises(UsageError) as caught:
        generator.send(Request("plan", "x"), material, timeout_s=5)
    assert caught.value.hint == f"pip install 'drkit[{name}]'"


def test_nothing_of_google_is_imported_before_the_first_call() -> None:
    program = (
        "import sys; from enhance.generators import google, vertex, gemini, replay\n"
        "vertex.VertexGenerator('m'); gemini.GeminiGenerator('m')\n"
        "assert not {'google.genai', 'google.auth', 'vertexai', 'httpx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
