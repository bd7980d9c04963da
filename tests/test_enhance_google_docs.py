"""docs/generators.md: its own generator works, its tables are true, and the vertex extra's packages live together."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from enhance.generators import GENERATORS, make
from enhance.generators.base import BadReply, Blame, CallError, Generator
from enhance.generators.prompted import Parameters, PromptedGenerator
from tests.support.fake_google import TOKEN, FakeGoogle, a_plan, serve, some_skills
from tests.test_enhance_google_prompts import PATH, a_material

PAGE = Path(__file__).parent.parent / "docs" / "generators.md"


def example() -> type[PromptedGenerator]:
    """Run the page's example and return the class that it defines."""
    (source,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(source, str(PAGE), "exec"), names)  # the project's own page
    found: type[PromptedGenerator] = names["LocalGenerator"]
    return found


class _Chat(BaseHTTPRequestHandler):
    answers: list[tuple[int, Any, str]]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, said, reason = self.answers.pop(0)
        choice = {"message": {"content": json.dumps(said)}, "finish_reason": reason}
        data = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}).encode()
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def test_the_example_is_a_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(200, a_plan(), "stop"), (200, some_skills(), "stop"), (200, some_skills(), "length"), (503, {}, "")]
    server = HTTPServer(("127.0.0.1", 0), type("Chat", (_Chat,), {"answers": answers}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        kind = example()
        monkeypatch.setattr(kind, "url", f"http://127.0.0.1:{server.server_address[1]}/v1/chat/completions")
        monkeypatch.setitem(GENERATORS, "local", lambda options: kind(options["model"]))
        generator: Generator = make("local", {"model": "small"})
        material = a_material()
        plan = generator.read_plan(generator.send(generator.plan_request(material), material, timeout_s=20), material)
        request = generator.generate_request(material, plan)
        reply = generator.send(request, material, timeout_s=20)
        assert (reply.usage.tokens_in, reply.usage.tokens_out) == (5, 7)
        assert list(generator.read_proposal(reply, material, plan).files) == [PATH]
        cut = generator.send(request, material, timeout_s=20)
        with pytest.raises(BadReply, match="cut off"):
            generator.read_proposal(cut, material, plan)
        with pytest.raises(CallError) as caught:
            generator.send(request, material, timeout_s=20)
        assert caught.value.blame is Blame.TRANSIENT
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
    assert not answers


def test_the_page_names_every_generator_parameter_and_default() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in GENERATORS:
        assert f"| `{name}` |" in text
    for name in Parameters.__struct_fields__:
        assert f"`{name}`" in text
    for value in Parameters().__struct_defaults__[:4]:
        assert str(value) in text


def test_options_set_the_parameters() -> None:
    from drkit.errors import UsageError

    made = make("gemini", {"model": "m", "temperature": 1, "plan_tokens": 99, "usd_per_million_tokens_in": 0.5})
    assert (made.key["temperature"], made.key["plan_tokens"]) == ("1", "99")
    assert make("vertex", {"model": "m"}).key["prompts"] == made.key["prompts"]
    with pytest.raises(UsageError, match="an option"):
        make("gemini", {"model": "m", "plan_tokens": "many"})


# The extra `vertex` brings google-cloud-aiplatform too


def test_the_packages_of_the_extra_agree_with_each_other() -> None:
    requirements = pytest.importorskip("packaging.requirements")
    try:
        needed = importlib.metadata.requires("google-cloud-aiplatform") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("google-cloud-aiplatform is not installed")
    shared = [one for one in map(requirements.Requirement, needed) if one.name in {"google-genai", "google-auth"}]
    applying = [one for one in shared if one.marker is None or one.marker.evaluate({"extra": ""})]
    assert {one.name for one in applying} == {"google-genai", "google-auth"}
    for one in applying:
        assert importlib.metadata.version(one.name) in one.specifier


PROGRAM = """
import sys
from tests.test_enhance_google_prompts import a_material
from enhance.generators.vertex import VertexGenerator

def ask(generator):
    material = a_material()
    reply = generator.send(generator.plan_request(material), material, timeout_s=60)
    assert generator.read_plan(reply, material).skills

from google.oauth2.credentials import Credentials
ask(VertexGenerator("m", project="p0", location="l0", credentials=Credentials("TOKEN")))
assert not {"google.cloud.aiplatform", "vertexai"} & set(sys.modules)

from google.cloud import aiplatform
from google.cloud.aiplatform import initializer
aiplatform.init(project="p1", location="europe-west4", credentials=Credentials("TOKEN"))
settings = initializer.global_config
ask(VertexGenerator("m", project=settings.project, location=settings.location, credentials=settings.credentials))
"""


def test_vertex_works_beside_aiplatform_without_importing_it_and_takes_over_its_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("google.genai")
    try:
        importlib.metadata.version("google-cloud-aiplatform")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("google-cloud-aiplatform is not installed")
    with serve(FakeGoogle()) as server:
        monkeypatch.setenv("GOOGLE_VERTEX_BASE_URL", server.url)
        program = PROGRAM.replace("TOKEN", TOKEN)
        subprocess.run([sys.executable, "-c", program], check=True, timeout=300, cwd=PAGE.parent.parent)
        assert ["/projects/p0/locations/l0/" in call.path for call in server.calls] == [True, False]
        assert "/projects/p1/locations/europe-west4/" in server.calls[1].path
