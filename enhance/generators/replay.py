"""Answers from what was stored: the requests of a generator that was run before, without a call, a key or a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from enhance.generators.base import Blame, CallError, Generator, Request
from enhance.model import Finding, Material, Plan, Proposal, Reply

Lookup = Callable[[str, str, str], Reply | None]
"""Return the stored answer to (request SHA-256, phase, answer key), None if there is none."""


class ReplayGenerator:
    """Repeats what `recorded` was answered. It asks and reads as that one does, so its key is the same.

    The pipeline stores every answer under `answer_key` and `request_sha256` of `enhance.pipeline.keys`; `lookup` is
    given the same two. A request that was never answered fails, and only that one.
    """

    name: ClassVar[str] = "replay"
    remote: ClassVar[bool] = False

    def __init__(self, recorded: Generator, lookup: Lookup) -> None:
        self.model = recorded.model
        self.key: Mapping[str, str] = recorded.key
        self._recorded = recorded
        self._lookup = lookup

    def plan_request(self, material: Material) -> Request:
        """Return the request that the recorded generator would send."""
        return self._recorded.plan_request(material)

    def generate_request(self, material: Material, plan: Plan) -> Request:
        """Return the request that the recorded generator would send."""
        return self._recorded.generate_request(material, plan)

    def repair_request(
        self, material: Material, plan: Plan, proposal: Proposal, findings: Sequence[Finding]
    ) -> Request:
        """Return the request that the recorded generator would send."""
        return self._recorded.repair_request(material, plan, proposal, findings)

    def send(self, request: Request, material: Material, *, timeout_s: float) -> Reply:  # noqa: ARG002  # no waiting
        """Return the stored answer, or raise CallError: Blame.REQUEST, since asking again would find nothing either."""
        from enhance.pipeline.keys import answer_key, request_sha256

        reply = self._lookup(request_sha256(request), request.phase, answer_key(self, material))
        if reply is None:
            plugin = material.plugin.path.decode("utf-8", "backslashreplace") or "."
            raise CallError(
                f"no answer to the {request.phase} request for {plugin} is stored for {self.model}", blame=Blame.REQUEST
            )
        return reply

    def read_plan(self, reply: Reply, material: Material) -> Plan:
        """Read as the recorded generator does."""
        return self._recorded.read_plan(reply, material)

    def read_proposal(self, reply: Reply, material: Material, plan: Plan) -> Proposal:
        """Read as the recorded generator does."""
        return self._recorded.read_proposal(reply, material, plan)
