"""What the reader of a manifest must take, and what it must refuse (docs/format.md, section 5)."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from drkit.errors import FormatError
from drkit.format.limits import XATTRS_MAX
from drkit.format.manifest import EntryChecker, check_path, child_ids, decode_entries, decode_plugins, encode_line
from drkit.model import Entry, PluginRow
from tests.support import made

ONE, TWO, THREE = "1" * 64, "2" * 64, "a" * 64


def entry(path: str = "f", kind: str = "f", **fields: Any) -> Entry:
    """An entry that is right but for `fields`."""
    own: dict[str, Any] = {"path": path, "type": kind, "mode": 0o644, "uid": 0, "gid": 0, "mtime_ns": 0}
    own |= {"f": {"size": 1, "sha256": ONE}, "l": {"mode": 0, "target": "t"}}.get(kind, {})
    return Entry(**(own | fields))


def check(*entries: Entry, partial: bool = False) -> list[bytes]:
    """Read entries back from their lines and check them."""
    return EntryChecker(partial=partial).check(decode_entries(b"".join(map(encode_line, entries))))


@pytest.mark.parametrize("name", [*made.ODD_NAMES, b"c:", b"a\\b", b"~", b"*", b"\x7f", b"CON", b". ", b".. "])
def test_names_that_file_systems_have(tmp_path: Path, name: bytes) -> None:
    (tmp_path / os.fsdecode(name)).touch()
    check_path(name)
    check_path(b"a/" + name)
    check_path(name + b"/a")
    assert check(entry("", path_b64=base64.b64encode(name).decode())) == [name]


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/",
        b"/etc/passwd",
        b"a/",
        b"a//b",
        b".",
        b"..",
        b"./a",
        b"../a",
        b"a/..",
        b"a/../b",
        b"a/.",
        b"a/./b",
        b"a\0b",
        b"\0",
        b"a\0",
        b"n" * 256,
        b"a/" + b"n" * 256 + b"/b",
        b"/".join([b"n" * 200] * 20) + b"/" + b"n" * 77,
    ],
)
def test_paths_that_must_not_be_restored(path: bytes) -> None:
    with pytest.raises(FormatError):
        check_path(path)
    for before in ([], [entry("!")]):
        with pytest.raises(FormatError):
            check(*before, entry("", path_b64=base64.b64encode(path).decode()), entry("zzz"), partial=True)


def test_the_longest_path() -> None:
    path = b"/".join([b"n" * 200] * 20) + b"/" + b"n" * 76
    assert len(path) == 4096
    assert check(entry(path.decode()), partial=True) == [path]


@pytest.mark.parametrize(
    "entries",
    [
        [entry("b"), entry("a")],
        [entry("a"), entry("a")],
        [entry("a"), entry("", path_b64="YQ==")],
        [entry("a-b"), entry("a", "d"), entry("a/b")],
        [entry("a", "d"), entry("a-b"), entry("a/b")],
        [entry("a/b")],
        [entry("a"), entry("a/b")],
        [entry("a", "l"), entry("a/b")],
        [entry("a", "p"), entry("a/b")],
        [entry("a", "d"), entry("a/b"), entry("a/b/c")],
        [entry("a", "d"), entry("b", "d"), entry("b/c/d")],
    ],
    ids=lambda entries: " ".join(entry.path or entry.path_b64 for entry in entries),
)
def test_wrong_order_and_missing_directories(entries: list[Entry]) -> None:
    with pytest.raises(FormatError):
        check(*entries)
    one_by_one = map(EntryChecker().check, ([entry] for entry in entries))
    with pytest.raises(FormatError):
        list(one_by_one)


def test_the_order_is_depth_first() -> None:
    paths = ["a", "a/b", "a/b/c", "a/b!", "a!", "a-b", "a.b", "b"]
    kinds = ["d", "d", "f", "f", "f", "f", "f", "f"]
    assert check(*map(entry, paths, kinds)) == [path.encode() for path in paths]


def test_from_the_middle_parents_are_taken_on_trust_but_not_below_what_is_no_directory() -> None:
    assert check(entry("a/b/c"), entry("a/b/d", "d"), entry("a/b/d/e"), entry("a/f"), entry("b/c"), partial=True)
    for kind in "flp":
        with pytest.raises(FormatError):
            check(entry("a/b", kind), entry("a/b/c"), partial=True)
        with pytest.raises(FormatError):
            check(entry("a/b", kind), entry("a/b/c/d/e"), partial=True)
    checker = EntryChecker()
    assert checker.check([entry("a", "d"), entry("a/b", "d")])
    checker.skip()
    assert checker.check([entry("a/b/x/y"), entry("c/d")])
    with pytest.raises(FormatError):
        checker.check([entry("c/a")])


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "f", "path_b64": "Zg=="},
        {"path": "", "path_b64": "Zg"},
        {"path": "", "path_b64": "Z!g=="},
        {"kind": "s"},
        {"kind": ""},
        {"kind": "fd"},
        {"mode": -1},
        {"mode": 0o10000},
        {"uid": -1},
        {"gid": 2**32},
        {"mtime_ns": None},
        {"mtime_ns": 2**63},
        {"mtime_ns": -(2**63) - 1},
        {"size": -1},
        {"size": 2**63},
        {"sha256": ""},
        {"sha256": ONE[1:]},
        {"sha256": "A" * 64},
        {"sha256": ONE[1:] + "\n"},
        {"blobs": (ONE, "g" * 64)},
        {"blobs": (ONE, TWO[1:])},
        {"lists": ("",)},
        {"blobs": (ONE, TWO), "lists": (THREE,)},
        {"blobs": (ONE, TWO), "size": 0},
        {"lists": (ONE,), "size": 0},
        {"kind": "d", "size": 1},
        {"kind": "d", "sha256": ONE},
        {"kind": "l", "blobs": (ONE, TWO)},
        {"kind": "p", "lists": (ONE,)},
        {"kind": "l", "target": ""},
        {"kind": "l", "target": "a\0b"},
        {"kind": "l", "target": "a", "target_b64": "YQ=="},
        {"kind": "l", "target": "", "target_b64": "YQA="},
        {"kind": "l", "target": "", "target_b64": "Y"},
        {"kind": "c", "rdev": -1},
        {"kind": "b", "rdev": 2**64},
        {"xattrs": {"user.a": "Y"}},
        {"xattrs": {"user.\0": "YQ=="}},
        {"xattrs": {"user.a": base64.b64encode(bytes(XATTRS_MAX)).decode()}},
    ],
    ids=lambda wrong: ", ".join(f"{key}={str(value)[:20]}" for key, value in wrong.items()),
)
def test_fields_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        check(entry(**wrong))


@pytest.mark.parametrize(
    "right",
    [
        {"mode": 0, "mtime_ns": -(2**63), "uid": 2**32 - 1},
        {"size": 0},
        {"size": 2**63 - 1, "blobs": (ONE, TWO, ONE)},
        {"kind": "d", "mode": 0o7777},
        {"kind": "l", "target": "../../etc/passwd"},
        {"kind": "c", "rdev": 2**64 - 1},
        {"xattrs": {"user.a": base64.b64encode(bytes(XATTRS_MAX - 6)).decode()}},
    ],
    ids=lambda right: ", ".join(f"{key}={str(value)[:20]}" for key, value in right.items()),
)
def test_fields_at_their_limits(right: dict[str, Any]) -> None:
    assert check(entry(**right)) == [b"f"]


def test_fields_must_be_there() -> None:
    for field in ("type", "mode", "uid", "gid", "mtime_ns", "sha256"):
        record = {"path": "f", "type": "f", "mode": 0, "uid": 0, "gid": 0, "mtime_ns": 0, "sha256": ONE}
        del record[field]
        with pytest.raises(FormatError):
            check(Entry(**record))  # type: ignore[arg-type]


def test_unknown_keys_are_ignored_and_lines_must_be_lines() -> None:
    line = encode_line(entry())
    assert decode_entries(line[:-2] + b',"later":[{}]}\n') == [entry()]
    for bad in (line[:-2] + b"\n", b"[]\n", b"\xff\n", line + b"x", b'{"path":1}\n', b'{"size":1.5}\n'):
        with pytest.raises(FormatError):
            decode_entries(bad)


def test_hints_describe_each_blob_once_in_order() -> None:
    assert child_ids(
        [
            entry("a", sha256=TWO),
            entry("b", "d"),
            entry("c", size=0, sha256=THREE),
            entry("d", blobs=(ONE, TWO, ONE)),
            entry("e", lists=(THREE,)),
            entry("f", sha256=TWO),
        ]
    ) == [TWO, ONE, THREE]


@pytest.mark.parametrize(
    "rows",
    [
        [PluginRow("b"), PluginRow("a")],
        [PluginRow("a"), PluginRow("a")],
        [PluginRow("a"), PluginRow("", "YQ==")],
        [PluginRow("a"), PluginRow("")],
        [PluginRow("../a")],
        [PluginRow("a", "YQ==")],
        [PluginRow("", "!")],
    ],
    ids=lambda rows: " ".join(row.path or row.path_b64 for row in rows),
)
def test_plugin_tables_that_cannot_be(rows: list[PluginRow]) -> None:
    with pytest.raises(FormatError):
        decode_plugins(b"".join(map(encode_line, rows)))
