"""Spans of time as people write them."""

from __future__ import annotations

import pytest

from drkit.errors import UsageError
from drkit.timespan import parse_span


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("24h", 86_400), ("7d", 604_800), ("2w", 1_209_600), ("1h30m", 5_400), ("0.5s", 0.5)],
)
def test_spans(text: str, seconds: float) -> None:
    assert parse_span(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "-5m", "5x", "0s", "5m!", "1e3s", "٣m", "99999999999s"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="is no span of time") as error:
        parse_span(text)
    assert "for instance" in error.value.hint
