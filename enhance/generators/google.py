"""What the two Google generators share: a client that is made with the first call, and one call for each request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enhance.generators import google_calls
from enhance.generators.base import Request
from enhance.generators.google_calls import Access
from enhance.generators.prompted import DEFAULTS, Parameters, PromptedGenerator
from enhance.model import Material, Reply

if TYPE_CHECKING:
    from google.genai import Client


class GoogleGenerator(PromptedGenerator):
    """A generator that asks a Gemini model, however it is reached."""

    def __init__(self, model: str, access: Access, parameters: Parameters = DEFAULTS) -> None:
        super().__init__(model, parameters)
        self._access = access
        self._client: Client | None = None

    def send(self, request: Request, material: Material, *, timeout_s: float) -> Reply:  # noqa: ARG002
        """Make one call. UsageError if none can be made from here: a package, a key or credentials are missing."""
        if self._client is None:
            self._client = self._access.client()
        return google_calls.ask(self._client, self.model, request, self.parameters, timeout_s=timeout_s)
