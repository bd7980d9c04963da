"""Parity stays with what it protects: through prunes, through what was killed, and without the package."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from drkit.copy import copy
from drkit.errors import NoSpace, UsageError
from drkit.format.settings import ParitySettings
from drkit.model import PackId
from drkit.progress import NullProgress
from drkit.repo import Repository
from drkit.repo.lock import BackupLock
from drkit.repo.parity import parity_name, parity_problem
from drkit.store import LocalStore, MemoryStore
from tests.support.cli import Cli
from tests.support.faults import FaultyStore
from tests.support.protecting import (
    PACK,
    assert_whole,
    change,
    filled,
    findings,
    parities,
    protected,
    pruned,
    with_parity,
)
from tests.support.repairing import repaired
from tests.support.repos import START, Bench, names, pack_ids, small_packs


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return filled(tmp_path, monkeypatch)


def test_a_prune_leaves_what_a_backup_at_work_has_put(bench: Bench) -> None:
    """The parity of something that is not there yet is as young as the backup that is going to put that."""
    with BackupLock(bench.store, lambda: bench.now):
        young = parity_name(b"\x09" * 32)
        bench.store.put(young, b"of a pack that comes next")
        pruned(bench)
        assert young in names(bench.store, "parity/")
    pruned(bench)
    assert_whole(bench, bench.store)


def test_a_prune_takes_parity_with_its_pack(bench: Bench) -> None:
    for ref in bench.repo.snapshots()[:-1]:
        bench.store.delete(ref.name)
    bench.write("plugins/p5/noise.bin", b"other")
    bench.back_up()
    bench.store.delete(bench.repo.snapshots()[0].name)
    stray = parity_name(PackId(b"\x07" * 32))
    bench.store.put(stray, b"what a prune that was killed has left")
    before = set(pack_ids(bench.store))
    report = pruned(bench)
    assert report.packs_deleted
    assert set(pack_ids(bench.store)) - before
    assert_whole(bench, bench.store)


def test_a_backup_that_was_killed_leaves_nothing_without_parity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each put; the parity of what never came goes with the next prune."""
    small_packs(monkeypatch, pack=PACK, frame=6000)
    failed = 0
    for number in range(40):
        (tmp_path / str(number)).mkdir()
        bench = with_parity(Bench(tmp_path / str(number)), ParitySettings(4, 1))
        for plugin in range(8):
            bench.write(f"p{plugin}/noise.bin", random.Random(plugin).randbytes(15_000))
        whole = bench.store
        faulty = FaultyStore(whole)
        faulty.fail("put", after=number, times=None, error=NoSpace("full"))
        bench.store = faulty
        try:
            bench.back_up()
        except NoSpace:
            failed += 1
        bench.store = whole
        assert parities(whole) >= protected(whole)
        for name in names(whole, "locks/"):
            whole.delete(name)
        bench.back_up()
        assert parities(whole) >= protected(whole)
        pruned(bench)
        assert_whole(bench, whole)
        if not any(fault.hits for fault in faulty._faults):
            break
    assert failed > 8


def test_a_copy_that_was_killed_leaves_no_pack_without_parity(bench: Bench) -> None:
    with FaultyStore(MemoryStore("whole")) as counted:
        copy(bench.repo, counted, progress=NullProgress(), now=lambda: bench.now)
    assert counted.calls["put"] > 15
    for number in range(0, counted.calls["put"] - 2, 3):
        target = MemoryStore(f"target{number}")
        faulty = FaultyStore(target)
        faulty.fail("put", after=number, times=None, error=NoSpace("full"))
        with pytest.raises(NoSpace):
            copy(bench.repo, faulty, progress=NullProgress(), now=lambda: bench.now)
        for name in names(target, "locks/"):
            target.delete(name)
        copy(bench.repo, target, progress=NullProgress(), now=lambda: bench.now)
        assert_whole(bench, target)


def test_without_the_package_all_can_be_read_and_nothing_is_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zfec", None)
    before = names(bench.store, "")
    with pytest.raises(UsageError, match="zfec"):
        bench.back_up()
    with pytest.raises(UsageError, match="zfec"):
        repaired(bench)
    with pytest.raises(UsageError, match="zfec"):
        copy(bench.repo, MemoryStore("empty"), progress=NullProgress(), now=lambda: bench.now)
    with pytest.raises(UsageError, match="zfec"):
        Repository.create(MemoryStore("new"), now=START, parity=ParitySettings(2, 1))
    assert names(bench.store, "") == before
    assert_whole(bench, bench.store)
    change(bench.store, names(bench.store, "packs/")[0], 20)
    assert "zfec" in str([one.message for one in findings(bench.store) if one.code.endswith("lost")])
    for pack in pack_ids(bench.store):
        assert parity_problem(bench.store, pack) == ""


def test_the_commands(tmp_path: Path) -> None:
    source = Bench(tmp_path)
    source.plugin("plugins/a")
    source.write("plugins/a/noise.bin", random.Random(1).randbytes(200_000))
    repo = tmp_path / "repo"
    cli = Cli(tmp_path, DRKIT_REPO=str(repo))
    for bad in ("16", "0+1", "1+0", "2+3", "200+100", "a+b", "-1+1", ""):
        assert cli("init", f"--parity={bad}").code == 2
        assert not repo.exists()
    assert cli("init", "--parity", "16+2").code == 0
    made = cli("backup", str(source.source), "--json").json
    [pack] = (repo / "packs").rglob("*.zst")
    data = pack.read_bytes()
    pack.chmod(0o600)
    pack.write_bytes(data[:1000] + bytes(5000) + data[6000:-3000])
    assert cli("verify", "--level", "content").code == 20
    run = cli("repair", "--json")
    assert run.code == 0, run
    assert [one["source"] for one in run.json["healed"]] == [f"parity/{pack.parent.name}/{pack.stem}.par"]
    assert pack.read_bytes() == data
    assert cli("verify", "--level", "restore").code == 0
    back = cli("restore", "latest", "--target", str(tmp_path / "back"), "--json").json
    assert back["tree_sha256"] == made["tree_sha256"]
    assert findings(LocalStore(str(repo))) == []
