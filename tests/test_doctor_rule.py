"""The 3-2-1-1-0 rule: each of the five can fail by itself, and holds where it is kept."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from drkit.clock import utc_now
from drkit.copy import copy
from drkit.doctor import Place, RuleCheck, Surroundings, Targets, examine
from drkit.errors import RepositoryNotFound, StoreError, StoreUnavailable
from drkit.inventory import DrillRecord, Inventory
from drkit.progress import NullProgress
from drkit.repo import Repository
from drkit.store import MemoryStore, Store
from drkit.store.wrap import AppendOnly, ReadOnly
from tests.support.cli import Cli
from tests.support.hrana import TOKEN, serving
from tests.support.recording import record_verification
from tests.support.restoring import back_up

HOST = socket.gethostname()
NAMES = ("3 copies", "2 kinds of store", "1 off-site", "1 append-only or immutable", "0 errors")


class Locked(MemoryStore):
    """A store that refuses these credentials to delete anything but locks, as a policy of a bucket does."""

    def delete(self, name: str) -> None:
        if not name.startswith("locks/"):
            raise StoreError(f"{name} may not be deleted")
        super().delete(name)


class Scene:
    """A source, a repository in memory, a copy in a cloud that keeps everything; all of it verified."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.source = home / "source"
        self.source.mkdir()
        (self.source / "file").write_text("content")
        self.own: Store = MemoryStore("own")
        self.there: Store = Locked("there")
        self.targets = Targets()
        self.later = timedelta(0)
        self.first = Place("own", "local", away=False, append_only=False, immutable=False, open=self._open_own)
        self.second = Place("cloud", "cloud", away=True, append_only=True, immutable=False, open=self._open_there)
        self.inventory = Inventory.open(os.fsencode(home / "inventory.db"), now=utc_now)
        back_up(self.source, Repository.create(self.own, now=utc_now()))
        self.copy()
        for store in (self.own, self.there):
            self.verified(store)

    def _open_own(self) -> Repository:
        return Repository.open(self.own)

    def _open_there(self) -> Repository:
        return Repository.open(self.there)

    def copy(self) -> None:
        copy(Repository.open(self.own), self.there, progress=NullProgress(), now=utc_now)

    def back_up(self) -> None:
        back_up(self.source, Repository.open(self.own))

    def verified(self, store: Store, level: str = "content", *, ok: bool = True) -> None:
        repo = Repository.open(self.own)
        snapshot = repo.resolve("latest").id
        ids = {"repo_id": repo.config.repository_id, "store_url": store.url}
        record_verification(self.inventory, snapshot, level, ok=ok, findings=0 if ok else 2, **ids)

    def examine(self, *places: Place) -> tuple[dict[str, RuleCheck], dict[str, int]]:
        """Return the five by name, and the exit codes of the findings by code."""
        report = examine(
            self.own,
            lambda: self.inventory,
            around=Surroundings(HOST),
            now=lambda: utc_now() + self.later,
            targets=self.targets,
            places=places or (self.first, self.second),
        )
        assert tuple(check.name for check in report.rule) == NAMES
        for check in report.rule:
            assert check.evidence
            assert check.ok or check.repair
        return {check.name: check for check in report.rule}, {one.code: one.exit for one in report.findings}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def broken(scene: Scene, *places: Place) -> list[str]:
    """Return what does not hold."""
    rule, findings = scene.examine(*places)
    assert len([code for code in findings if code.startswith("rule-")]) == sum(not check.ok for check in rule.values())
    return [check.name for check in rule.values() if not check.ok]


def test_a_rule_that_is_kept_is_no_finding(scene: Scene) -> None:
    rule, findings = scene.examine()
    assert all(check.ok for check in rule.values())
    assert not [code for code in findings if code.startswith(("rule-", "copy-"))]
    assert rule["3 copies"].evidence == f"3 of 3: the source {scene.source}, own, cloud"
    assert rule["2 kinds of store"].evidence == "local: own; cloud: cloud"
    assert rule["1 off-site"].evidence == "cloud"
    assert rule["1 append-only or immutable"].evidence == "cloud refused to delete"
    assert rule["0 errors"].evidence.startswith("own was verified at level content ")
    assert list(scene.own.list("quarantine/")) == []


def change(scene: Scene, **what: object) -> None:
    from msgspec import structs

    scene.second = structs.replace(scene.second, **what)


def unlock(scene: Scene) -> None:
    """Let the store delete, with drkit's own promise around it."""
    bare = MemoryStore("there")
    copy(Repository.open(scene.own), bare, progress=NullProgress(), now=utc_now)
    scene.there = AppendOnly(bare)


def remove_source(scene: Scene) -> None:
    scene.source.rename(scene.home / "gone")


