"""Generators that ask a language model in words: the prompts, the shape of the answers, the reading of them.

What is left to a subclass is `send`: how a request gets to a model and its answer back. docs/generators.md has one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from drkit.errors import UsageError
from enhance.generators import asking, reading
from enhance.generators.base import Phase, Request
from enhance.model import Finding, Material, Plan, Proposal, Reply
from enhance.validators.standards import TOOLS

_STRING = {"type": "string"}
_STRINGS = {"type": "array", "items": _STRING}


def _skills(fields: Mapping[str, Any], needed: Sequence[str], **others: Any) -> dict[str, Any]:
    skill = {"type": "object", "properties": dict(fields), "required": list(needed)}
    properties = {"skills": {"type": "array", "items": skill}, **others}
    return {"type": "object", "properties": properties, "required": ["skills"]}


PLAN_SCHEMA = _skills(
    {
        "name": _STRING,
        "description": _STRING,
        "sections": _STRINGS,
        "grounds": _STRINGS,
        "allowed_tools": _STRINGS,
    },
    ("name", "description", "grounds"),
    reason=_STRING,
)
PROPOSAL_SCHEMA = _skills(
    {"name": _STRING, "description": _STRING, "allowed_tools": _STRINGS, "body": _STRING},
    ("name", "description", "body"),
)


class Parameters(Struct, frozen=True):
    """What may be set. `temperature` None is the model's own. Thoughts count as output: leave room for them.

    `input_characters` is how much of a plugin's files one request shows; the rest is named. Prices are in US dollars
    for a million tokens; nothing is charged where they are zero.
    """

    temperature: float | None = 0.2
    plan_tokens: int = 8_192
    generate_tokens: int = 24_576
    input_characters: int = 60_000
    usd_per_million_tokens_in: float = 0.0
    usd_per_million_tokens_out: float = 0.0

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Return what a call costs, in US dollars."""
        return (tokens_in * self.usd_per_million_tokens_in + tokens_out * self.usd_per_million_tokens_out) / 1e6


DEFAULTS = Parameters()


def parameters(options: Mapping[str, Any]) -> Parameters:
    """Return what options set of the parameters, by the same names; UsageError for a value that is of another type."""
    given = {name: options[name] for name in Parameters.__struct_fields__ if options.get(name) is not None}
    try:
        return msgspec.convert(given, Parameters)
    except msgspec.ValidationError as error:
        raise UsageError(f"an option of the generator is wrong: {error}", hint="see docs/generators.md") from error


class PromptedGenerator:
    """All of a `Generator` but `send`. Schemas in its requests are JSON schemas; replies are read from their text."""

    name: ClassVar[str]
    remote: ClassVar[bool] = True

    def __init__(self, model: str, parameters: Parameters = DEFAULTS) -> None:
        self.model = model
        self.parameters = parameters
        self.key: Mapping[str, str] = {
            "generator": self.name,
            "model": model,
            "temperature": "" if parameters.temperature is None else f"{parameters.temperature:g}",
            "plan_tokens": str(parameters.plan_tokens),
            "generate_tokens": str(parameters.generate_tokens),
            "input_characters": str(parameters.input_characters),
            "prompts": asking.version(),
        }

    def plan_request(self, material: Material) -> Request:
        """Ask for the skills that this plugin should have."""
        quoter = asking.Quoter(material)
        prompt = asking.fill(
            "plan.md",
            {
                "most": str(reading.MOST_SKILLS),
                "description": str(reading.MOST_DESCRIPTION),
                "tools": ", ".join(TOOLS),
                "length": asking.length(material),
                "material": quoter.files(self.parameters.input_characters),
            },
        )
        return self._request("plan", prompt, quoter, PLAN_SCHEMA, self.parameters.plan_tokens)

    def generate_request(self, material: Material, plan: Plan) -> Request:
        """Ask for the planned skills, whole."""
        quoter = asking.Quoter(material)
        prompt = self._generate_prompt(quoter, plan)
        return self._request("generate", prompt, quoter, PROPOSAL_SCHEMA, self.parameters.generate_tokens)

    def repair_request(
        self, material: Material, plan: Plan, proposal: Proposal, findings: Sequence[Finding]
    ) -> Request:
        """Ask for the same again without what the validators found, with all that the first request showed."""
        quoter = asking.Quoter(material)
        answer = "\n".join(
            quoter.quote(data.decode("utf-8", "replace"), "file: " + asking.label(path))
            for path, data in sorted(proposal.files.items())
        )
        prompt = asking.fill(
            "repair.md",
            {
                "findings": quoter.findings(findings),
                "answer": answer,
                "request": self._generate_prompt(quoter, plan),
            },
        )
        return self._request("repair", prompt, quoter, PROPOSAL_SCHEMA, self.parameters.generate_tokens)

    def read_plan(self, reply: Reply, material: Material) -> Plan:
        """Read the answer to a `plan_request`."""
        return reading.read_plan(reply, material)

    def read_proposal(self, reply: Reply, material: Material, plan: Plan) -> Proposal:
        """Read the answer to a `generate_request` or a `repair_request`."""
        made_by = {"generator": f"drkit {self.name}", "model": self.model, "prompts": self.key["prompts"]}
        return reading.read_proposal(reply, material, plan, made_by)

    def _generate_prompt(self, quoter: asking.Quoter, plan: Plan) -> str:
        planned = json.dumps(msgspec.to_builtins(plan)["skills"], indent=1, ensure_ascii=False)
        return asking.fill(
            "generate.md",
            {
                "description": str(reading.MOST_DESCRIPTION),
                "length": asking.length(quoter.material),
                "plan": quoter.quote(planned),
                "material": quoter.files(self.parameters.input_characters),
            },
        )

    def _request(
        self, phase: Phase, prompt: str, quoter: asking.Quoter, schema: Mapping[str, Any], most: int
    ) -> Request:
        system = asking.fill("system.md", {"boundary": quoter.boundary})
        tokens = asking.estimate(system) + asking.estimate(prompt) + asking.estimate(json.dumps(schema)) + most
        return Request(phase, prompt, system, schema, most, tokens)
