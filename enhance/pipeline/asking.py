"""Getting answers: a stored one where there is one, else a call, whose answer is stored before anybody looks at it."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from msgspec import Struct, structs

from drkit.errors import BudgetExhausted, UsageError
from drkit.inventory import ResponseRecord
from enhance.generators.base import Blame, CallError, Phase, Request
from enhance.model import Material, Reply, Usage
from enhance.pipeline.job import Calls, RunJob
from enhance.pipeline.keys import answer_key, request_sha256

NEEDED = "state one in [[enhance.quota]] of drkit.toml"
"""What to do where a generator makes calls and no quota is known."""
_IN_A_ROW = 3
"""So many plugins without an answer, one after the other, and nobody is called any more: the network is down."""


class Parked(Exception):
    """There will be no call in this run: for now nothing can be done for this plugin. Says why."""


class NotAnswered(Exception):
    """A call failed for good. `passing` says that a later run may try it again."""

    def __init__(self, reason: str, *, passing: bool) -> None:
        super().__init__(reason)
        self.passing = passing


Place = tuple[str, str]
"""Where an answer is stored: the key of `answer_key`, and the request's SHA-256."""
Memory = Mapping[str, Place]
"""Which answers led to a plugin's last outcome, by phase.

They answer this run's requests too as long as neither generator nor input changed, whatever the rules say now.
"""


class Answer(Struct, frozen=True):
    """A reply, where it is stored, and whether it was before this run."""

    reply: Reply
    place: Place
    stored: bool


class Asker:
    """Makes the calls of one run. `calls` counts those that were made, `stopped` tells why there are no more."""

    def __init__(self, job: RunJob, run: str) -> None:
        self._job = job
        self._run = run
        self._pacer: Calls | None = None
        self.calls = 0
        self.cost_usd = 0.0
        self.stopped = ""
        self._closed = ""
        self._unanswered = 0

    def ask(self, request: Request, material: Material) -> Answer:
        """Make a call. Parked if there are no more calls in this run, NotAnswered if this one failed for good."""
        if self._closed:
            raise Parked(self._closed)
        try:
            reply = self._paced(request, material)
        except BudgetExhausted as error:
            self.stopped = self._closed = str(error)
            raise Parked(self._closed) from error
        except CallError as error:
            if error.blame in {Blame.RUN, Blame.DAY, Blame.MINUTE}:
                self.stopped = self._closed = str(error)
                raise Parked(self._closed) from error
            if error.blame is Blame.TRANSIENT:
                self._unanswered += 1
                if self._unanswered >= _IN_A_ROW:
                    self._closed = f"{self._unanswered} plugins in a row got no answer: {error}"
            raise NotAnswered(str(error), passing=error.blame is Blame.TRANSIENT) from error
        self._unanswered = 0
        return Answer(reply, place_of(self._job, request, material), stored=False)

    def _paced(self, request: Request, material: Material) -> Reply:
        job = self._job
        if not job.generator.remote:
            return self._send(request, material)
        if self._pacer is None:
            if job.calls is None:
                raise UsageError(f"{job.generator.name} needs a quota", hint=NEEDED)
            self._pacer = job.calls(self._run)
        send = functools.partial(self._send, request, material)
        return self._pacer.ask(send, tokens=request.tokens, timeout_s=job.timeout_s)

    def _send(self, request: Request, material: Material) -> Reply:
        """Make one call and store its answer."""
        job = self._job
        began = job.site.monotonic()
        self.calls += job.generator.remote
        reply = job.generator.send(request, material, timeout_s=job.timeout_s)
        usage = structs.replace(reply.usage, cost_usd=job.price(reply.usage))
        self.cost_usd += usage.cost_usd
        key, sha256 = place_of(job, request, material)
        job.records.store_response(
            run=self._run,
            repo_id=job.repo_id,
            plugin_path=material.plugin.path,
            phase=request.phase,
            cache_key=key,
            request_sha256=sha256,
            model=job.generator.model,
            reply_text=reply.text,
            finish_reason=reply.finish_reason,
            latency_s=round(job.site.monotonic() - began, 3),
            details=reply.details,
            **structs.asdict(usage),
        )
        return reply


def place_of(job: RunJob, request: Request, material: Material) -> Place:
    """Return where the answer to a request is stored, or would be."""
    return answer_key(job.generator, material), request_sha256(request)


def lookup(job: RunJob, phase: Phase, request: Request, material: Material, memory: Memory) -> Answer | None:
    """Return the stored answer to a request: the one that `memory` has of this phase, or one to just this request."""
    places = [memory[phase]] if phase in memory else []
    for place in (*places, place_of(job, request, material)):
        found = job.records.response(*place, phase)
        if found is not None:
            return Answer(_reply(found), place, stored=True)
    return None


def _reply(record: ResponseRecord) -> Reply:
    usage = Usage(record.tokens_in, record.tokens_out, record.cost_usd)
    return Reply(record.text, record.finish_reason, usage, record.detail)
