"""What `drkit status` tells of the configured stores: how far each lags behind, and what is proved of it."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drkit.inventory import Inventory
from drkit.inventory.standing import standing
from drkit.status import openmetrics, status
from tests.support.homes import STORES, Home, configured


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return configured(tmp_path)


def test_status_tells_how_each_store_stands(home: Home) -> None:
    home.copies()
    home.ok("verify", "--store", "usb", "--level", "content")
    home.backup("--no-copies")
    home.backup("--no-copies")
    repo, usb, box = home.ok("status", "--json").json["stores"]
    assert [store["name"] for store in (repo, usb, box)] == ["repo", "usb", "box"]
    assert [store["lag"] for store in (repo, usb, box)] == [0, 2, 2]
    assert all(store["lag_met"] and not store["failed"] for store in (repo, usb, box))
    assert list(usb["proved"]) == ["content", "exists"]
    assert list(box["proved"]) == ["exists"]
    assert 0 < box["lag_s"] < 600
    assert usb["snapshot"] == box["snapshot"] != repo["snapshot"]
    text = home.ok("status").text
    assert f"  usb: {home.store('usb')}\n    lacks 2 snapshots, the first taken" in text
    assert f"  repo: {home.store('repo')}\n    up to date" in text
    home.configure(f"{STORES}[copies]\nmax_lag = 1\n")
    assert "! box: " in home.ok("status").text
    assert "TOO MUCH: drkit copy --to usb" in home.ok("status").text
    metrics = home.ok("status", "--openmetrics").text
    assert 'store="box"} 2\n' in metrics.partition("drkit_store_lag_snapshots")[2]
    home.ok("copy", "--all")
    assert [store["lag"] for store in home.ok("status", "--json").json["stores"]] == [0, 0, 0]


def test_status_tells_of_damage_until_a_proof_of_that_level(home: Home) -> None:
    home.copies()
    pack = next((home.home / "usb/packs").rglob("*.zst"))
    good = pack.read_bytes()
    pack.chmod(0o600)
    pack.write_bytes(good[:12] + bytes([good[12] ^ 1]) + good[13:])  # in a frame of content
    assert home("verify", "--store", "usb").code == 20
    home.copies()
    usb = home.ok("status", "--json").json["stores"][1]
    assert usb["failed"], "that the packs exist does not outdo what was found in them"
    told = "DAMAGED: drkit repair --repo usb; drkit verify --all --store usb --level content\n"
    assert told in home.ok("status").text
    home.ok("repair", "--repo", "usb")
    home.ok("verify", "--store", "usb", "--level", "content")
    assert not home.ok("status", "--json").json["stores"][1]["failed"]


def test_status_tells_of_a_store_of_which_not_even_the_settings_are_left(home: Home) -> None:
    home.copies()
    for name in ("drkit.json", "drkit-copy.json"):
        (Path(home.store("usb")) / name).chmod(0o600)
        (Path(home.store("usb")) / name).write_text("{}")
    run = home("verify", "--all", "--store", "usb")
    assert (run.code, "drkit repair --from URL" in run.err) == (20, True)
    usb = home.ok("status", "--json").json["stores"][1]
    assert (usb["name"], usb["failed"]) == ("usb", "content")
    home.ok("repair", "--repo", "usb")
    home.ok("verify", "--all", "--store", "usb")
    assert home.ok("status", "--json").json["stores"][1]["failed"] == ""


def test_status_tells_of_a_database_that_is_none_any_more(home: Home) -> None:
    home.copies()
    box = home.home / "box.db"
    data = bytearray(box.read_bytes())
    data[30:60] = bytes(range(100, 130))  # in the middle of its header
    for file in home.home.glob("box.db*"):
        file.unlink()
    box.write_bytes(data)
    assert home("verify", "--store", "box").code == 20
    assert "move the file away" in home("repair", "--repo", "box").err
    assert home.ok("status", "--json").json["stores"][2]["failed"] == "content"
    box.unlink()
    home.ok("copy", "--to", "box", "--verify", "content")
    assert home.ok("status", "--json").json["stores"][2]["failed"] == ""


def test_status_asks_no_store(home: Home) -> None:
    home.copies()
    shutil.rmtree(home.home / "usb")
    shutil.rmtree(home.home / "repo")
    (home.home / "box.db").unlink()
    assert [store["lag"] for store in home.ok("status", "--json").json["stores"]] == [0, 0, 0]
    assert not (home.home / "box.db").exists()


def test_snapshots_that_were_forgotten_lag_nowhere(home: Home) -> None:
    home.copies()
    for _ in range(3):
        home.backup("--no-copies")
    home.ok("copy", "--to", "usb")
    home.ok("forget", "--keep-last", "1", "--repo", "usb")
    assert [store["lag"] for store in home.ok("status", "--json").json["stores"]] == [0, 0, 3]
    home.ok("forget", "--keep-last", "1")
    assert [store["lag"] for store in home.ok("status", "--json").json["stores"]] == [0, 0, 1]


def test_nothing_is_known_of_a_store_that_never_had_a_copy(home: Home) -> None:
    home.backup("--no-copies")
    with Inventory.open(os.fsencode(home.home / "data/drkit/inventory.db"), now=lambda: datetime.now(UTC)) as inventory:
        repository = inventory.snapshots()[0].repository
        known = standing(inventory.engine, repository, home.store("usb"))
        assert (known.snapshot, known.behind, known.proved, known.failed) == (None, 1, {}, "")
        later = datetime.now(UTC) + timedelta(days=2)
        stores = {"repo": home.store("repo"), "usb": home.store("usb")}
        report = status(inventory, now=later, rpo_s=1e9, stores=stores)
        assert [store.lag_met for store in report.stores] == [True, False], "a day is what it may lack by default"
        assert not report.ok
        assert openmetrics(report).count("drkit_store_ok{") == 2
        assert status(inventory, now=later, rpo_s=1e9, stores={"x": "/elsewhere"}).stores == ()
