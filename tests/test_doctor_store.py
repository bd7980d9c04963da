"""Doctor tries what a store can do: a good one has no finding, and each lie is found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drkit.clock import utc_now
from drkit.doctor import examine_store
from drkit.errors import StoreError
from drkit.store.base import ObjectInfo
from drkit.store.memory import MemoryStore
from tests.support.cli import Cli
from tests.support.examining import beside_its_source


class LyingStore(MemoryStore):
    """A store that does one thing wrong."""

    def __init__(self, lie: str) -> None:
        super().__init__()
        self.lie = lie

    def put(self, name: str, data: Any, *, overwrite: bool = False) -> None:
        if self.lie == "refuses":
            raise StoreError("the store refuses to write")
        super().put(name, data, overwrite=overwrite or self.lie == "overwrites")

    def get(self, name: str) -> bytes:
        data = super().get(name)
        return data[:-1] + b"x" if self.lie == "changes" else data

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return super().get_range(name, 0 if self.lie == "ignores ranges" else offset, length)

    def stat(self, name: str) -> ObjectInfo:
        info = super().stat(name)
        return ObjectInfo(name, info.size, info.modified + 3600) if self.lie == "other clock" else info

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        return iter(()) if self.lie == "lists late" else super().list(prefix, after=after)

    def delete(self, name: str) -> None:
        if self.lie != "keeps":
            super().delete(name)


@pytest.mark.parametrize(
    ("lie", "code", "exit_code"),
    [
        ("refuses", "store-not-writable", 13),
        ("overwrites", "store-overwrites", 3),
        ("changes", "store-broken", 20),
        ("ignores ranges", "store-broken", 20),
        ("lists late", "store-broken", 20),
        ("keeps", "store-broken", 20),
        ("other clock", "clock-differs", 3),
    ],
)
def test_a_store_that_lies(lie: str, code: str, exit_code: int) -> None:
    report = examine_store(LyingStore(lie), now=utc_now)
    assert code in {finding.code for finding in report.findings}
    assert report.exit == exit_code
    assert not report.ok


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return beside_its_source(tmp_path)


def test_a_good_store_has_no_finding(cli: Cli) -> None:
    assert examine_store(MemoryStore(), now=utc_now).findings == ()
    run = cli("doctor", "--store", "repository", "--json")
    answer = run.json
    abilities = answer.pop("abilities")
    assert answer == {"ok": True, "checks": ["store"], "findings": [], "rule": []}
    assert {one["name"] for one in abilities} > {"create", "ranges", "lists", "delete"}
    assert all(one["ok"] and one["says"] for one in abilities)
    assert "yes  conditional create: of several writers" in cli("doctor", "--store", "repository").text
    assert run.code == 0
    assert cli("doctor", "--store", "nowhere").code == 13
