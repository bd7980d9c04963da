"""protect(): what it proves before it permits, and what it writes when the block has ended."""

from __future__ import annotations

import os
import sqlite3
from typing import Any

import pytest

from drkit.backup.live import InUse
from drkit.errors import DrkitError, GuardRefused, ProposalRejected, UsageError
from drkit.guard import (
    Change,
    EditPermit,
    Policy,
    StagedPlugin,
    differences,
    find_snapshot,
    in_use_paths,
    protect,
    recover,
    take_snapshot,
)
from drkit.model import Level
from tests.support.faults import FaultyStore
from tests.support.guarding import Guarded, P, guarded, state_dir

__all__ = ["guarded", "state_dir"]


class TestEnter:
    def test_the_proof_is_made_and_recorded(self, guarded: Guarded) -> None:
        site = guarded.site()
        with protect(P, site, tags=("enhance",)) as permit:
            snapshot = site.repo.load(find_snapshot(site, permit.snapshot))
            row = site.repo.plugin(snapshot, "plugins/one")
            assert permit.tree_sha256 == row.tree_sha256
            assert snapshot.tags == ("enhance",)
            assert snapshot.scope == "whole"
            assert snapshot.plugins == 3
        (proof,) = site.inventory.verifications()
        assert (proof.level, proof.ok, proof.snapshot, proof.plugin) == ("restore", True, permit.snapshot, P)
        (recorded,) = site.inventory.snapshots()
        assert recorded.snapshot == permit.snapshot
        assert recorded.bytes_added is not None
        assert site.inventory.witness(site.repo.config.repository_id, permit.snapshot) is not None
        # A night takes hundreds of snapshots that differ in one plugin: their rows are left to a rebuild.
        lacking = site.inventory.without_plugins(site.repo.config.repository_id)
        assert [record.snapshot for record in lacking] == [permit.snapshot]

    @pytest.mark.parametrize("path", [b"plugins/none", b"plugins", b"one", b"plugins/one/skills", b"../source"])
    def test_what_is_no_plugin_gets_no_permit(self, guarded: Guarded, path: bytes) -> None:
        with pytest.raises(GuardRefused), protect(path, guarded.site()):
            pytest.fail("a permit for what is no plugin")

    def test_a_plugin_behind_a_link_gets_none(self, guarded: Guarded) -> None:
        os.symlink("plugins", guarded.source / "alias")
        with pytest.raises(GuardRefused, match="link"), protect(b"alias/one", guarded.site()):
            pytest.fail("a permit through a link")

    def test_a_live_database_gets_none(self, guarded: Guarded) -> None:
        database = sqlite3.connect(guarded.source / "plugins/one/data.db")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE t (x)")
        database.commit()
        try:
            with pytest.raises(GuardRefused, match=r"in use \(plugins/one/data.db\)"), protect(P, guarded.site()):
                pytest.fail("a permit although a database is in use")
            with protect(b"plugins/two", guarded.site()) as permit:  # the neighbours do not mind
                permit.write(b"README.md", b"changed")
        finally:
            database.close()

    def test_the_inventory_in_use_is_such_a_database(self, guarded: Guarded) -> None:
        guarded.inventory_path = guarded.source / "plugins/one/inventory.db"
        site = guarded.site()
        site.in_use = (InUse(bytes(guarded.inventory_path), site.inventory.copy_to),)
        with pytest.raises(GuardRefused, match="in use"), protect(P, site):
            pytest.fail("a permit although the inventory is in there")
        with protect(b"plugins/two", site) as permit:
            permit.write(b"README.md", b"changed")
        after = find_snapshot(site, take_snapshot(site).snapshot)
        before = find_snapshot(site, permit.snapshot)
        names = [one.path for one in differences(site.repo, before, after)]
        assert names == [P + b"/inventory.db", b"plugins/two/README.md"]
        names = [one.path for one in differences(site.repo, before, after, spare=in_use_paths(site))]
        assert names == [b"plugins/two/README.md"]

    def test_a_file_that_changes_while_the_snapshot_is_taken(self, guarded: Guarded) -> None:
        site = guarded.site()
        take = site.now

        def now() -> Any:
            with open(guarded.source / "plugins/one/README.md", "ab") as file:
                file.write(b"x")
            return take()

        site.now = now
        with pytest.raises(GuardRefused, match="is not what the snapshot"), protect(P, site):
            pytest.fail("a permit although the plugin changes")

    @pytest.mark.parametrize("level", list(Level))
    def test_a_damaged_pack_is_found(self, guarded: Guarded, level: Level) -> None:
        site = guarded.site()
        take_snapshot(site)
        for pack in (guarded.root / "repo/packs").rglob("*"):
            if pack.is_file():
                pack.chmod(0o600)
                data = bytearray(pack.read_bytes())
                data[10] ^= 1
                pack.write_bytes(data)
        site = guarded.site()
        if level == Level.EXISTS:
            with protect(P, site, Policy(level=level)):
                return  # it reads no pack
        with pytest.raises(GuardRefused, match="could not be brought back"), protect(P, site, Policy(level=level)):
            pytest.fail("a permit although nothing can be restored")

    def test_a_store_that_fails_gives_none(self, guarded: Guarded) -> None:
        site = guarded.site()
        with FaultyStore(site.repo.store) as store:
            site.repo.store = store
            store.corrupt("get_range", prefix="packs/", times=None, at=-1)
            with pytest.raises(DrkitError), protect(P, site):
                pytest.fail("a permit although the store gives other bytes")

    def test_a_lower_level_is_recorded_as_such(self, guarded: Guarded) -> None:
        site = guarded.site()
        with protect(P, site, Policy(level=Level.CONTENT)) as permit:
            permit.write(b"README.md", b"new")
        assert [one.level for one in site.inventory.verifications()] == ["content"]

    def test_a_young_proof_of_the_same_content_will_do(self, guarded: Guarded) -> None:
        site = guarded.site()
        policy = Policy(max_age_s=3600)
        for _ in range(2):
            with protect(P, site, policy) as permit:
                assert not permit.changes
        assert len(site.inventory.verifications()) == 1
        (guarded.source / "plugins/one/README.md").write_bytes(b"other")
        with protect(P, site, policy) as permit:
            assert permit.read(b"README.md") == b"other"
        assert len(site.inventory.verifications()) == 2
        with protect(P, site, Policy(max_age_s=0)):
            pass
        assert len(site.inventory.verifications()) == 3

    @pytest.mark.parametrize("policy", [Policy(copies=2), Policy(stores=("s3://bucket",))])
    def test_stores_that_are_not_there(self, guarded: Guarded, policy: Policy) -> None:
        with pytest.raises(GuardRefused), protect(P, guarded.site(), policy):
            pytest.fail("a permit with fewer copies than were asked for")

    def test_nobody_else_makes_a_permit(self, guarded: Guarded) -> None:
        with pytest.raises(TypeError):
            EditPermit(P, "", "", None, None)  # type: ignore[arg-type]


