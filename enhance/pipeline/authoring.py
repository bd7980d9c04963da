"""The phases that need a generator: plan, generate, and one turn of repair; stored answers are used first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from enhance.generators.base import BadReply, Phase, Request
from enhance.model import Finding, Material, Plan, Proposal, Status
from enhance.pipeline.asking import Answer, Asker, Memory, Place, lookup
from enhance.pipeline.job import RunJob
from enhance.pipeline.staging import Draft


class Rejected(Exception):
    """A proposal breaks rules. `mendable` says that the generator could do something about it."""

    def __init__(self, proposal: Proposal, findings: Sequence[Finding], *, mendable: bool = True) -> None:
        super().__init__("; ".join(f"{one.path}: {one.rule} {one.message}" for one in findings[:5]))
        self.proposal = proposal
        self.findings = tuple(findings)
        self.mendable = mendable


Judge = Callable[[Proposal], Draft]
"""Turns a proposal into a draft, or raises Rejected."""


class Author:
    """Has a generator write for one plugin.

    With `again`, what was answered unusably is asked for again; without, a stored answer counts as the answer,
    whatever has become of the rules. `may_mend` says whether a stored proposal that is rejected may still have its
    turn of repair. `answers` tells, by phase, where those are that the result came from.
    """

    def __init__(
        self,
        job: RunJob,
        asker: Asker,
        material: Material,
        memory: Memory,
        *,
        again: bool,
        may_mend: bool,
        reached: Callable[[Status], None],
    ) -> None:
        self._job = job
        self._generator = job.generator
        self._asker = asker
        self._material = material
        self._memory = memory
        self._again = again
        self._may_mend = may_mend
        self._reached = reached
        self.answers: dict[str, Place] = {}

    def plan(self) -> tuple[Plan, Answer]:
        """Return the plan, and the answer that it was read from. BadReply if that is no plan; see `Asker.ask` too."""
        request = self._generator.plan_request(self._material)
        answer = self._stored("plan", request)
        if answer is not None:
            try:
                return self._read_plan(answer), answer
            except BadReply:
                if not self._again:
                    raise
        answer = self._asker.ask(request, self._material)
        return self._read_plan(answer), answer

    def write(self, plan: Plan, judge: Judge) -> Draft:
        """Return what is to be written. BadReply or Rejected if there is no usable proposal; see `Asker.ask` too."""
        request = self._generator.generate_request(self._material, plan)
        answer = self._stored("generate", request)
        if answer is not None:
            try:
                return self._mended(plan, answer, judge, may_ask=self._may_mend)
            except (BadReply, Rejected):
                if not self._again:
                    raise
        return self._mended(plan, self._asker.ask(request, self._material), judge, may_ask=True)

    def _mended(self, plan: Plan, answer: Answer, judge: Judge, *, may_ask: bool) -> Draft:
        self.answers["generate"] = answer.place
        try:
            return self._judged(plan, answer, judge)
        except Rejected as rejected:
            if not rejected.mendable:
                raise
            request = self._generator.repair_request(self._material, plan, rejected.proposal, rejected.findings)
            mended = self._stored("repair", request) if answer.stored else None
            if mended is None and not may_ask:
                raise
            mended = mended or self._asker.ask(request, self._material)
            self.answers["repair"] = mended.place
            return self._judged(plan, mended, judge)

    def _judged(self, plan: Plan, answer: Answer, judge: Judge) -> Draft:
        proposal = self._generator.read_proposal(answer.reply, self._material, plan)
        self._reached(Status.GENERATED)
        return judge(proposal)

    def _read_plan(self, answer: Answer) -> Plan:
        self.answers["plan"] = answer.place
        plan = self._generator.read_plan(answer.reply, self._material)
        self._reached(Status.PLANNED)
        return plan

    def _stored(self, phase: Phase, request: Request) -> Answer | None:
        return lookup(self._job, phase, request, self._material, self._memory)


def plan_as_data(plan: Plan) -> dict[str, object]:
    """Return a plan as the inventory keeps it."""
    data: dict[str, object] = msgspec.to_builtins(plan)
    return data
