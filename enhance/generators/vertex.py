"""Gemini models on Vertex AI: a project, a location, and Google's own credentials."""

from __future__ import annotations

from typing import Any, ClassVar

from enhance.generators.google import GoogleGenerator
from enhance.generators.google_calls import Access
from enhance.generators.prompted import DEFAULTS, Parameters


class VertexGenerator(GoogleGenerator):
    """Asks a model of Vertex AI.

    An empty project or location is what GOOGLE_CLOUD_PROJECT and GOOGLE_CLOUD_LOCATION say, or the credentials' own
    project and `global`. `credentials` are google-auth's; without them, those that it finds on this machine.
    GOOGLE_VERTEX_BASE_URL leads elsewhere.
    """

    name: ClassVar[str] = "vertex"

    def __init__(
        self,
        model: str,
        *,
        project: str = "",
        location: str = "",
        credentials: Any = None,
        parameters: Parameters = DEFAULTS,
    ) -> None:
        access = Access(extra="vertex", vertex=True, project=project, location=location, credentials=credentials)
        super().__init__(model, access, parameters)
