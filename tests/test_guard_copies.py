"""A policy that asks for more than one store: no permit before the snapshot is copied there, and proved there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from drkit.clock import utc_now
from drkit.errors import GuardRefused, StoreError, StoreUnavailable
from drkit.guard import Elsewhere, Policy, Site, protect
from drkit.guard.check import check
from drkit.guard.exec import Task, execute
from drkit.model import Level
from drkit.repo import Repository
from drkit.store import MemoryStore, Store
from drkit.store.wrap import ReadOnly, Wrapped
from enhance.generators import GENERATORS
from tests.support.cli import Cli
from tests.support.enhancing import Market, Scripted
from tests.support.guarding import Guarded, state_dir

__all__ = ["state_dir"]

P = b"plugins/one"


class Flips(Wrapped):
    """A store that flips a bit of what it is given of packs, and gives back what it was given the first times."""

    def __init__(self, inner: Store, honest: int) -> None:
        super().__init__(inner)
        self.honest = honest

    def get(self, name: str) -> bytes:
        data = self.inner.get(name)
        self.honest -= name.startswith("packs/")
        return data if self.honest >= 0 else _flipped(name, data)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return _flipped(name, self.inner.get_range(name, offset, length))


def _flipped(name: str, data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:] if name.startswith("packs/") else data


class Scene:
    """A source, and stores by name that are opened on demand."""

    def __init__(self, root: Path) -> None:
        self.guarded = Guarded(root)
        self.guarded.plugin("plugins/one", {"README.md": b"one"})
        self.guarded.plugin("plugins/two", {"README.md": b"two"})
        self.stores: dict[str, Store] = {}
        self.opened: list[str] = []

    def site(self, *names: str) -> Site:
        for name in names:
            self.stores.setdefault(name, MemoryStore(name))
        others = tuple(Elsewhere(name, f"{name}:", self.opening(name)) for name in names)
        return self.guarded.site(others=others)

    def opening(self, name: str) -> Callable[[], Store]:
        def opened() -> Store:
            self.opened.append(name)
            store = self.stores[name]
            if store is GONE:
                raise StoreUnavailable(f"{name} gives no answer")
            return store

        return opened

    def edit(self, site: Site, policy: Policy | None = None) -> str:
        """Edit the plugin; return the snapshot of the permit."""
        with protect(P, site, policy) as permit:
            permit.write(b"README.md", permit.read(b"README.md") + b"!")
        return permit.snapshot

    def text(self) -> bytes:
        return (self.guarded.source / "plugins/one/README.md").read_bytes()

    def held(self, name: str) -> list[str]:
        return [ref.id for ref in Repository.open(self.stores[name]).snapshots()]


GONE = MemoryStore("gone")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def proofs(site: Site) -> list[tuple[str, str, bytes | None]]:
    return sorted((row.store, row.level, row.plugin) for row in site.inventory.verifications())


def test_the_snapshot_is_in_every_store_before_there_is_a_permit(scene: Scene) -> None:
    site = scene.site("usb", "cloud")
    with protect(P, site, Policy(copies=3)) as permit:
        for name in ("usb", "cloud"):
            assert scene.held(name) == [permit.snapshot]
        assert proofs(site) == sorted((url, "restore", P) for url in (site.store_url, "usb:", "cloud:"))
    packs = {pack.hex() for pack in site.repo.load_index(fresh=True).index.packs}
    for name in ("usb", "cloud"):
        assert site.inventory.known_packs(site.repo.config.repository_id, f"{name}:") == packs


def test_only_as_many_stores_as_are_asked_for_are_opened(scene: Scene) -> None:
    site = scene.site("usb", "cloud")
    scene.edit(site)
    assert scene.opened == []
    scene.edit(site, Policy(copies=2))
    assert scene.opened == ["usb"]
    scene.edit(site, Policy(stores=("cloud",)))
    assert scene.opened == ["usb", "cloud"]
    scene.edit(site, Policy(copies=2, stores=("cloud:", site.store_url)))
    assert scene.opened == ["usb", "cloud", "cloud"]
    assert scene.text() == b"one!!!!"


def test_another_store_stands_for_one_that_fails_but_not_for_one_that_is_named(scene: Scene) -> None:
    site = scene.site("usb", "cloud")
    scene.stores["usb"] = GONE
    scene.edit(site, Policy(copies=2))
    assert (scene.text(), len(scene.held("cloud"))) == (b"one!", 1)
    for policy in (Policy(copies=3), Policy(stores=("usb",)), Policy(copies=2, stores=("usb", "cloud"))):
        with pytest.raises(GuardRefused, match="usb: usb gives no answer"):
            scene.edit(site, policy)
    assert scene.text() == b"one!"


@pytest.mark.parametrize(
    ("level", "honest"),
    [(Level.PACKS, 0), (Level.PACKS, 1), (Level.CONTENT, 0), (Level.RESTORE, 1), (Level.RESTORE, 100)],
)
def test_a_store_that_gives_back_something_else_is_no_proof(scene: Scene, level: Level, honest: int) -> None:
    """Whether that shows at the copy, or only when the plugin is brought back."""
    scene.stores["usb"] = Flips(MemoryStore("usb"), honest)
    site = scene.site("usb")
    with pytest.raises(GuardRefused, match="not proved in as many stores"):
        scene.edit(site, Policy(level=level, copies=2))
    assert scene.text() == b"one"


def test_a_store_that_refuses_is_no_proof(scene: Scene) -> None:
    site = scene.site("usb")
    scene.stores["usb"] = ReadOnly(MemoryStore("usb"))
    with pytest.raises(GuardRefused, match="read-only"):
        scene.edit(site, Policy(copies=2))
    Repository.create(other := MemoryStore("usb"), now=utc_now())
    scene.stores["usb"] = other
    with pytest.raises(GuardRefused, match="another repository"):
        scene.edit(site, Policy(copies=2))
    assert list(other.list("snapshots/")) == []
    assert scene.text() == b"one"


def test_a_store_that_had_copies_and_is_empty_is_not_filled_unasked(scene: Scene) -> None:
    """The directory of a disk that is not mounted would be a second place on the first disk."""
    site = scene.site("usb")
    scene.edit(site, Policy(copies=2))
    scene.stores["usb"] = MemoryStore("usb")
    with pytest.raises(GuardRefused, match="no repository in usb: any more"):
        scene.edit(site, Policy(copies=2))
    reasons = check(site, "plugins/one", Policy(copies=2)).reasons
    assert [reason for reason in reasons if "no repository in usb: any more" in reason] == list(reasons)
    assert list(scene.stores["usb"].list("")) == []
    assert scene.text() == b"one!"


def test_a_prune_there_is_no_proof(scene: Scene) -> None:
    site = scene.site("usb")
    scene.edit(site, Policy(copies=2))
    scene.stores["usb"].put("locks/prune-0123456789abcdef", b"{}")
    with pytest.raises(GuardRefused, match="a prune is working"):
        scene.edit(site, Policy(copies=2))


def test_what_was_proved_there_lately_is_not_copied_again(scene: Scene) -> None:
    site = scene.site("usb")
    policy = Policy(copies=2, max_age_s=3600)
    for _ in range(2):
        with protect(P, site, policy):
            pass
    assert len(scene.held("usb")) == 1
    assert len(proofs(site)) == 2
    scene.edit(site, policy)
    assert len(scene.held("usb")) == 1
    with protect(P, site, policy):
        assert len(scene.held("usb")) == 4  # those that were not needed went with the one that was
    scene.stores["usb"] = MemoryStore("usb")  # what was proved is not there any more
    with pytest.raises(GuardRefused, match="no repository in usb: any more"), protect(P, site, policy):
        pass


def test_a_command_waits_for_the_copies_too(scene: Scene) -> None:
    site = scene.site("usb")
    site.policy = Policy(copies=2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        task = Task(("plugins/one",), ("sh", "-c", f"echo new > {scene.guarded.source}/plugins/one/new"), null)
        report = execute(site, task)
        assert report.passed
        assert report.snapshot in scene.held("usb")
        scene.stores["usb"] = GONE
        with pytest.raises(GuardRefused, match="gives no answer"):
            execute(site, task)
    finally:
        os.close(null)
    assert {level for store, level, _ in proofs(site) if store == "usb:"} == {"content", "restore"}


def test_a_check_looks_at_the_stores_and_writes_nothing(scene: Scene) -> None:
    site = scene.site("usb", "cloud")
    assert check(site, "plugins/one", Policy(copies=3)).permitted
    assert list(scene.stores["usb"].list("")) == []
    scene.stores["usb"] = GONE
    assert check(site, "plugins/one", Policy(copies=2)).permitted
    for policy in (Policy(copies=3), Policy(stores=("usb",))):
        report = check(site, "plugins/one", policy)
        assert (report.permitted, report.reasons) == (False, ("usb: usb gives no answer",))


def test_more_copies_than_there_are_stores(scene: Scene) -> None:
    site = scene.site("usb")
    for policy in (Policy(copies=3), Policy(stores=("elsewhere",))):
        with pytest.raises(GuardRefused, match="the rule asks for"), protect(P, site, policy):
            pytest.fail("a permit with fewer copies than were asked for")
        assert not check(site, "plugins/one", policy).permitted
    assert site.repo.snapshots() == []


def test_a_store_that_fails_in_the_middle_leaves_everything_as_it_was(scene: Scene) -> None:
    class Full(MemoryStore):
        def put(self, name: str, data: bytes | bytearray | memoryview, *, overwrite: bool = False) -> None:
            if name.startswith("snapshots/"):
                raise StoreError("the quota is used up")
            super().put(name, data, overwrite=overwrite)

    site = scene.site("usb")
    scene.stores["usb"] = Full("usb")
    before = scene.guarded.describe()
    with pytest.raises(GuardRefused, match="the quota is used up"):
        scene.edit(site, Policy(copies=2))
    assert scene.guarded.describe() == before


def test_the_rule_of_the_configuration_holds_for_commands(tmp_path: Path) -> None:
    cli = Cli(tmp_path, DRKIT_INVENTORY="inventory.db")
    (tmp_path / "source/a/.claude-plugin").mkdir(parents=True)
    (tmp_path / "source/a/.claude-plugin/plugin.json").write_text('{"name": "a"}')
    rule = 'repo = "home"\n[stores.usb]\nurl = "usb"\n[guard]\ncopies = 2\nstores = ["usb"]\n'
    (tmp_path / "drkit.toml").write_text(rule)
    cli.ok("init")
    edit = ("guard", "exec", "a", "--source", "source", "--", "touch", str(tmp_path / "source/a/new"))
    before = cli.ok("--json", *edit).json["snapshot"]
    assert before in {one["id"] for one in cli.ok("--json", "--repo", "usb", "snapshots").json["snapshots"]}
    assert (tmp_path / "source/a/new").exists()
    (tmp_path / "usb").rename(tmp_path / "unplugged")
    cli.ok("--repo", str(tmp_path / "usb"), "init")
    refused = cli(*edit)
    assert (refused.code, "holds another repository" in refused.err) == (30, True)
    check = cli("--json", "guard", "check", "a", "--source", "source")
    assert (check.code, check.json["reasons"][0].startswith("usb: ")) == (30, True)
    (tmp_path / "drkit.toml").write_text(rule.replace("2", "3"))
    assert cli("guard", "check", "a", "--source", "source").code == 2


def test_the_rule_holds_for_enhancement_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Scripted()
    monkeypatch.setitem(GENERATORS, "scripted", lambda _options: generator)
    market = Market(tmp_path, "alpha", "beta")
    cli = Cli(tmp_path, DRKIT_INVENTORY="inventory.db", DRKIT_STATE_DIR=str(tmp_path / "state"))
    (tmp_path / "drkit.toml").write_text(
        'repo = "home"\n[stores.usb]\nurl = "usb"\n[guard]\ncopies = 2\n'
        '[enhance]\ngenerator = "scripted"\nmodel = "m1"\n[enhance.pace]\ndelay_s = [0, 0]\nstart_s = [0, 0]\n'
    )
    cli.ok("init")
    assert cli("--json", "enhance", "run", str(market.source)).json["files_changed"]
    query = "SELECT DISTINCT store FROM verifications WHERE plugin IS NOT NULL ORDER BY store"
    rows = cli.ok("--json", "inventory", "sql", query).json["rows"]
    assert [Path(store).name for (store,) in rows] == ["home", "usb"]
