"""What `[enhance]` of drkit.toml may hold, and how the command line completes it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import astuple

from drkit.config import load_config
from drkit.errors import UsageError
from enhance.commands.shared import limit_of, parse_finish_by
from enhance.settings import Settings, read_settings

NOW = datetime(2026, 11, 22, 16, 30, tzinfo=UTC)
TOML = """
[enhance]
generator = "gemini"
model = "m"
profile = "marketplace"
timeout_s = 30
parameters = { temperature = 0.5 }

[enhance.pace]
delay_s = [20, 5]
rest_every = 25

[[enhance.quota]]
model = "m"
requests_per_minute = 15
tokens_per_minute = 250_000
requests_per_day = 1500
headroom = 2

[[enhance.quota]]
requests_per_day = 20
usd_per_run = 1.5
usd_per_million_tokens_in = 0.3
usd_per_million_tokens_out = 2.5
"""


def settings(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "drkit.toml"
    path.write_text(text)
    return read_settings(load_config(str(path)).enhance)


def test_everything_that_may_be_set_is_read(tmp_path: Path) -> None:
    found = settings(tmp_path, TOML)
    assert (found.generator, found.model, found.profile, found.timeout_s) == ("gemini", "m", "marketplace", 30)
    assert found.parameters == {"temperature": 0.5}
    assert (found.pace.delay_s, found.pace.rest_every, found.pace.start_s) == ((20, 5), 25, (90, 120))
    assert [one.requests_per_day for one in found.quota] == [1500, 20]


def test_without_the_table_the_defaults_hold() -> None:
    found = read_settings({})
    assert (found.generator, found.model, found.profile) == ("offline", "", "portable")
    assert found.pace.start_s == (90, 120)
    assert found.limit("p", "l", "m") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[enhance]\nmodle = 'm'", "modle"),
        ("[enhance.pace]\ndelay = [1, 2]", "delay"),
        ("[enhance.pace]\ndelay_s = [1]", "delay_s"),
        ("[enhance.pace]\ndelay_s = [-1, 2]", "pacing"),
        ("[[enhance.quota]]\nrequests_per_minut = 5", "requests_per_minut"),
        ("[[enhance.quota]]\nrequests_per_day = -5", "requests_per_day"),
        ("[[enhance.quota]]\nheadroom = 0.5", "headroom"),
        ("[enhance]\ntimeout_s = 0", "timeout_s"),
        ("[enhance]\nmodel = 3", "model"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        settings(tmp_path, text)


@pytest.mark.parametrize(
    ("asked", "day"),
    [
        (("", "", "m"), 1),
        (("p", "l", "m"), 3),
        (("p", "x", "m"), 2),
        (("x", "l", "m"), 1),
        (("p", "l", "other"), 9),
    ],
)
def test_the_table_that_names_most_holds(asked: tuple[str, str, str], day: int) -> None:
    tables: list[dict[str, Any]] = [
        {"requests_per_day": 9},
        {"model": "m", "requests_per_day": 1},
        {"model": "m", "project": "p", "location": "l", "requests_per_day": 3},
        {"model": "m", "project": "p", "requests_per_day": 2},
    ]
    limit = read_settings({"quota": tables}).limit(*asked)
    assert limit is not None
    assert (limit.requests_per_day, limit.project, limit.location, limit.model) == (day, *asked)


def test_a_project_on_vertex_is_what_google_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "from-environment")
    monkeypatch.delenv("GOOGLE_CLOUD_LOCATION", raising=False)
    assert astuple(limit_of(Settings(), "vertex", "m").key) == ("from-environment", "global", "m")
    assert astuple(limit_of(Settings(project="p", location="l"), "vertex", "m").key) == ("p", "l", "m")
    assert astuple(limit_of(Settings(), "gemini", "m").key) == ("", "", "m")


def test_a_time_to_finish_by() -> None:
    assert parse_finish_by("", NOW) is None
    assert parse_finish_by("2h", NOW) == NOW + timedelta(hours=2)
    assert parse_finish_by("2026-11-23T07:30+01:00", NOW) == datetime(2026, 11, 23, 6, 30, tzinfo=UTC)
    local = NOW.astimezone()
    for minutes, days in ((-30, 1), (30, 0)):
        then = local + timedelta(minutes=minutes)
        assert parse_finish_by(f"{then:%H:%M}", NOW) == then + timedelta(days=days)
    for wrong in ("25:00", "soon", "07:61"):
        with pytest.raises(UsageError, match="no time to finish by"):
            parse_finish_by(wrong, NOW)