class TestLeave:
    def test_the_changes_are_told_and_are_the_difference(self, guarded: Guarded) -> None:
        site = guarded.site()
        with protect(P, site) as permit:
            permit.write(b"README.md", b"new")
            permit.write(b"inner/new/x", b"x", mode=0o755)
            permit.move(b"skills/a", b"skills/b")
            permit.write(b"skills/b/ref.md", b"ref", mode=0o600)
            permit.write(b"skills/b/SKILL.md", b"a")
            assert permit.read(b"README.md") == b"new"
            assert permit.read(b"skills/b/SKILL.md") == b"a"
            assert not permit.changes
            assert (guarded.source / "plugins/one/README.md").read_bytes() == b"one"  # nothing is written yet
        assert [(one.path, one.kind) for one in permit.changes] == [
            (P + b"/README.md", "modified"),
            (P + b"/inner/new/x", "added"),
            (P + b"/skills/a/SKILL.md", "removed"),
            (P + b"/skills/a/ref.md", "removed"),
            (P + b"/skills/b/SKILL.md", "added"),
            (P + b"/skills/b/ref.md", "added"),
        ]
        assert (guarded.source / "plugins/one/inner/new/x").stat().st_mode & 0o777 == 0o755
        before, after = find_snapshot(site, permit.snapshot), find_snapshot(site, take_snapshot(site).snapshot)
        found = differences(site.repo, before, after)
        assert [(one.path, one.kind) for one in found] == [(one.path, one.kind) for one in permit.changes]
        assert site.inventory.audit()[1].event == "edit"  # the newest is the last snapshot
        assert differences(site.repo, after, after) == []

    def test_nothing_staged_changes_nothing(self, guarded: Guarded) -> None:
        before = guarded.describe()
        with protect(P, guarded.site()) as permit:
            permit.write(b"README.md", b"one")
            permit.write(b"x/y", b"")
            permit.delete(b"x")
        assert permit.changes == ()
        assert guarded.describe() == before

    def test_an_exception_writes_nothing(self, guarded: Guarded) -> None:
        before = guarded.describe()
        with pytest.raises(ZeroDivisionError), protect(P, guarded.site()) as permit:  # noqa: PT012
            permit.write(b"README.md", b"new")
            _ = 1 / 0
        assert guarded.describe() == before

    def test_a_validator_sees_the_result_and_can_reject_it(self, guarded: Guarded) -> None:
        before = guarded.describe()
        seen: list[Any] = []

        def validate(staged: StagedPlugin) -> list[str]:
            seen.extend([staged.plugin, staged.files(), staged.read(b"skills/b/SKILL.md"), staged.changes[0]])
            return ["no good"]

        with pytest.raises(ProposalRejected, match="no good"), protect(P, guarded.site(), validators=[validate]) as one:
            one.move(b"skills/a", b"skills/b")
        assert seen[0] == P
        assert b"skills/b/SKILL.md" in seen[1]
        assert b"skills/a/SKILL.md" not in seen[1]
        assert seen[2] == b"a"
        assert isinstance(seen[3], Change)
        assert guarded.describe() == before
        assert one.changes == ()

    @pytest.mark.parametrize("path", ["README.md", "new.md", "inner/README.md"])
    def test_somebody_elses_change_in_the_block_is_kept(self, guarded: Guarded, path: str) -> None:
        with pytest.raises(GuardRefused, match="somebody else"), protect(P, guarded.site()) as permit:  # noqa: PT012
            permit.write(b"README.md", b"ours")
            (guarded.source / "plugins/one" / path).write_bytes(b"theirs")
        expected = guarded.source / "plugins/one" / path
        assert expected.read_bytes() == b"theirs"
        assert (guarded.source / "plugins/one/skills/a/SKILL.md").read_bytes() == b"a"
        if path != "README.md":
            assert (guarded.source / "plugins/one/README.md").read_bytes() == b"one"

    def test_a_plugin_that_was_swapped_in_the_block(self, guarded: Guarded) -> None:
        with pytest.raises(GuardRefused, match="somebody else"), protect(P, guarded.site()) as permit:  # noqa: PT012
            permit.write(b"README.md", b"ours")
            os.rename(guarded.source / "plugins/one", guarded.source / "plugins/away")
            guarded.plugin("plugins/one", {"README.md": b"one"})
        assert (guarded.source / "plugins/away/README.md").read_bytes() == b"one"

    def test_an_inventory_that_cannot_record_undoes_the_edit(
        self, guarded: Guarded, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site = guarded.site()
        before = guarded.describe()
        record = site.inventory.record

        def fail(event: str, *args: Any, **more: Any) -> int:
            if event == "edit":
                raise UsageError("no room")
            return record(event, *args, **more)

        monkeypatch.setattr(site.inventory, "record", fail)
        with pytest.raises(UsageError), protect(P, site) as permit:  # noqa: PT012
            permit.write(b"README.md", b"new")
            permit.write(b"new/dir/x", b"new")
        assert guarded.describe() == before
        assert recover(site.source) == []

    def test_the_source_itself_may_be_a_plugin(self, guarded: Guarded) -> None:
        guarded.plugin("", {"top.md": b"top"})
        with protect(b"", guarded.site()) as permit:
            permit.write(b"top.md", b"new top")
            permit.write(b"plugins/two/README.md", b"new two")
        assert [one.path for one in permit.changes] == [b"plugins/two/README.md", b"top.md"]

    def test_names_that_are_not_utf8(self, guarded: Guarded) -> None:
        guarded.plugin(os.fsdecode(b"plugins/\xff\xfe"), {os.fsdecode(b"a\nb\xe9"): b"odd"})
        with protect(b"plugins/\xff\xfe", guarded.site()) as permit:
            permit.move(b"a\nb\xe9", b"\xc3\x28")
        assert [one.path for one in permit.changes] == [b"plugins/\xff\xfe/a\nb\xe9", b"plugins/\xff\xfe/\xc3\x28"]
