"""Hypothesis strategies for what the format describes: paths, entries, plugins, places, packs' tables, snapshots."""

from __future__ import annotations

import base64
from array import array

from hypothesis import strategies as st

from drkit.format.manifest import text_or_b64
from drkit.format.pack import PackTable
from drkit.model import (
    Child,
    Entry,
    FormatVersion,
    Kind,
    PackId,
    Place,
    PluginRow,
    Root,
    Snapshot,
    sort_key,
)

U32 = st.integers(0, 2**32 - 1)
DIGITS = st.binary(min_size=32, max_size=32).map(bytes.hex)
PACKS = st.binary(min_size=32, max_size=32).filter(any).map(PackId)
ODD_NAMES = [
    b"\n",
    b".\n",
    b"..\n",
    b"...",
    b".a",
    b" ",
    b"\\",
    b"\x01",
    b"\xff",
    "é".encode(),
    b"-",
    b"a:b",
    b"n" * 255,
]
NAMES = st.one_of(
    st.sampled_from(ODD_NAMES),
    st.binary(min_size=1, max_size=12)
    .map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda raw: raw not in {b".", b".."}),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join)
XATTRS = st.dictionaries(
    TEXT.filter(lambda name: "\0" not in name), st.binary(max_size=40).map(lambda raw: base64.b64encode(raw).decode())
)


@st.composite
def entries(draw: st.DrawFn, path: bytes | None = None, kinds: str = "fdlpcb") -> Entry:
    """One entry that the format allows, of that path and one of those types."""
    text, b64 = text_or_b64(draw(PATHS) if path is None else path)
    kind = draw(st.sampled_from(kinds))
    common = Entry(
        path=text,
        path_b64=b64,
        type=kind,
        mode=0 if kind == "l" else draw(st.integers(0, 0o7777)),
        uid=draw(U32),
        gid=draw(U32),
        mtime_ns=draw(st.integers(-(2**63), 2**63 - 1)),
        xattrs=draw(st.none() | XATTRS.filter(bool)),
        link=draw(st.integers(0, 2**48 - 1)) if kind != "d" else 0,
    )
    fields = {name: getattr(common, name) for name in common.__struct_fields__}
    if kind == "f":
        parts = tuple(draw(st.lists(DIGITS, max_size=4)))
        fields |= {"size": draw(st.integers(1, 2**63 - 1)), "sha256": draw(DIGITS), "live": draw(st.booleans())}
        fields[draw(st.sampled_from(["blobs", "lists"]))] = parts
    elif kind == "l":
        target = draw(st.binary(min_size=1, max_size=30).filter(lambda raw: b"\0" not in raw))
        fields["target"], fields["target_b64"] = text_or_b64(target)
    elif kind in "cb":
        fields["rdev"] = draw(st.integers(0, 2**64 - 1))
    return Entry(**fields)


@st.composite
def manifests(draw: st.DrawFn) -> list[Entry]:
    """Entries in manifest order, each in a directory that comes before it."""
    found: set[bytes] = set()
    for path in draw(st.lists(PATHS, max_size=12)):
        found |= {path, *(b"/".join(path.split(b"/")[:depth]) for depth in range(1, path.count(b"/") + 1))}
    parents = {path.rpartition(b"/")[0] for path in found}
    ordered = sorted(found, key=sort_key)
    return [draw(entries(path, "d" if path in parents else "fdlpcb")) for path in ordered]


@st.composite
def plugin_rows(draw: st.DrawFn) -> list[PluginRow]:
    """The rows of a plugin table, perhaps with the source itself, in order."""
    paths = draw(st.lists(st.just(b"") | PATHS, max_size=6, unique=True))
    counts = st.integers(0, 2**63 - 1)
    return [
        PluginRow(*text_or_b64(path), draw(TEXT), draw(TEXT), draw(counts), draw(counts), draw(DIGITS))
        for path in sorted(paths, key=sort_key)
    ]


def places() -> st.SearchStrategy[Place]:
    """Places as a table can hold them, often in the same few packs and frames."""
    few = st.sampled_from([PackId(bytes([number]) * 32) for number in (1, 2, 3)])
    frame = st.sampled_from([0, 100, 2**32 - 1]) | U32
    return st.builds(Place, few | PACKS, frame, st.integers(1, 2**32 - 1), U32, U32)


@st.composite
def tables(draw: st.DrawFn, id_size: int = 32) -> PackTable:
    """What a pack may hold."""
    table = PackTable(array("I"), array("I"), array("I"), bytearray(), array("I"), bytearray(), id_size=id_size)
    for _ in range(draw(st.integers(0, 5))):
        kinds = draw(st.lists(st.sampled_from(list(Kind)), min_size=1, max_size=5))
        ids = st.binary(min_size=id_size, max_size=id_size)
        lengths = st.integers(0, 2**20)
        blobs = [(kind, b"" if kind == Kind.HINTS else draw(ids), draw(lengths)) for kind in kinds]
        table.add(draw(st.integers(1, 2**20)), blobs)
    return table


@st.composite
def roots(draw: st.DrawFn) -> Root:
    """The root of a tree, with and without places."""
    firsts = sorted(draw(st.lists(PATHS, max_size=16, unique=True)), key=sort_key)
    pack, number = DIGITS | st.just(""), U32
    children = tuple(
        Child(*text_or_b64(first), draw(DIGITS), draw(pack), draw(number), draw(number), draw(number), draw(number))
        for first in firsts
    )
    return Root(draw(st.integers(0, 7)), children)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Snapshots that this version may write."""
    moment = draw(st.datetimes())
    source, source_b64 = text_or_b64(b"/" + draw(PATHS))
    number = st.integers(0, 2**63 - 1)
    return Snapshot(
        format=FormatVersion(minor=draw(st.integers(0, 3))),
        repository_id=draw(st.binary(min_size=16, max_size=16).map(bytes.hex)),
        # Not strftime: C libraries differ over the zeros before years of three digits.
        time=f"{moment.isoformat(timespec='microseconds').replace('-', '').replace(':', '')}Z",
        clock=moment.isoformat(),
        host=draw(TEXT),
        manifest=draw(roots()),
        plugin_table=draw(roots()),
        tree_sha256=draw(DIGITS),
        program=draw(TEXT),
        scope="whole",
        source=source,
        source_b64=source_b64,
        parent=draw(st.none() | DIGITS),
        tags=tuple(draw(st.lists(TEXT, max_size=3))),
        excludes=tuple(draw(st.lists(TEXT, max_size=3))),
        files=draw(number),
        dirs=draw(number),
        others=draw(number),
        plugins=draw(number),
        bytes=draw(number),
        skipped=draw(number),
    )
