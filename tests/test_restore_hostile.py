"""Manifests made to do harm: nothing outside of the target is ever touched, and nothing grows without bound."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from drkit.errors import DrkitError, FormatError, IntegrityError, NoSpace
from drkit.model import Entry, Place
from drkit.repo import Segment
from drkit.restore import restore_plugin, restore_tree
from tests.support.restoring import (
    REF,
    FakeReader,
    FakeRepository,
    back_up,
    file,
    folder,
    leftovers,
    link,
    pipe,
    plugin_row,
    segment,
    sha,
)
from tests.support.trees import snapshot_tree


@pytest.fixture
def around(tmp_path: Path) -> Path:
    """A directory with something in it that must stay as it is; the target lies in it."""
    path = tmp_path / "around"
    (path / "victim").mkdir(parents=True)
    (path / "victim/file").write_bytes(b"mine")
    return path


def untouched(around: Path) -> bool:
    found = snapshot_tree(around)
    return (
        set(found) - {b"victim", b"victim/file"} <= {b"out"} | {path for path in found if path.startswith(b"out/")}
        and (around / "victim/file").read_bytes() == b"mine"
        and os.listdir(around / "victim") == ["file"]
    )


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        [
            "..",
            "../victim/new",
            "a/../../victim/new",
            "a/..",
            "/victim",
            "//x",
            "a//b",
            "a/",
            ".",
            "a/.",
            "./x",
            "nul\0byte",
            "a/nul\0byte",
        ],
    )
    @pytest.mark.parametrize("kind", ["f", "d", "l", "p"])
    def test_a_path_that_could_leave_the_target_is_refused(self, path: str, kind: str, around: Path) -> None:
        bad = {"f": file(path), "d": folder(path), "l": link(path, "x"), "p": pipe(path)}[kind]
        with pytest.raises(FormatError):
            restore_tree(FakeRepository([folder("a"), bad]), REF, bytes(around / "out"))
        assert untouched(around)
        assert not (around / "out").exists()

    @pytest.mark.parametrize("above", [link("a", "../victim"), file("a"), pipe("a")])
    def test_nothing_is_made_below_what_is_no_directory(self, above: Entry, around: Path) -> None:
        with pytest.raises(FormatError, match="no directory of the manifest"):
            restore_tree(FakeRepository([above, file("a/new")]), REF, bytes(around / "out"))
        assert untouched(around)

    def test_a_link_in_a_plugin_root_is_refused(self, around: Path) -> None:
        repo = FakeRepository([link("p", "victim"), file("p/new")])
        with pytest.raises(FormatError):
            restore_plugin(repo, REF, plugin_row("p"), target=bytes(around / "out"))
        assert untouched(around)

    @pytest.mark.parametrize("second", [file("a"), folder("a"), link("a", "x")])
    @pytest.mark.parametrize("first", [file("a"), folder("a"), link("a", "../victim")])
    def test_a_name_that_comes_twice_overwrites_nothing(self, first: Entry, second: Entry, around: Path) -> None:
        try:
            report = restore_tree(FakeRepository([first, second, file("z")]), REF, bytes(around / "out"))
        except DrkitError:
            assert not (around / "out").exists()
        else:
            assert report.lost
        assert untouched(around)

    def test_a_link_over_a_directory_that_was_made_is_not_followed(self, around: Path) -> None:
        """The second `a` cannot be made, and what comes below it must not go through anything."""
        repo = FakeRepository([folder("a"), link("a", "../victim"), file("a/new")])
        with pytest.raises(DrkitError):
            restore_tree(repo, REF, bytes(around / "out"))
        assert untouched(around)

    def test_a_link_that_appears_in_the_stage_is_not_followed(
        self, around: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As if somebody who may do so replaced a new directory by a link at the worst moment."""
        mkdir = os.mkdir

        def raced(path: bytes, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
            if path == b"a":
                os.symlink(around / "victim", path, dir_fd=dir_fd)
            else:
                mkdir(path, mode, dir_fd=dir_fd)

        monkeypatch.setattr(os, "mkdir", raced)
        with pytest.raises(DrkitError):
            restore_tree(FakeRepository([folder("a"), file("a/new")]), REF, bytes(around / "out"))
        monkeypatch.undo()
        assert untouched(around)

    def test_links_may_point_anywhere(self, around: Path) -> None:
        repo = FakeRepository([link("a", "../victim"), link("b", "/etc/passwd"), link("c", "../" * 50)])
        restore_tree(repo, REF, bytes(around / "out"))
        assert os.readlink(around / "out/a") == "../victim"
        assert untouched(around)

    @pytest.mark.parametrize("order", [["b", "a"], ["a", "a/x", "b", "a/y"]])
    def test_a_wrong_order_is_refused_or_harmless(self, order: list[str], around: Path) -> None:
        entries = [folder(path) if path in "ab" else file(path) for path in order]
        try:
            restore_tree(FakeRepository(entries), REF, bytes(around / "out"))
        except FormatError:
            assert not (around / "out").exists()
        assert untouched(around)

    def test_what_was_lost_at_first_is_not_trusted_later(self, around: Path) -> None:
        """A segment that cannot be read while planning, and holds something bad when it can."""

        class Flaky(FakeRepository):
            reads = 0

            def segments(self, *args: object, **kwargs: object) -> Iterator[Segment]:
                self.reads += 1
                yield segment(file("a"))
                if self.reads == 1:
                    yield Segment([], {}, lost="the store did not answer")
                else:
                    assert not kwargs.get("again")
                    yield segment(file("../victim/new"))

        with pytest.raises(FormatError):
            restore_tree(Flaky(), REF, bytes(around / "out"))
        assert untouched(around)


class TestContent:
    @pytest.mark.parametrize(
        "more",
        [
            {},
            {"sha256": sha(b"other")},  # a blob that nobody has
            {"blobs": (sha(b"one"), sha(b"two"))},
            {"lists": (sha(bytes.fromhex(sha(b"one") + sha(b"two"))),)},
            {"lists": (sha(b"lost"),)},
        ],
    )
    @pytest.mark.parametrize("dry_run", [False, True])
    def test_a_size_that_no_disk_has_room_for_costs_only_that_file(
        self, dry_run: bool, more: dict[str, object], around: Path
    ) -> None:
        entries = [file("a"), replace(file("lies"), size=10**16, **more), file("z")]
        blobs = [b"content", b"one", b"two", bytes.fromhex(sha(b"one") + sha(b"two"))]
        repo = FakeRepository(entries, blobs=blobs)
        report = restore_tree(repo, REF, bytes(around / "out"), dry_run=dry_run)
        if not dry_run:
            assert [one.path for one in report.lost] == ["lies"]
            assert (report.files, sorted(os.listdir(around / "out"))) == (2, ["a", "z"])
        assert untouched(around)

    def test_a_size_that_is_true_fails_the_restore(self, around: Path) -> None:
        """Only what is lost anyway is left out of the sum."""

        class Vast(bytes):
            def __len__(self) -> int:
                return 10**16

        vast = file("vast", b"content", blobs=(sha(b"content"),))
        repo = FakeRepository([replace(vast, size=10**16)])
        repo.blobs[vast.sha256] = Vast()
        with pytest.raises(NoSpace):
            restore_tree(repo, REF, bytes(around / "out"))
        assert untouched(around)

    def test_a_file_never_exceeds_its_size(self, tmp_path: Path) -> None:
        """Blobs that do not add up are lost as soon as they are too many, not written and cut."""
        small = replace(file("small", b"x" * 10), size=5)
        piece = bytes([7]) * 1_000_000
        large = replace(file("large", piece, blobs=(sha(piece),) * 50), size=2_500_000)
        report = restore_tree(FakeRepository([large, small], blobs=[b"x" * 10, piece]), REF, bytes(tmp_path / "out"))
        assert [one.path for one in report.lost] == ["large", "small"]
        assert os.listdir(tmp_path / "out") == []

    def test_blobs_that_are_too_few_are_a_loss(self, tmp_path: Path) -> None:
        piece = bytes([7]) * 1_000_000
        large = file("large", piece * 3, blobs=(sha(piece),) * 2)
        report = restore_tree(FakeRepository([large], blobs=[piece]), REF, bytes(tmp_path / "out"))
        assert [one.path for one in report.lost] == ["large"]

    def test_blobs_in_a_wrong_order_are_found_when_read_back(self, tmp_path: Path) -> None:
        one, two = b"1" * 1_500_000, b"2" * 1_500_000
        large = file("large", one + two, blobs=(sha(two), sha(one)))
        with pytest.raises(DrkitError, match="another content"):
            restore_tree(FakeRepository([large], blobs=[one, two]), REF, bytes(tmp_path / "out"))
        assert os.listdir(tmp_path) == []

    def test_links_of_unequal_files_are_copies(self, tmp_path: Path) -> None:
        repo = FakeRepository(
            [file("a", link=7), file("b", b"other", link=7), file("c", link=7, mode=0o600)],
            blobs=[b"content", b"other"],
        )
        restore_tree(repo, REF, bytes(tmp_path / "out"))
        assert (tmp_path / "out/a").read_bytes() == b"content"
        assert (tmp_path / "out/b").read_bytes() == b"other"
        assert {path.stat().st_nlink for path in (tmp_path / "out").iterdir()} == {1}

    def test_a_directory_cannot_be_linked(self, tmp_path: Path) -> None:
        repo = FakeRepository([folder("a", link=7), folder("b", link=7), link("c", "x", link=7)])
        report = restore_tree(repo, REF, bytes(tmp_path / "out"))
        assert (report.dirs, report.links) == (2, 1)


class TestFeed:
    """Whatever happens in the thread or here, the error arrives and the thread ends."""

    @pytest.fixture(autouse=True)
    def no_thread_is_left(self) -> Iterator[None]:
        before = threading.active_count()
        yield
        assert threading.active_count() == before

    @pytest.mark.parametrize("error", [RuntimeError("bug"), MemoryError(), DrkitError("store"), KeyboardInterrupt()])
    def test_an_error_in_the_thread_is_raised(
        self, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(self: FakeReader, blob_id: str, place: Place | None) -> bytes:
            raise error

        monkeypatch.setattr(FakeReader, "blob", fail)
        with pytest.raises(type(error)):
            restore_tree(FakeRepository([file("a")]), REF, bytes(tmp_path / "out"))
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("large", [False, True])
    def test_an_interrupt_here_ends_the_thread(
        self, large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pieces = [bytes([number]) * 600_000 for number in range(8)]

        def content(self: FakeReader, entry: Entry, places: Mapping[str, Place]) -> Iterator[bytes]:
            return iter(pieces)

        def interrupt(*args: object, **kwargs: object) -> int:
            raise KeyboardInterrupt

        monkeypatch.setattr(FakeReader, "content", content)
        monkeypatch.setattr(os, "utime" if not large else "pwrite", interrupt)
        if large:  # the journal is written with pwrite, too
            monkeypatch.setattr("drkit.restore.journal.Journal.write", lambda *args: None)
        entries = [file(f"{number:02}", piece) for number, piece in enumerate(pieces * 4)]
        if large:
            entries = [file("large", b"".join(pieces), blobs=tuple(sha(piece) for piece in pieces))]
        with pytest.raises(KeyboardInterrupt):
            restore_tree(FakeRepository(entries, blobs=pieces), REF, bytes(tmp_path / "out"))
        monkeypatch.undo()
        assert os.listdir(tmp_path) == []

    def test_a_manifest_that_breaks_later_leaves_nothing(self, tmp_path: Path) -> None:
        class Breaking(FakeRepository):
            reads = 0

            def segments(self, *args: object, **kwargs: object) -> Iterator[Segment]:
                self.reads += 1
                yield segment(file("a"))
                if self.reads == 2:
                    raise IntegrityError("gone")

        with pytest.raises(IntegrityError, match="gone"):
            restore_tree(Breaking(), REF, bytes(tmp_path / "out"))
        assert os.listdir(tmp_path) == []


def test_a_huge_manifest_needs_little_memory(tmp_path: Path) -> None:
    """No pass holds all entries: what one segment took is gone when the next comes."""
    import weakref

    alive: list[weakref.ref[Segment]] = []
    most = 0

    class Counted(FakeRepository):
        def segments(self, *args: object, **kwargs: object) -> Iterator[Segment]:
            nonlocal most
            for number in range(200):
                most = max(most, sum(ref() is not None for ref in alive))
                entries = [folder(f"{number:03}-{inner}") for inner in range(5)]
                made = _Weak(entries, {}, paths=[entry.raw_path for entry in entries])
                alive.append(weakref.ref(made))
                yield made

    class _Weak(Segment, weakref=True):
        pass

    with pytest.raises(DrkitError, match="hashes to"):  # the fake's tree hash is that of nothing
        restore_tree(Counted(), REF, bytes(tmp_path / "out"))
    assert most < 20
    assert leftovers(tmp_path) == []


def test_real_repositories_have_no_such_names(tmp_path: Path) -> None:
    """What a source may really hold comes back, however odd."""
    (tmp_path / "source").mkdir()
    for name in ("...", "-", "a b", "~", "back\\slash", "x:y"):
        (tmp_path / "source" / name).write_bytes(b"x")
    repo, ref = back_up(tmp_path / "source")
    assert restore_tree(repo, ref, bytes(tmp_path / "out")).lost == ()
