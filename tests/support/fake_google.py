"""A double of Google's generateContent, for the Gemini API and for Vertex: it counts, enforces windows, and misbehaves.

    with serve(FakeGoogle(per_minute=15)) as server:
        server.next("fence", "429 minute", after=2)
        ...

Planned faults strike in order, one for each request; a fault that nobody met fails the test when the server closes.
Windows are sliding and counted by arrival, on the server's own clock, which a test may replace. A refused request
counts as well: a client that goes on asking gets no further.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "ya29.fake"
KEY = "fake-key"
PATHS = re.compile(
    r"/v1beta1/projects/(?P<project>[^/]+)/locations/(?P<location>[^/]+)/publishers/google/models/(?P<vertex>[^/:]+):generateContent"
    r"|/v1/projects/[^/]+/locations/[^/]+/publishers/google/models/(?P<sdk>[^/:]+):generateContent"
    r"|/v1beta/models/(?P<gemini>[^/:]+):generateContent"
)
RPC = "type.googleapis.com/google.rpc."
BODY = (
    "# Make tidy\n\n## What it does\n\nIt runs `/tidy` on a directory and reports each file that it moved, "
    "so that nothing is lost.\n\n## Steps\n\n1. Run `/tidy docs`.\n2. Read the report.\n"
)


@dataclass
class Call:
    """A request as it arrived."""

    at: float
    path: str
    model: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]

    @property
    def prompt(self) -> str:
        """All text that the model is given."""
        return json.dumps(self.body, ensure_ascii=False)

    @property
    def phase(self) -> str:
        """Which phase asks: told by the schema and by the words of the prompts."""
        text = self.body["contents"][0]["parts"][0]["text"]
        if text.startswith("The answer that was given"):
            return "repair"
        return "plan" if text.startswith("Plan the skills") else "generate"


@dataclass
class FakeGoogle:
    """The server's state: limits, planned faults, and what it has seen.

    `served` are the calls that were granted, `finished` those of which the whole answer was sent, whatever it was.
    `plan` and `skills` make the model's JSON from a request; a test replaces them. `clock` and `delay` are in seconds.
    """

    per_minute: int | None = None
    per_day: int | None = None
    models: frozenset[str] | None = None
    delay: float = 0.0
    clock: Callable[[], float] = time.monotonic
    plan: Callable[[Call], Any] | None = None
    skills: Callable[[Call], Any] | None = None
    calls: list[Call] = field(default_factory=list)
    served: list[Call] = field(default_factory=list)
    finished: list[Call] = field(default_factory=list)
    most_in_minute: int = 0
    most_in_day: int = 0
    url: str = ""
    _faults: deque[str] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)

    def next(self, *kinds: str, after: int = 0) -> None:
        """Plan what happens to the next requests, but for `after`. See `answer` for the kinds; "" is no fault."""
        self._faults.extend(("",) * after + kinds)

    def take(self, call: Call) -> str:
        """Count a request; return the fault that is planned for it, or what a limit says."""
        with self._lock:
            self.calls.append(call)
            minute = [other for other in self.calls if call.at - other.at < 60.0]
            day = [other for other in self.calls if call.at - other.at < 86400.0]
            self.most_in_minute = max(self.most_in_minute, len(minute))
            self.most_in_day = max(self.most_in_day, len(day))
            if self._faults:
                return self._faults.popleft()
            if self.models is not None and call.model not in self.models:
                return "404"
            if self.per_day is not None and len(day) > self.per_day:
                return "429 day"
            if self.per_minute is not None and len(minute) > self.per_minute:
                return "429 minute"
            return ""

    @property
    def unmet(self) -> list[str]:
        """The faults that no request has met."""
        return [kind for kind in self._faults if kind]

    def answer(self, call: Call, kind: str) -> tuple[int, Any, dict[str, str]]:
        """Return status, body and headers; a body that is bytes is sent as it is."""
        if kind[:3].isdigit():
            return _refusal(kind, call)
        text = json.dumps(self._said(call), ensure_ascii=False)
        if kind == "malformed":
            return 200, b'{"candidates": [{"content": {"par', {}
        if kind == "html":
            return 200, b"<html><body>Sign in to the network</body></html>", {}
        if kind == "wrong types":
            return 200, {"candidates": [{"content": "text", "finishReason": 7}]}, {}
        if kind == "empty object":
            return 200, {}, {}
        if kind == "blocked prompt":
            feedback = {"blockReason": "PROHIBITED_CONTENT", "blockReasonMessage": "not this"}
            return 200, {"promptFeedback": feedback, "usageMetadata": {"promptTokenCount": 90}}, {}
        if kind == "no usage":
            return 200, {"candidates": [_candidate(text)]}, {}
        candidate, out = _altered(kind, text)
        usage = {"promptTokenCount": 1000, "candidatesTokenCount": out, "thoughtsTokenCount": 50}
        return 200, {"candidates": [candidate], "usageMetadata": usage, "modelVersion": call.model + "-001"}, {}

    def _said(self, call: Call) -> Any:
        if call.phase == "plan":
            return self.plan(call) if self.plan else a_plan()
        return self.skills(call) if self.skills else some_skills()


def a_plan(name: str = "make-tidy", **changes: Any) -> dict[str, Any]:
    """A plan of one skill."""
    skill = {
        "name": name,
        "description": "Moves stray files where they belong. Use when a directory is untidy.",
        "sections": ["What it does", "Steps"],
        "grounds": ["README.md"],
        "allowed_tools": ["Read", "Bash(git:*)"],
    }
    return {"skills": [{**skill, **changes}], "reason": ""}


def some_skills(name: str = "make-tidy", **changes: Any) -> dict[str, Any]:
    """The skill of that plan."""
    skill = {
        "name": name,
        "description": "Moves stray files where they belong. Use when a directory is untidy.",
        "allowed_tools": ["Read", "Bash(git:*)"],
        "body": BODY,
    }
    return {"skills": [{**skill, **changes}]}


def _candidate(text: str, reason: str | None = "STOP", **others: Any) -> dict[str, Any]:
    content = {"role": "model", "parts": [{"text": text}]}
    return {"content": content, **({"finishReason": reason} if reason else {}), **others}


def _altered(kind: str, text: str) -> tuple[dict[str, Any], int]:
    """Return a candidate with a fault in it, and how many tokens it is."""
    half = text[: len(text) // 2]
    candidates: dict[str, Callable[[], dict[str, Any]]] = {
        "": lambda: _candidate(text),
        "fence": lambda: _candidate(f"```json\n{text}\n```"),
        "prose": lambda: _candidate(f"Here is {{what}} you asked for:\n\n{text}\n\nI hope that it helps."),
        "list": lambda: _candidate("[1, 2, 3]"),
        "number": lambda: _candidate("42"),
        "error text": lambda: _candidate("Error: command failed with exit code 1"),
        "wrong shape": lambda: _candidate(json.dumps({"skills": {"name": "x"}})),
        "wrong values": lambda: _candidate(json.dumps({"skills": [{"name": 5, "description": None}]})),
        "deep": lambda: _candidate('{"skills": ' + "[" * 100_000),
        "surrogate": lambda: _candidate(text.replace("tidy", "\\ud800")),
        "truncated": lambda: _candidate(half, "MAX_TOKENS"),
        "truncated whole": lambda: _candidate(text, "MAX_TOKENS"),
        "truncated silently": lambda: _candidate(half),
        "new reason": lambda: _candidate(text, "SOMETHING_NEW"),
        "unfinished": lambda: _candidate(text, None),
        "continuation": lambda: _candidate(half, "CONTINUATION", continuationToken="bW9yZQ=="),
        "safety": lambda: {
            "finishReason": "SAFETY",
            "safetyRatings": [{"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH", "blocked": True}],
        },
        "recitation": lambda: {"finishReason": "RECITATION", "finishMessage": "found elsewhere"},
        "nothing said": lambda: {"content": {"role": "model"}, "finishReason": "STOP"},
        "thoughts": lambda: {
            "content": {"parts": [{"text": "{hm} let me see", "thought": True}, {"text": text}]},
            "finishReason": "STOP",
        },
        "function": lambda: {
            "content": {"parts": [{"functionCall": {"name": "shell", "args": {"command": "ls"}}}]},
            "finishReason": "STOP",
        },
    }
    return candidates[kind](), 250


def _refusal(kind: str, call: Call) -> tuple[int, Any, dict[str, str]]:
    """Return what a kind like "429 day" or "503 retry-after" means."""
    code, _, rest = kind.partition(" ")
    status, message = _STATUS.get(code, "UNKNOWN"), f"no luck with {call.model}"
    details: list[dict[str, Any]] = []
    headers: dict[str, str] = {}
    if code == "429":
        details, message = _quota(rest, message)
    if "info" in rest:
        details.append({"@type": RPC + "RetryInfo", "retryDelay": "47s"})
    if "retry-after" in rest:
        headers["Retry-After"] = "31"
    if "retry-date" in rest:
        headers |= {"Date": "Sun, 22 Nov 2026 08:00:00 GMT", "Retry-After": "Sun, 22 Nov 2026 08:01:30 GMT"}
    if "html" in rest:
        return int(code), b"<html>upstream\n went away</html>", headers
    if "odd" in rest:
        return int(code), {"error": ["what", {"is": "this"}]}, headers
    if "key" in rest:
        message = "API key not valid. Please pass a valid API key."
        details.append({"@type": RPC + "ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"})
    body = {"error": {"code": int(code), "message": message, "status": status, "details": details}}
    return int(code), body, headers


_STATUS = {
    "400": "INVALID_ARGUMENT",
    "401": "UNAUTHENTICATED",
    "403": "PERMISSION_DENIED",
    "404": "NOT_FOUND",
    "412": "FAILED_PRECONDITION",
    "429": "RESOURCE_EXHAUSTED",
    "500": "INTERNAL",
    "503": "UNAVAILABLE",
    "504": "DEADLINE_EXCEEDED",
}


def _quota(rest: str, message: str) -> tuple[list[dict[str, Any]], str]:
    metric = "generativelanguage.googleapis.com/generate_content_free_tier_requests"
    violation = {"quotaMetric": metric, "quotaValue": "15"}
    if "pool" in rest:
        return [], "Resource exhausted. Please try again later."
    if "zero" in rest:
        violation["quotaId"] = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
        del violation["quotaValue"]
        message = f"You exceeded your current quota.\n* Quota exceeded for metric: {metric}, limit: 0, model: big"
    elif "day" in rest:
        violation["quotaId"] = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
    else:
        violation["quotaId"] = "GenerateRequestsPerMinutePerProjectPerModel"
    if "metadata" in rest:
        metadata = {"quota_limit": violation["quotaId"], "quota_limit_value": "15"}
        return [{"@type": RPC + "ErrorInfo", "reason": "RATE_LIMIT_EXCEEDED", "metadata": metadata}], message
    return [{"@type": RPC + "QuotaFailure", "violations": [violation]}], message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeGoogle

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match = PATHS.fullmatch(self.path.partition("?")[0])
        if match is None:
            self._send(404, b"no such path", {})
            return
        model = match["vertex"] or match["gemini"] or match["sdk"]
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = Call(self.fake.clock(), self.path, model, headers, json.loads(raw))
        kind = self.fake.take(call)
        if not self._known(match):
            kind = "401"
        if kind == "cut":
            self.close_connection = True
            return
        if kind == "slow" or self.fake.delay:
            self.fake.stop.wait(30.0 if kind == "slow" else self.fake.delay)
        status, body, more = self.fake.answer(call, kind if kind not in {"slow", "cut short", "drip"} else "")
        if status == 200:
            self.fake.served.append(call)
        if self._send(status, body, more, kind):
            self.fake.finished.append(call)

    def _known(self, match: re.Match[str]) -> bool:
        if match["gemini"]:
            return self.headers.get("x-goog-api-key") == KEY
        return self.headers.get("Authorization") == f"Bearer {TOKEN}" or bool(match["sdk"])

    def _send(self, status: int, body: Any, headers: Mapping[str, str], kind: str = "") -> bool:
        """Send an answer; return whether all of it was sent."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response_only(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if kind == "cut short":
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return False
        step = 1 if kind == "drip" else len(data)
        for start in range(0, len(data), step or 1):
            if step == 1 and self.fake.stop.wait(0.05):
                return False
            try:
                self.wfile.write(data[start : start + step])
            except OSError:
                self.close_connection = True
                return False
        return True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextmanager
def serve(fake: FakeGoogle) -> Iterator[FakeGoogle]:
    """Run the server on loopback for the block. Every fault that was planned must have struck by its end."""
    handler = type("Handler", (_Handler,), {"fake": fake})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.stop.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
    assert not fake.unmet, f"planned and never met: {fake.unmet}"
