"""Parity in an encrypted repository: what does not authenticate is lost in chunks, and those heal."""

from __future__ import annotations

import base64
import hashlib
import random
import re
from pathlib import Path

import pytest

from drkit.model import Level
from drkit.progress import NullProgress
from drkit.repair import RepairReport, repair
from drkit.repo import Repository
from drkit.repo.names import pack_name
from drkit.repo.parity import parity_name, parity_problem
from drkit.seal import Secret
from drkit.seal.cipher import STORED
from drkit.seal.store import SealedStore
from drkit.store import MemoryStore
from drkit.verify import verify
from tests.support.repos import START, Bench, contents, names, pack_ids

KEY = hashlib.sha256(b"the key of these tests").digest()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """One pack of about a megabyte, and one that is a single chunk."""
    from drkit.format.settings import ParitySettings

    (tmp_path / "key").write_bytes(base64.b64encode(KEY) + b"\n")
    (tmp_path / "key").chmod(0o600)
    monkeypatch.setenv("DRKIT_KEY_FILE", str(tmp_path / "key"))
    bench = Bench(tmp_path)
    bench.store = MemoryStore("sealed")
    Repository.create(bench.store, now=START, parity=ParitySettings(8, 2), secrets=(Secret("keyfile", KEY),))
    bench.write("noise.bin", random.Random(1).randbytes(1_000_000))
    bench.plugin("plugins/a")
    bench.back_up()
    bench.plugin("plugins/b")
    bench.back_up()
    return bench


def repaired(bench: Bench) -> RepairReport:
    return repair(bench.store, (), progress=NullProgress(), now=lambda: bench.now)


def sealed(bench: Bench) -> SealedStore:
    store = bench.repo.store
    assert isinstance(store, SealedStore)
    return store


def flip(bench: Bench, name: str, *places: int, cut: int = 0) -> None:
    """Flip a bit at these places of an object as it is stored, and cut off its end."""
    stored = sealed(bench).stored_name(name)
    data = bytearray(bench.store.get(stored))
    for at in places:
        data[at % len(data)] ^= 8
    bench.store.put(stored, bytes(data[: len(data) - cut]), overwrite=True)


def assert_whole(bench: Bench) -> None:
    repo = bench.repo
    report = verify(repo, repo.snapshots(), level=Level.CONTENT, every_pack=True, progress=NullProgress())
    assert report.findings == ()
    assert contents(repo) == bench.files()
    for pack in pack_ids(repo.store):
        assert parity_problem(repo.store, pack) == ""


def test_nothing_shows_of_what_the_parity_belongs_to(bench: Bench) -> None:
    packs = pack_ids(sealed(bench))
    assert len(packs) == 2
    assert len(names(bench.store, "parity/")) == 4
    for name in ("snapshots/", "packs/", "parity/"):
        for info in sealed(bench).list(name):
            digits = re.findall("[0-9a-f]{64}", info.name)
            assert len(digits) == 1
            assert not [stored for stored in names(bench.store, "") if digits[0] in stored]
    assert_whole(bench)


@pytest.mark.parametrize("repairing", [True, False])
@pytest.mark.parametrize(
    ("places", "cut"),
    [
        ((0, -1), 0),
        ((3, STORED + 3), 0),
        ((100, STORED - 1), 0),
        ((2 * STORED, 2 * STORED + 19, 7 * STORED + 30_000), 0),
        ((), 1),
        ((), STORED + 1),
        ((5,), STORED - 1),
    ],
)
def test_chunks_that_do_not_authenticate_heal(
    bench: Bench, places: tuple[int, ...], cut: int, *, repairing: bool
) -> None:
    """Two of them, and a pack that is one chunk as a whole; by a repair, or while it is read."""
    large, small = sorted(pack_ids(sealed(bench)), key=lambda pack: -sealed(bench).stat(pack_name(pack)).size)
    flip(bench, pack_name(large), *places, cut=cut)
    flip(bench, pack_name(small), 50)
    if not repairing:
        assert contents(bench.repo) == bench.files()
        return
    report = repaired(bench)
    assert report.ok
    assert {one.object: one.source for one in report.healed} == {
        pack_name(pack): parity_name(pack) for pack in (large, small)
    }
    assert_whole(bench)


def test_more_than_there_is_parity_for_is_told(bench: Bench) -> None:
    large = max(pack_ids(sealed(bench)), key=lambda pack: sealed(bench).stat(pack_name(pack)).size)
    flip(bench, pack_name(large), 0, 2 * STORED, 4 * STORED)
    assert not repaired(bench).ok
