"""What google-genai, google-auth and httpx raise, as CallError with the right blame: nothing of theirs gets further.

A 429 says in its details which quota it is: `QuotaFailure` or `ErrorInfo` name it (`...PerDay...`, `...PerMinute...`)
and its value, `RetryInfo` and the header Retry-After say when to come back. Vertex's shared pool says nothing of all
that, and counts as the minute's. A value of zero is no quota to wait for.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Iterator, Mapping
from typing import Any

from enhance.generators.base import Blame, CallError

LONGEST_MINUTE_S = 3600.0
"""Who asks for a longer wait than this means a day, however the quota is called."""
MOST_MESSAGE = 300
RUN_REASONS = {"API_KEY_INVALID", "API_KEY_SERVICE_BLOCKED", "SERVICE_DISABLED", "BILLING_DISABLED", "CONSUMER_INVALID"}
UNREADABLE = (TypeError, AttributeError, LookupError, RecursionError, UnicodeError)
"""What the client raises over an answer that is JSON of another shape; the request was built before."""
UNREADABLE_NAMES = {"JSONDecodeError", "UnknownApiResponseError", "ValidationError", "DecodingError"}
_ZERO = re.compile(r"\blimit:\s*0\b(?![.,]?\d)")
_DAY = re.compile(r"per_?\s?day|daily", re.IGNORECASE)
_SPENT = re.compile(
    r"credits? (?:is|are) depleted|spending cap|billing (?:is|has been) (?:disabled|not enabled)", re.IGNORECASE
)
_KEY = re.compile(r"api[ _]key not valid|api[ _]key (?:has )?expired", re.IGNORECASE)
_SECONDS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s?")


def refused(code: int, details: Any, headers: Mapping[str, str], model: str) -> CallError:
    """Return what an answer with an error's status means. `details` is its body as far as it was JSON."""
    error = _mapping(details.get("error")) or details if isinstance(details, Mapping) else {}
    status, message = str(error.get("status") or ""), str(error.get("message") or "")
    parts = [part for part in _list(error.get("details")) if isinstance(part, Mapping)]
    wait = _wait(parts, headers)
    return CallError(
        f"{model}: {code} {status}: {_short(message)}".replace(" :", ":"),
        blame=_blame(code, status, message, parts, wait),
        retry_after_s=wait,
        status=code,
    )


def failed(error: Exception, model: str) -> CallError:
    """Return what any other exception of the client means: a library's own, the network's, a body that is no JSON."""
    names = {base.__name__ for base in type(error).__mro__}
    text = _short(f"{type(error).__name__}: {error}")
    if names & {"DefaultCredentialsError", "RefreshError"} and not getattr(error, "retryable", False):
        return CallError(f"{model}: the credentials do not work: {text}", blame=Blame.RUN)
    if isinstance(error, TimeoutError) or "TimeoutException" in names:
        return CallError(f"{model}: no answer in time: {text}", blame=Blame.TRANSIENT)
    if isinstance(error, UNREADABLE) or names & UNREADABLE_NAMES:
        return CallError(f"{model}: the answer cannot be read: {text}", blame=Blame.TRANSIENT)
    if isinstance(error, OSError) or names & {"HTTPError", "TransportError", "GoogleAuthError", "RequestException"}:
        return CallError(f"{model}: the connection failed: {text}", blame=Blame.TRANSIENT)
    blame = Blame.RUN if isinstance(error, ValueError) else Blame.REQUEST  # a model's name that cannot be one
    return CallError(f"{model}: the client refused the call: {text}", blame=blame)


def _blame(code: int, status: str, message: str, parts: list[Mapping[str, Any]], wait: float | None) -> Blame:
    if code == 429:
        return _quota(message, parts, wait)
    if code in {401, 403, 404, 501} or status == "FAILED_PRECONDITION" or _KEY.search(message):
        return Blame.RUN
    if RUN_REASONS & {str(part.get("reason")) for part in parts}:
        return Blame.RUN
    if code >= 500 or code in {408, 409, 425, 499}:
        return Blame.TRANSIENT
    return Blame.REQUEST if 400 <= code < 500 else Blame.RUN


def _quota(message: str, parts: list[Mapping[str, Any]], wait: float | None) -> Blame:
    """Return the widest of what a 429 says: nothing will work, nothing today, nothing in this minute."""
    named = list(_quotas(parts))
    if _ZERO.search(message) or _SPENT.search(message) or any(value == "0" for _, value in named):
        return Blame.RUN
    names = [name for name, _ in named] or [message]
    if any(_DAY.search(name) for name in names) or (wait or 0) > LONGEST_MINUTE_S:
        return Blame.DAY
    return Blame.MINUTE


def _quotas(parts: list[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each quota that is named; the value is empty where it is not told."""
    for part in parts:
        for violation in map(_mapping, _list(part.get("violations"))):
            name = violation.get("quotaId") or violation.get("description") or ""
            yield str(name), str(violation.get("quotaValue", ""))
        metadata = _mapping(part.get("metadata"))
        if "quota_limit" in metadata:
            yield str(metadata["quota_limit"]), str(metadata.get("quota_limit_value", ""))


def _wait(parts: list[Mapping[str, Any]], headers: Mapping[str, str]) -> float | None:
    """Return how long the server asks to wait, in seconds: the longer of RetryInfo and Retry-After."""
    asked = [_SECONDS.fullmatch(str(part["retryDelay"])) for part in parts if "retryDelay" in part]
    waits = [float(match[1]) for match in asked if match]
    after = headers.get("retry-after", "").strip()
    if match := _SECONDS.fullmatch(after):
        waits.append(float(match[1]))
    elif after:
        waits += _until(after, headers.get("date", ""))
    return max(waits, default=None)


def _until(when: str, date: str) -> Iterator[float]:
    """Yield the seconds between two HTTP dates, both of the server's clock, if they are dates."""
    try:
        yield max(
            0.0, (email.utils.parsedate_to_datetime(when) - email.utils.parsedate_to_datetime(date)).total_seconds()
        )
    except (ValueError, TypeError):
        return


def _short(text: str) -> str:
    flat = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return flat if len(flat) <= MOST_MESSAGE else flat[:MOST_MESSAGE] + " …"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
