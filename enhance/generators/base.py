"""What a generator is: it turns a plugin's material into requests, answers them, and reads the answers.

A generator keeps no state between calls and touches no file. Everything around it (quota, storing the answers,
retries, validation, merging, writing) is the pipeline's. To add your own, write a class with these members and
register it in `enhance.generators.GENERATORS`; docs/generators.md has an example.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

from msgspec import Struct

from drkit.errors import DrkitError
from enhance.model import Finding, Material, Plan, Proposal, Reply

Phase = Literal["plan", "generate", "repair"]


class Request(Struct, frozen=True):
    """One call, complete: equal requests may share one answer. `tokens` is an upper estimate, in and out."""

    phase: Phase
    prompt: str
    system: str = ""
    schema: Mapping[str, Any] | None = None
    max_output_tokens: int = 0
    tokens: int = 0


class Blame(enum.StrEnum):
    """What a failed call says about the calls after it."""

    REQUEST = "request"  # this request will never work: a bad argument, a blocked prompt
    RUN = "run"  # no request will work in this run: no such model, no permission, a limit of zero
    DAY = "day"  # the day's quota is used up: park
    MINUTE = "minute"  # the minute's quota is used up: wait
    TRANSIENT = "transient"  # the network or the server: try again


class CallError(DrkitError):
    """A call failed. `retry_after_s` is what the server asked for, None where it said nothing."""

    code = 13
    default_hint = "run the same command again; what was answered already is not asked again"

    def __init__(self, message: str, *, blame: Blame, retry_after_s: float | None = None, status: int = 0) -> None:
        super().__init__(message)
        self.blame = blame
        self.retry_after_s = retry_after_s
        self.status = status


class BadReply(Exception):
    """An answer that cannot be used: not the shape that was asked for, cut off, blocked. Says why."""


class Generator(Protocol):
    """Makes plans and proposals. `key` names all that decides the answers besides the request itself."""

    name: ClassVar[str]
    remote: ClassVar[bool]
    """Whether `send` is a call that counts against a quota."""
    model: str
    key: Mapping[str, str]
    """Generator, model, parameters and prompt version, as strings: a part of the cache's key."""

    def plan_request(self, material: Material) -> Request:
        """Return the request of phase 1."""
        ...

    def generate_request(self, material: Material, plan: Plan) -> Request:
        """Return the request of phase 2."""
        ...

    def repair_request(
        self, material: Material, plan: Plan, proposal: Proposal, findings: Sequence[Finding]
    ) -> Request:
        """Return the request that asks for a proposal without these findings; it is made once at most."""
        ...

    def send(self, request: Request, material: Material, *, timeout_s: float) -> Reply:
        """Answer a request, in one call and without retries. CallError says what failed and whom it concerns."""
        ...

    def read_plan(self, reply: Reply, material: Material) -> Plan:
        """Read the answer to a `plan_request`. BadReply if it is not whole or not a plan."""
        ...

    def read_proposal(self, reply: Reply, material: Material, plan: Plan) -> Proposal:
        """Read the answer to a `generate_request` or `repair_request`. BadReply as in `read_plan`."""
        ...