def later(scene: Scene) -> None:
    scene.later = timedelta(days=8)
    scene.targets = Targets(rpo=timedelta(days=30))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (remove_source, ["3 copies"]),
        (lambda scene: change(scene, medium="local"), ["2 kinds of store"]),
        (lambda scene: change(scene, away=False), ["1 off-site"]),
        (lambda scene: change(scene, append_only=False), ["1 append-only or immutable"]),
        (unlock, ["1 append-only or immutable"]),
        (lambda scene: setattr(scene, "there", ReadOnly(scene.there)), ["1 append-only or immutable"]),
        (lambda scene: scene.verified(scene.there, ok=False), ["0 errors"]),
        (lambda scene: scene.verified(scene.own, "exists", ok=False), ["0 errors"]),
        (later, ["0 errors"]),
    ],
)
def test_each_fails_by_itself(scene: Scene, spoil: Callable[[Scene], object], expected: list[str]) -> None:
    spoil(scene)
    assert broken(scene) == expected


def test_what_is_said_to_be_immutable_counts(scene: Scene) -> None:
    unlock(scene)
    change(scene, immutable=True)
    rule, _ = scene.examine()
    assert rule["1 append-only or immutable"].evidence == "cloud is immutable, as drkit.toml says"


def test_that_a_store_keeps_everything_is_tried_and_leaves_at_most_one_object(scene: Scene) -> None:
    for _ in range(2):
        scene.examine()
    assert [info.name for info in scene.there.list("quarantine/")] == ["quarantine/append-only-probe"]
    unlock(scene)
    rule, _ = scene.examine()
    assert "by drkit's word only" in rule["1 append-only or immutable"].evidence
    assert list(scene.there.list("quarantine/")) == []


def test_a_copy_that_lies_behind_counts_within_the_rpo(scene: Scene) -> None:
    scene.back_up()
    assert broken(scene) == []
    scene.targets = Targets(rpo=timedelta(0))
    rule, findings = scene.examine()
    assert not any(rule[name].ok for name in NAMES[:4])
    assert "not cloud, which is" in rule["3 copies"].evidence
    assert findings["copy-behind"] == 3
    scene.copy()
    assert broken(scene) == []


def test_a_verification_that_failed_is_damage_until_one_is_good(scene: Scene) -> None:
    scene.verified(scene.there, ok=False)
    rule, findings = scene.examine()
    assert "cloud failed its verification" in rule["0 errors"].evidence
    assert rule["0 errors"].repair == "drkit --repo cloud verify --level content"
    assert findings["rule-errors"] == 20
    scene.verified(scene.there, "exists")  # does not read what was damaged
    assert broken(scene) == ["0 errors"]
    scene.verified(scene.there)
    assert broken(scene) == []


def test_a_drill_of_everything_has_read_it(scene: Scene) -> None:
    scene.verified(scene.there, ok=False)
    assert broken(scene) == ["0 errors"]
    repo = Repository.open(scene.own)
    ids = (repo.config.repository_id, scene.there.url, str(repo.resolve("latest").id))

    def drill(plugin: bytes | None, *, passed: bool) -> None:
        times = (0.1, 0.1, 0.1, 0.2, 300.0, 60.0)
        scene.inventory.record_drill(DrillRecord(*ids, plugin, "drkit", *times, 10, 1, passed, "" if passed else "x"))

    for plugin, passed in ((b"a", True), (None, False)):
        drill(plugin, passed=passed)
        assert broken(scene) == ["0 errors"]
    drill(None, passed=True)
    rule, _ = scene.examine()
    assert "cloud was brought back whole" in rule["0 errors"].evidence
    scene.verified(scene.there, "packs", ok=False)
    assert broken(scene) == ["0 errors"]


def test_what_was_never_read_is_not_without_errors(scene: Scene) -> None:
    third = MemoryStore("third")
    copy(Repository.open(scene.own), third, progress=NullProgress(), now=utc_now)
    place = Place("third", "cloud", True, False, False, lambda: Repository.open(third))
    assert broken(scene, scene.first, scene.second, place) == ["0 errors"]
    scene.verified(third, "exists")
    assert broken(scene, scene.first, scene.second, place) == ["0 errors"]
    scene.verified(third, "packs")
    assert broken(scene, scene.first, scene.second, place) == []


def test_a_store_that_is_not_there_does_not_count(scene: Scene) -> None:
    def gone() -> Repository:
        raise StoreUnavailable("there.example gives no answer")

    change(scene, open=gone)
    rule, findings = scene.examine()
    assert not any(rule[name].ok for name in NAMES[:4])
    assert "not cloud: there.example gives no answer" in rule["3 copies"].evidence
    assert findings["copy-unreadable"] == 3
    assert rule["0 errors"].ok  # of what there is

    def empty() -> Repository:
        raise RepositoryNotFound("nothing there")

    change(scene, open=empty)
    assert scene.examine()[1]["copy-unreadable"] == 3


