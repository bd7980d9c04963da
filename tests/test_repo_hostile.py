"""Manifests that were made to do harm, read through a repository: refused where they lie, and only there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drkit.errors import FormatError, IntegrityError
from drkit.format.limits import LINE_MAX
from drkit.model import Level
from drkit.progress import NullProgress
from drkit.repo import Repository, Segment
from drkit.store import LocalStore
from drkit.verify import verify
from tests.support.mini_repo import Entry, MiniRepo, Record, dumps, named, sha
from tests.support.repos import latest

FILE = {"type": "f", "mode": 0o644, "uid": 0, "gid": 0, "mtime_ns": 0, "size": 7, "sha256": sha(b"content").hex()}


@pytest.fixture
def mini(tmp_path: Path) -> MiniRepo:
    return MiniRepo(tmp_path / "repo")


def opened(mini: MiniRepo) -> Repository:
    return Repository.open(LocalStore(str(mini.root)))


def line(path: str = "x", kind: str = "f", **fields: Any) -> Entry:
    """An entry that stands in the manifest exactly like this; None leaves a key out."""
    record = {"path": path, **FILE, "type": kind, **fields}
    if kind != "f":
        record = {key: value for key, value in record.items() if key in fields or key not in {"size", "sha256"}}
    return {"path": path, **record, "_line": dumps({k: v for k, v in record.items() if v is not None})}, b"content"


def codes(repo: Repository, level: Level = Level.CONTENT) -> set[str]:
    report = verify(repo, repo.snapshots(), level=level, progress=NullProgress())
    assert report.ok == (not report.findings)
    return {finding.code for finding in report.findings}


GOOD = [line("d", "d"), line("d/f")]
BAD: dict[str, list[Entry]] = {
    "up": [line("..")],
    "up and down": [line("d/../../x")],
    "absolute": [line("/etc/passwd")],
    "NUL": [line("x\0y")],
    "empty component": [line("d//x")],
    "dot": [line("d/./x")],
    "no path": [line("")],
    "long component": [line("x" * 256)],
    "long path": [line("/".join(["x" * 200] * 21))],
    "twice": [line("x"), line("x")],
    "unsorted": [line("y"), line("x")],
    "below a file": [line("d/f/x")],
    "below a link": [line("l", "l", target="/etc"), line("l/passwd")],
    "below nothing": [line("nowhere/x")],
    "long line": [line("x", xattrs={"user.a": "A" * LINE_MAX})],
    "unknown type": [line("x", "s")],
    "both names": [line("x", path_b64="eA==")],
    "both targets": [line("x", "l", target="a", target_b64="YQ==")],
    "wrong base64": [line("x", "l", target_b64="%%%")],
    "no id": [line("x", sha256="../../etc/passwd")],
    "id in capitals": [line("x", sha256=FILE["sha256"].upper())],  # type: ignore[attr-defined]
    "blob that is none": [line("x", blobs=["../x", "y"])],
    "content of nothing": [line("x", size=None, blobs=[FILE["sha256"]] * 2)],
    "owner": [line("x", uid=2**40)],
    "time": [line("x", mtime_ns=2**63)],
    "no JSON": [({"path": "x", "type": "f", "_line": b"{"}, b"")],
    "deep JSON": [({"path": "x", "type": "f", "_line": b'{"x":' + b"[" * 100_000}, b"")],
    "no UTF-8": [({"path": "x", "type": "f", "_line": b'{"path":"\xff"}'}, b"")],
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_entry_costs_its_segment_and_nothing_else(mini: MiniRepo, name: str) -> None:
    before = [line(f"d/e{number:03}") for number in range(300)]
    after = [line(f"z{number:03}") for number in range(300)]
    mini.backup([GOOD[0], *before, GOOD[1], *BAD[name], *after])
    repo = opened(mini)
    found = list(repo.segments(latest(repo)))
    lost = [each for each in found if each.lost]
    assert len(lost) in {1, 2}  # where the bad entry is the second of two, a segment may end between them
    assert all((each.entries, each.places, each.paths) == ([], {}, []) for each in lost)
    assert lost[0].lost.isprintable()
    paths = [path for each in found for path in each.paths]
    assert paths == sorted(paths)
    assert {b"d", b"d/e000", b"z299"} <= set(paths)
    assert not {b"..", b"/etc/passwd", b"l/passwd", b"d/f/x", b"nowhere/x", b"d/../../x"} & set(paths)
    assert codes(repo) == {"segment-lost"}


@pytest.mark.parametrize(
    "lie",
    [
        line("x", size=6),
        line("x", size=8),
        line("x", size=2**62),
        line("x", size=None),
        line("x", size=14, blobs=[FILE["sha256"]]),
        line("x", size=15, blobs=[FILE["sha256"]] * 2),
        line("x", size=14, blobs=[FILE["sha256"]] * 2),
        line("x", sha256=sha(b"other").hex()),
        line("x", sha256=sha(b"other").hex(), blobs=[FILE["sha256"]] * 2, size=14),
    ],
    ids=["less", "more", "huge", "none", "one of two", "two of more", "another hash", "no such blob", "wrong hash"],
)
def test_a_file_that_is_not_what_its_entry_says(mini: MiniRepo, lie: Entry) -> None:
    mini.backup([*GOOD, lie])
    repo = opened(mini)
    (segment,) = repo.segments(latest(repo))
    assert not segment.lost
    assert codes(repo) - {"counts"} != set()


# Trees


def root_of(mini: MiniRepo, level: int, children: list[tuple[bytes, bytes]], **changes: Any) -> Repository:
    """A snapshot whose manifest has this root: first path and id of each child."""
    mini.flush()
    mini.backup([])
    root = {"level": level, "children": [{**named("first", first), "id": node.hex()} for first, node in children]}
    mini.backup([], manifest=root, **changes)
    return opened(mini)


def listed(*children: tuple[bytes, bytes]) -> bytes:
    """The content of a list."""
    return b"".join(dumps({**named("first", first), "id": node.hex()}) + b"\n" for first, node in children)


def segment(mini: MiniRepo, *entries: Entry) -> bytes:
    """Store a segment; returns its id."""
    for _, content in entries:
        mini.blob(0, content)
    mini.flush()
    node = mini.blob(1, b"".join(record["_line"] + b"\n" for record, _ in entries))
    mini.flush()
    return node


def stretch(repo: Repository) -> list[Segment]:
    return list(repo.segments(latest(repo)))


def test_a_tree_made_by_hand_is_read(mini: MiniRepo) -> None:
    one, two = segment(mini, line("a"), line("b")), segment(mini, line("c"))
    lower = mini.blob(2, listed((b"a", one), (b"c", two)))
    repo = root_of(mini, 2, [(b"a", mini.blob(2, listed((b"a", lower))))])
    assert [path for each in stretch(repo) for path in each.paths] == [b"a", b"b", b"c"]


def test_lists_that_stand_for_more_segments_than_can_be_read(mini: MiniRepo) -> None:
    """Seven lists of 16 children that are all the same list: 16⁸ segments."""
    node = segment(mini, line("a"))
    for _ in range(7):
        node = mini.blob(2, listed(*((b"%c" % (97 + number), node) for number in range(16))))
    repo = root_of(mini, 7, [(b"%c" % (97 + number), node) for number in range(16)])
    found = stretch(repo)
    assert len(found) == 16
    assert all(each.lost for each in found)


def test_lists_that_share_what_comes_later(mini: MiniRepo) -> None:
    """Each list begins with its own segment and ends with lists that all of them have."""
    nodes = [segment(mini, line(path)) for path in ("a", "m", "z")]
    shared: list[tuple[bytes, bytes]] = [(b"z", nodes[2])]
    for _ in range(6):
        shared = [(b"z", mini.blob(2, listed(*shared)))]
    firsts = [(b"a", nodes[0]), (b"m", nodes[1])]
    tops = [(first, mini.blob(2, listed((first, node), *shared))) for first, node in firsts]
    repo = root_of(mini, 1, tops)
    found = stretch(repo)
    assert [bool(each.lost) for each in found][:1] == [True]  # it reaches beyond the m where the next begins
    assert [path for each in found for path in each.paths] == [b"m"]


@pytest.mark.parametrize("how", ["unsorted", "twice", "wrong first", "empty", "not a list", "a segment", "no id"])
def test_lists_that_are_not_what_they_say(mini: MiniRepo, how: str) -> None:
    one, two = segment(mini, line("a")), segment(mini, line("b"))
    good = (b"c", segment(mini, line("c")))
    bad = {
        "unsorted": listed((b"b", two), (b"a", one)),
        "twice": listed((b"a", one), (b"a", one)),
        "wrong first": listed((b"b", two)),
        "empty": b"",
        "not a list": b"\x00\xff",
        "a segment": b'{"path":"a"}\n',
        "no id": b'{"first":"a","id":"x"}\n',
    }[how]
    repo = root_of(mini, 1, [(b"a", mini.blob(2, bad)), (b"c", mini.blob(2, listed(good)))])
    first, second = stretch(repo)
    assert first.lost
    assert (first.first, second.paths) == (b"a", [b"c"])
    assert "segment-lost" in codes(repo)


def test_segments_that_begin_elsewhere_or_hold_nothing(mini: MiniRepo) -> None:
    elsewhere, nothing = segment(mini, line("b")), segment(mini)
    repo = root_of(mini, 0, [(b"a", elsewhere), (b"c", nothing)])
    assert [bool(each.lost) for each in stretch(repo)] == [True, True]


@pytest.mark.parametrize("level", [8, -1, 2**40])
def test_too_many_levels(mini: MiniRepo, level: int) -> None:
    repo = root_of(mini, level, [(b"a", segment(mini, line("a")))])
    with pytest.raises(FormatError, match="levels"):
        stretch(repo)
    assert "tree-damaged" in codes(repo)


def test_a_list_in_a_segments_place_and_a_segment_in_a_lists(mini: MiniRepo) -> None:
    one = segment(mini, line("a"))
    top = mini.blob(2, listed((b"a", one)))
    for level, node in ((0, top), (1, one)):
        (only,) = stretch(root_of(mini, level, [(b"a", node)]))
        assert only.lost


PLUGINS: dict[str, list[Record]] = {
    "twice": [{"path": "d", "name": "one"}, {"path": "d", "name": "two"}],
    "unsorted": [{"path": "d", "name": "one"}, {"path": "a", "name": "two"}],
    "up": [{"path": "../d", "name": "one"}],
    "not a row": [{"path": 5}],
}


@pytest.mark.parametrize("name", PLUGINS)
def test_bad_plugin_tables(mini: MiniRepo, name: str) -> None:
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in PLUGINS[name])
    node = mini.blob(1, lines)
    mini.flush()
    table = {"level": 0, "children": [{"first": PLUGINS[name][0]["path"], "id": node.hex()}]}
    if name == "not a row":
        table["children"][0]["first"] = "d"  # type: ignore[index]
    mini.backup(GOOD, plugin_table=table)
    repo = opened(mini)
    with pytest.raises(IntegrityError):
        list(repo.plugins(latest(repo)))
    with pytest.raises(IntegrityError):
        repo.plugin(latest(repo), "d")
    assert "plugins-lost" in codes(repo)
