"""Gemini models on Vertex AI: a project, a location, and Google's own credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from enhance.generators.google import DEFAULTS, GoogleGenerator, Parameters
from enhance.generators.google_calls import Access

if TYPE_CHECKING:
    from google.auth.credentials import Credentials


class VertexGenerator(GoogleGenerator):
    """Asks a model of Vertex AI.

    An empty project or location is what GOOGLE_CLOUD_PROJECT and GOOGLE_CLOUD_LOCATION say, or the credentials' own
    project and `global`. Without credentials they are those that google-auth finds on this machine.
    GOOGLE_VERTEX_BASE_URL leads elsewhere.
    """

    name: ClassVar[str] = "vertex"

    def __init__(
        self,
        model: str,
        *,
        project: str = "",
        location: str = "",
        credentials: Credentials | None = None,
        parameters: Parameters = DEFAULTS,
    ) -> None:
        access = Access(extra="vertex", vertex=True, project=project, location=location, credentials=credentials)
        super().__init__(model, access, parameters)
