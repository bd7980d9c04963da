"""The generators that ask Google, a plugin to ask about, and what a call of theirs says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.oauth2.credentials import Credentials

from enhance.generators.base import CallError, Generator
from enhance.generators.prompted import Parameters
from enhance.generators.vertex import VertexGenerator
from enhance.model import Material, Plan, Plugin, Proposal, Reply
from tests.support.fake_google import KEY, TOKEN, FakeGoogle, serve

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