def test_another_repository_does_not_count(scene: Scene) -> None:
    other = Repository.create(MemoryStore("there"), now=utc_now())
    change(scene, open=lambda: other)
    assert scene.examine()[1]["copy-foreign"] == 3
    assert "3 copies" in broken(scene)


def test_a_copy_that_lost_a_pack_is_damage(scene: Scene) -> None:
    damaged = MemoryStore("there")
    copy(Repository.open(scene.own), damaged, progress=NullProgress(), now=utc_now)
    damaged.delete(next(damaged.list("packs/")).name)
    scene.there = damaged
    assert scene.examine()[1]["pack-missing"] == 20


def test_directories_on_one_device_are_one_copy(tmp_path: Path) -> None:
    cli = Cli(tmp_path, DRKIT_INVENTORY="inventory.db")
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("content")
    (tmp_path / "drkit.toml").write_text('repo = "one"\n[stores.two]\nurl = "two"\n[stores.three]\nurl = "three"\n')
    cli.ok("init")
    cli.ok("backup", "source", "--no-copies")
    for name in ("two", "three"):
        cli.ok("copy", "--to", str(tmp_path / name))
    rule = {check["name"]: check for check in cli("doctor", "--json").json["rule"]}
    assert rule["3 copies"]["ok"] is False
    assert rule["3 copies"]["evidence"].startswith("1 of 3: ")
    assert rule["3 copies"]["evidence"].count("on the same device") == 3
    assert rule["2 kinds of store"]["ok"] is False


def test_a_rule_that_is_kept_by_real_stores(tmp_path: Path) -> None:
    """The stores of drkit.toml, one of them behind a server."""
    with serving(tmp_path / "turso.db") as server:
        cli = Cli(tmp_path, DRKIT_INVENTORY="inventory.db", TURSO_AUTH_TOKEN=TOKEN)
        (tmp_path / "source").mkdir()
        (tmp_path / "source/file").write_text("content")
        url = server.url.replace("http:", "turso+http:")
        (tmp_path / "drkit.toml").write_text(
            f'repo = "one"\n[stores.berlin]\nurl = "{url}"\noffsite = true\nimmutable = true\n'
        )
        cli.ok("init")
        cli.ok("backup", "source", "--no-copies")
        behind = cli("doctor", "--json").json
        assert "copy-unreadable" in {finding["code"] for finding in behind["findings"]}
        cli.ok("copy", "--to", url, "--verify", "content")
        cli.ok("verify", "--level", "content")
        rule = {check["name"]: check for check in cli("doctor", "--json").json["rule"]}
        assert [name for name, check in rule.items() if not check["ok"]] == ["3 copies"]  # one disk for all of a test
        assert rule["3 copies"]["evidence"].startswith("2 of 3: ")
        assert rule["1 off-site"]["evidence"] == "berlin"
        text = cli("doctor").text
        assert "yes  2 kinds of store: local: " in text
        assert "no   3 copies\n" in text


def test_without_a_second_store_it_is_advice(scene: Scene) -> None:
    _, findings = scene.examine(scene.first)
    assert {findings[code] for code in ("rule-copies", "rule-kinds", "rule-offsite", "rule-append-only")} == {0}


def test_of_several_sources_the_worst_is_told(scene: Scene) -> None:
    second = scene.home / "second"
    second.mkdir()
    (second / "file").write_text("content")
    repo = Repository.open(scene.own)
    back_up(second, repo)
    rule, _ = scene.examine()
    assert rule["3 copies"].evidence.startswith(f"{second}: 2 of 3: ")
    scene.copy()
    assert broken(scene) == []


def test_a_repository_that_is_gone_comes_back_from_the_stores_that_are_left(tmp_path: Path) -> None:
    cli = Cli(tmp_path, DRKIT_INVENTORY="inventory.db")
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("content")
    (tmp_path / "drkit.toml").write_text('repo = "one"\n[stores.two]\nurl = "two"\n')
    cli.ok("init")
    cli.ok("backup", "source")
    (tmp_path / "one").rename(tmp_path / "gone")
    run = cli("doctor", "--json")
    (finding,) = [one for one in run.json["findings"] if one["code"] == "repository-unreadable"]
    assert (run.code, finding["repair"]) == (
        10,
        "'drkit repair' brings it back from what the other stores hold (two)",
    )
    cli.ok("repair")
    cli.ok("verify", "--all", "--level", "content")
    cli.ok("drill", "--all-stores", "--full")
