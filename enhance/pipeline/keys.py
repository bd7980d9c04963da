"""What decides that something was done already: one key for a plugin's answers, one for its outcome."""

from __future__ import annotations

import hashlib

import msgspec

from enhance.generators.base import Generator, Request
from enhance.model import Material


def generator_key(generator: Generator, profile: str) -> str:
    """Return the key of a generator with its model, parameters and prompts, writing for a profile."""
    return _sha256(dict(generator.key), profile)


def answer_key(generator: Generator, material: Material) -> str:
    """Return the key of all that answers depend on besides the request: the generator and the input.

    The rules are not in it: when they change, answers that are stored are judged again, not asked for again.
    """
    return _sha256(generator_key(generator, material.profile), material.input_sha256)


def cache_key(generator: Generator, material: Material, standards_sha256: str) -> str:
    """Return the key of an outcome: as long as it stays the same, a plugin is not worked on again."""
    return _sha256(answer_key(generator, material), standards_sha256)


def request_sha256(request: Request) -> str:
    """Return what identifies a request: equal ones may share one answer."""
    return _sha256(msgspec.to_builtins(request))


def _sha256(*parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()
