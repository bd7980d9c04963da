"""One call of the real google-genai client: no retry, no second request, bounded as a whole, nothing of theirs let out.

The package is imported when the first call is made: it takes 0.4 s, and most commands make none.
"""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from drkit.errors import UsageError
from enhance.generators.asking import estimate
from enhance.generators.base import Request
from enhance.generators.google_errors import failed, refused
from enhance.generators.prompted import Parameters
from enhance.model import Reply, Usage

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.genai import Client
    from google.genai.types import Candidate, GenerateContentConfig, GenerateContentResponse

_T = TypeVar("_T")


class Access(Struct, frozen=True):
    """How the provider is reached. What is empty is left to google-genai and google-auth, and their variables."""

    extra: str
    vertex: bool
    project: str = ""
    location: str = ""
    api_key: str = ""
    credentials: Any = None

    def client(self) -> Client:
        """Return a client. UsageError if the package, the key or the credentials are missing."""
        try:
            from google import genai
        except ImportError as error:
            raise UsageError(
                f"the generator {self.extra} needs google-genai, which is not installed",
                hint=f"pip install 'drkit[{self.extra}]'",
            ) from error
        from google.auth.exceptions import GoogleAuthError

        try:
            if self.vertex:
                return genai.Client(
                    vertexai=True,
                    project=self.project or None,
                    location=self.location or None,
                    credentials=self._credentials(),
                )
            return genai.Client(vertexai=False, api_key=self.api_key or None)
        except (GoogleAuthError, ValueError) as error:
            raise UsageError(
                f"the generator {self.extra} cannot be used: {error}".splitlines()[0],
                hint="run 'gcloud auth application-default login', or set GOOGLE_APPLICATION_CREDENTIALS"
                if self.vertex
                else "set GEMINI_API_KEY",
            ) from error

    def _credentials(self) -> Credentials:
        """Return the credentials that were given, else the machine's own."""
        if self.credentials is not None:
            given: Credentials = self.credentials
            return given
        import google.auth

        found: Credentials
        found, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
        return found


def ask(client: Client, model: str, request: Request, parameters: Parameters, *, timeout_s: float) -> Reply:
    """Send one request and return its answer, whole or not. CallError for everything that is no answer."""
    from google.genai import errors

    config = _config(request, parameters.temperature, timeout_s)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of every word that is newer than itself
            answer = _within(
                timeout_s,
                lambda: client.models.generate_content(model=model, contents=request.prompt, config=config),
            )
    except errors.APIError as error:
        raise refused(error.code, error.details, _headers(error.response), model) from error
    except Exception as error:
        raise failed(error, model) from error
    return _reply(answer, request, parameters)


def _config(request: Request, temperature: float | None, timeout_s: float) -> GenerateContentConfig:
    """Return the settings of a call.

    Left alone, the client calls functions and follows continuations by itself, with requests that nobody reserved.
    Given the schema as `response_schema`, it would parse the answer as well, and lose one that it cannot parse (deep
    nesting, long numbers) before anybody has stored it; so the schema goes into the request's body as it is.
    """
    from google.genai import types

    schema = {"generationConfig": {"responseSchema": _types(request.schema)}} if request.schema is not None else None

    return types.GenerateContentConfig(
        system_instruction=request.system or None,
        temperature=temperature,
        candidate_count=1,
        max_output_tokens=request.max_output_tokens or None,
        response_mime_type="application/json" if request.schema is not None else None,
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        automatic_continuation=False,
        http_options=types.HttpOptions(timeout=max(1, int(timeout_s * 1000)), extra_body=schema),
    )


def _types(schema: Any) -> Any:
    """Return a JSON schema as Google writes it: the same, with the names of types in capitals."""
    if isinstance(schema, Mapping):
        return {
            key: value.upper() if key == "type" and isinstance(value, str) else _types(value)
            for key, value in schema.items()
        }
    return schema


def _within(timeout_s: float, work: Callable[[], _T]) -> _T:
    """Return what `work` returns; TimeoutError after so many seconds, whatever it is doing.

    httpx bounds the time between two bytes, and google-auth its own requests: a server that drips would hold a whole
    night. What is late ends by itself, on a thread that nobody waits for, and its answer is dropped.
    """
    results: queue.SimpleQueue[tuple[_T | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((work(), None))
        except Exception as error:  # noqa: BLE001  # raised again where it is waited for
            results.put((None, error))

    threading.Thread(target=run, name="google-call", daemon=True).start()
    try:
        result, error = results.get(timeout=timeout_s)
    except queue.Empty:
        raise TimeoutError(f"nothing after {timeout_s:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # set where there is no error


def _reply(answer: GenerateContentResponse, request: Request, parameters: Parameters) -> Reply:
    candidate = answer.candidates[0] if answer.candidates else None
    text = _text(candidate)
    details: dict[str, Any] = {"model_version": answer.model_version, "response_id": answer.response_id}
    if candidate is None:
        feedback = answer.prompt_feedback
        blocked = feedback is not None and feedback.block_reason is not None
        reason = "blocked" if blocked else "other"
        if feedback is not None and feedback.block_reason is not None:
            details["block_reason"] = feedback.block_reason.value
            details["finish_message"] = feedback.block_reason_message
    else:
        reason = candidate.finish_reason.value.lower() if candidate.finish_reason else "other"
        details["finish_message"] = candidate.finish_message
        details["blocked_for"] = [
            rating.category.value for rating in candidate.safety_ratings or () if rating.blocked and rating.category
        ]
    usage = _usage(answer, request, text, parameters, details)
    return Reply(text, reason, usage, {key: value for key, value in details.items() if value})


def _text(candidate: Candidate | None) -> str:
    """Return what was said aloud: the parts that are text and no thoughts, as text that can be stored."""
    parts = candidate.content.parts if candidate is not None and candidate.content is not None else None
    text = "".join(part.text for part in parts or () if part.text and not part.thought)
    return text.encode("utf-8", "replace").decode()


def _usage(
    answer: GenerateContentResponse, request: Request, text: str, parameters: Parameters, details: dict[str, Any]
) -> Usage:
    """Return what the provider counted, thoughts as output; an upper estimate where it does not say."""
    told = answer.usage_metadata
    if told is None or told.prompt_token_count is None:
        details["usage"] = "estimated"
        tokens_in, tokens_out = estimate(request.system) + estimate(request.prompt), estimate(text)
    else:
        tokens_in = told.prompt_token_count
        tokens_out = (told.candidates_token_count or 0) + (told.thoughts_token_count or 0)
        details["thought_tokens"], details["cached_tokens"] = told.thoughts_token_count, told.cached_content_token_count
    return Usage(tokens_in, tokens_out, parameters.cost(tokens_in, tokens_out))


def _headers(response: Any) -> Mapping[str, str]:
    """Return the headers of an error's response, their names in lower case."""
    headers = getattr(response, "headers", None) or {}
    return {str(name).lower(): str(value) for name, value in headers.items()}
