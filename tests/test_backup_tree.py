"""A snapshot is the source: every path, every attribute, every byte, the hashes and the plugins."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drkit.errors import UsageError
from drkit.repo import Repository
from drkit.source.walk import PluginRules
from tests.support.ahead import ahead_or_alone  # noqa: F401 - every test here runs both ways
from tests.support.backups import MARKER, SMALL_CHUNKS, Bench, check_against_source, many_segments
from tests.support.edits import ROOT, Edit, Tree, edits, make_socket, start
from tests.support.fickle import set_attribute
from tests.support.mini_repo import MiniRepo, scan
from tests.support.trees import MIB, Node, build, content, trees


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=trees())
def test_any_tree_is_read_back_as_it_was(tree: Node) -> None:
    with tempfile.TemporaryDirectory() as home, many_segments():
        bench = Bench(Path(home), chunker=SMALL_CHUNKS)
        bench.root.rmdir()
        build(bench.root, tree)
        report = bench.take()
        assert report.warnings == ()
        check_against_source(bench, report)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes=edits)
def test_any_plugins_are_found_named_and_hashed(changes: list[Edit]) -> None:
    markers = (MARKER, "SKILL.md")
    with tempfile.TemporaryDirectory() as home, many_segments():
        bench = Bench(Path(home), chunker=SMALL_CHUNKS)
        tree = Tree(bench.root)
        start(tree)
        tree.edit([*changes, ("plugin", 3, 2, 0), ("add", 0, 0, 2)])
        check_against_source(bench, bench.take(rules=PluginRules(markers)), markers)


@settings(max_examples=20, deadline=None)
@given(changes=edits, more=st.integers(0, 500))
def test_segments_are_cut_as_the_format_says(changes: list[Edit], more: int) -> None:
    """A second writer of the format, which shares no code, gives the same ids."""
    with tempfile.TemporaryDirectory() as home:
        bench = Bench(Path(home))
        tree = Tree(bench.root)
        start(tree)
        tree.edit([*changes, ("add", 0, 0, 2)])
        for number in range(more):
            bench.write(f"many/{number % 3}/{number}")
        report = bench.take()
        other = MiniRepo(Path(home) / "other")
        other.backup([*scan(bench.root)])
        (snapshot,) = (other.root / "snapshots").iterdir()
        root = json.loads(snapshot.read_bytes())["manifest"]
        repository = bench.open()
        ours = repository.load(repository.resolve(report.snapshot)).manifest
        assert [child.id for child in ours.children] == [child["id"] for child in root["children"]]
        assert ours.level == root["level"]


@pytest.mark.parametrize("size", [0, 1, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 5 * MIB])
def test_sizes_around_the_threshold(bench: Bench, size: int) -> None:
    data = content(1, size)
    bench.write("f", data)
    bench.write("same", data)
    report = bench.take()
    check_against_source(bench, report)
    entry = json.loads(bench.image(report).lines[0])
    assert ("blobs" in entry) == (size >= 2 * MIB)
    assert (report.bytes_source, report.bytes_added < size + 4000) == (2 * size, True)


def test_a_large_file_of_one_chunk_is_known_by_its_hash(bench: Bench) -> None:
    """Two MiB of zeros have no place to cut but the limit of four MiB."""
    bench.write("f", bytes(3 * MIB))
    report = bench.take()
    check_against_source(bench, report)
    assert "blobs" not in json.loads(bench.image(report).lines[0])


def test_everything_that_is_no_file(bench: Bench) -> None:
    (bench.root / "empty").mkdir()
    os.symlink(b"\xff/nowhere", bench.source + b"/link")
    os.symlink("link", bench.root / "other link")
    os.link(bench.root / "link", bench.root / "same link", follow_symlinks=False)
    os.mkfifo(bench.root / "fifo")
    os.link(bench.root / "fifo", bench.root / "same fifo")
    os.utime(bench.root / "link", ns=(1, 999_999_999_999_999_999), follow_symlinks=False)
    make_socket(bench.source + b"/socket")
    set_attribute(bench.root / "empty", "user.note", b"\0\xff")
    report = bench.take()
    check_against_source(bench, report)
    assert (report.files, report.dirs, report.others, report.warnings) == (0, 1, 5, ())


@pytest.mark.skipif(not ROOT, reason="only root can make device nodes")
def test_devices_are_recorded_and_never_read(bench: Bench) -> None:
    for name, kind in (("null", 0o020000), ("disk", 0o060000)):
        try:
            os.mknod(bench.root / name, 0o640 | kind, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("this container may not make device nodes")
    report = bench.take()
    found = [json.loads(line) for line in bench.image(report).lines]
    assert [(entry["path"], entry["type"], entry["rdev"], entry["mode"]) for entry in found] == [
        ("disk", "b", os.makedev(1, 3), 0o640),
        ("null", "c", os.makedev(1, 3), 0o640),
    ]
    assert bench.image(report) == bench.fresh()


def test_a_plugin_at_the_root_holds_the_others(bench: Bench) -> None:
    for directory in ("", "a/", "a/deep/er/", "b/"):
        bench.write(f"{directory}{MARKER}", json.dumps({"name": directory or "all", "version": "1.2"}).encode())
        bench.write(f"{directory}code", b"12345")
    bench.write("a-b/file")
    report = bench.take()
    check_against_source(bench, report)
    rows = bench.image(report).plugins
    assert [(row.path, row.name, row.version, row.files) for row in rows] == [
        ("", "all", "1.2", 9),
        ("a", "a/", "1.2", 4),
        ("a/deep/er", "a/deep/er/", "1.2", 2),
        ("b", "b/", "1.2", 2),
    ]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'{"name":""}',
        b'{"name":null,"version":3}',
        b'{"name":"\xff"}',
        b"[" * 100_000,
        b" " * (1 << 20),
    ],
)
def test_a_plugin_with_an_odd_manifest_has_its_directorys_name(bench: Bench, text: bytes) -> None:
    bench.write(f"tool/{MARKER}", text)
    (row,) = bench.image(bench.take()).plugins
    assert (row.path, row.name, row.version) == ("tool", "tool", "")


def test_a_marker_must_be_a_file(bench: Bench) -> None:
    (bench.root / "a" / MARKER).mkdir(parents=True)
    (bench.root / "b/.claude-plugin").mkdir(parents=True)
    os.symlink("/etc/passwd", bench.root / "b" / MARKER)
    (bench.root / "c/.claude-plugin").mkdir(parents=True)
    os.mkfifo(bench.root / "c" / MARKER)
    assert bench.take().plugins == 0


def test_globs_make_plugins_but_not_of_what_is_inside_of_one(bench: Bench) -> None:
    for path in ("tools/a/x/f", "tools/b/f", "other/f"):
        bench.write(path)
    rows = bench.image(bench.take(rules=PluginRules((), ("tools/*",)))).plugins
    assert [row.path for row in rows] == ["tools/a", "tools/b"]


def test_a_deep_tree(bench: Bench) -> None:
    path = bench.source
    for _ in range(300):
        path += b"/d"
        os.mkdir(path)
    Path(os.fsdecode(path + b"/f")).write_bytes(b"deep")
    check_against_source(bench, bench.take())


def test_many_files_leave_nothing_open_and_no_thread(bench: Bench) -> None:
    import threading

    for number in range(3000):
        bench.write(f"d{number % 40}/f{number}", b"%d" % number)
    before = set(os.listdir("/proc/self/fd"))
    report = bench.take()
    assert (report.files, report.warnings) == (3000, ())
    assert set(os.listdir("/proc/self/fd")) == before
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("drkit")] == []
    assert bench.take().files_unchanged == 3000
    assert set(os.listdir("/proc/self/fd")) == before


def test_any_way_to_name_the_source_is_the_same_source(bench: Bench) -> None:
    bench.write("f")
    link = bench.home / "link"
    link.symlink_to(bench.root)
    first = bench.take()
    for name in (bench.source + b"//", os.fsencode(link), bench.source + b"/../source/."):
        report = bench.take(source=name)
        assert (report.parent, report.files_unchanged) == (first.snapshot, 1)
        first = report
    repository: Repository = bench.open()
    assert repository.load(repository.resolve("latest")).raw_source == os.path.realpath(bench.source)


def test_no_source_at_all_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unset variable on a command line must not back up the working directory."""
    bench.write("f")
    monkeypatch.chdir(bench.root)
    with pytest.raises(UsageError):
        bench.take(source=b"")
