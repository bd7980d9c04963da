"""What many nights have scattered is brought together while they go on, so that few packs give a plugin back."""

from __future__ import annotations

from pathlib import Path

from drkit.store.memory import MemoryStore
from tests.support.repos import Bench, contents, pack_ids


def packs_of(bench: Bench) -> set[bytes]:
    """Return the packs in which the newest snapshot's hints have the content of its files."""
    repo = bench.repo
    ref = repo.latest()
    assert ref is not None
    return {bytes(place.pack) for segment in repo.segments(repo.load(ref)) for place in segment.places.values()}


def test_small_files_that_nights_have_scattered_come_together_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, MemoryStore())
    bench.plugin("p", 8)
    bench.back_up()
    seen = []
    for night in range(12):
        bench.write(f"p/skills/s{night % 7}.md", b"night %d" % night)
        bench.back_up()
        assert contents(bench.repo) == bench.files()
        seen.append(len(packs_of(bench)))
    assert len(pack_ids(bench.store)) == 13
    assert 3 < max(seen) <= 5, seen


def test_a_large_file_is_never_stored_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, MemoryStore())
    for number in range(5):  # each in a pack of its own
        bench.write(f"p/{number}", bytes([number]) * 70_000)
        bench.back_up()
    bench.write("p/new", b"new")
    bench.back_up()
    assert len(packs_of(bench)) == 6
    assert contents(bench.repo) == bench.files()
