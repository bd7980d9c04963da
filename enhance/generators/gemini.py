"""Gemini models through the Gemini API: a key and nothing else."""

from __future__ import annotations

from typing import ClassVar

from enhance.generators.google import GoogleGenerator
from enhance.generators.google_calls import Access
from enhance.generators.prompted import DEFAULTS, Parameters


class GeminiGenerator(GoogleGenerator):
    """Asks a model of the Gemini API.

    An empty key is what google-genai reads from GOOGLE_API_KEY or GEMINI_API_KEY. GOOGLE_GEMINI_BASE_URL leads
    elsewhere.
    """

    name: ClassVar[str] = "gemini"

    def __init__(self, model: str, *, api_key: str = "", parameters: Parameters = DEFAULTS) -> None:
        super().__init__(model, Access(extra="gemini", vertex=False, api_key=api_key), parameters)
