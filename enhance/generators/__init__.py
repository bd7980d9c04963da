"""The generators by name. Each is made by a function, so that nothing is imported that a run does not use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from drkit.errors import UsageError
from enhance.generators.base import Generator

Options = Mapping[str, Any]
"""`model`; for `vertex` also `project` and `location`, for `gemini` `api_key`, all strings, empty or absent where the
environment decides; for both what `enhance.generators.prompted.Parameters` names. For `replay` `recorded` is the
generator whose answers are read and `lookup` finds them."""

DEFAULT = "offline"


def _offline(options: Options) -> Generator:  # noqa: ARG001
    from enhance.generators.offline import Offline

    return Offline()


def _vertex(options: Options) -> Generator:
    from enhance.generators.prompted import parameters
    from enhance.generators.vertex import VertexGenerator

    project, location = options.get("project", ""), options.get("location", "")
    return VertexGenerator(_model(options), project=project, location=location, parameters=parameters(options))


def _gemini(options: Options) -> Generator:
    from enhance.generators.gemini import GeminiGenerator
    from enhance.generators.prompted import parameters

    return GeminiGenerator(_model(options), api_key=options.get("api_key", ""), parameters=parameters(options))


def _replay(options: Options) -> Generator:
    from enhance.generators.replay import ReplayGenerator

    return ReplayGenerator(options["recorded"], options["lookup"])


def _model(options: Options) -> str:
    if not (model := options.get("model", "")):
        raise UsageError("no model is named", hint="name it with --model, or as `model` in [enhance] of drkit.toml")
    return str(model)


GENERATORS: dict[str, Callable[[Options], Generator]] = {
    "offline": _offline,
    "vertex": _vertex,
    "gemini": _gemini,
    "replay": _replay,
}
"""What `--generator` takes. To add your own, put a function here that makes it from the options."""


def make(name: str, options: Options) -> Generator:
    """Return the generator of this name. UsageError if there is none, or if the options do not suffice."""
    if name not in GENERATORS:
        raise UsageError(f"there is no generator {name!r}", hint=f"choose one of {', '.join(GENERATORS)}")
    return GENERATORS[name](options)
