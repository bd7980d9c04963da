"""What is live: every blob that a snapshot needs, and for each node above them what its hints say."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from enum import Enum

from msgspec import Struct

from drkit.errors import FormatError, IntegrityError, ObjectNotFound, StoreError
from drkit.format import manifest, nodes
from drkit.format.indexfile import ID_SIZE
from drkit.model import Kind, PackId, Place, Root, Snapshot
from drkit.repo import BlobReader, Repository, SnapshotRef

_LOST = (
    "run 'drkit verify --all' for what is lost, and mend it or forget the snapshot first: "
    "what lies below a damaged part is not known, so nothing can be given back"
)

_DAMAGED = (
    "bring it back from a copy with 'drkit repair --from URL'; where no copy has it, move it out of the repository: "
    "the space of what it alone needed is given back then"
)
_LISTS = "a prune needs a store that lists what it has; see 'drkit doctor --store URL'"


class Form(Enum):
    """What the content of a node is, from which its children are read."""

    IDS = "a blob list"
    ENTRIES = "a segment of the manifest"
    PLUGINS = "a segment of the plugin table"
    CHILDREN = "a list"

    @property
    def kind(self) -> Kind:
        """The kind of its blob."""
        return Kind.SEGMENT if self in (Form.ENTRIES, Form.PLUGINS) else Kind.LIST


class Node(Struct, frozen=True):
    """A node that is live: its id, what it holds, and how high it stands above the data.

    `children` are 16-byte keys in one piece; `hinted` the packs that its hints name, None if they lack a child.
    """

    id: bytes
    form: Form
    height: int
    children: bytes
    hinted: frozenset[PackId] | None


def children_of(form: Form, data: bytes) -> list[bytes]:
    """Return the ids of a node's children as its hints have them: each once. FormatError if it is damaged."""
    if form is Form.IDS:
        return list(dict.fromkeys(data[at : at + 32] for at in range(0, len(data), 32)))
    if form is Form.CHILDREN:
        return [bytes.fromhex(node_id) for _, node_id in nodes.decode_children(data)]
    if form is Form.ENTRIES:
        return list(map(bytes.fromhex, manifest.child_ids(manifest.decode_entries(data))))
    return []


class Live:
    """All that the snapshots need which were added. `nodes` come after their children; the newest snapshot first."""

    def __init__(self, repo: Repository) -> None:
        self.keys: set[bytes] = set()
        self.nodes: dict[bytes, Node] = {}
        self.roots: dict[bytes, set[Place | None]] = {}
        """The children of the snapshots' roots, and where the snapshots say that they lie."""
        self.names: set[str] = set()
        self._repo = repo
        self._reader: BlobReader = repo.reader()

    def add(self, names: Sequence[str]) -> set[bytes]:
        """Add the snapshots that are new, the newest first; return the keys that were not live before.

        IntegrityError if a snapshot, or a node of one, cannot be read; StoreError if the store lists it now and then.
        """
        before = set(self.keys) if self.names else set()
        refs = {ref.name: ref for ref in self._repo.snapshots()}
        for name in sorted(set(names) - self.names, reverse=True):
            with contextlib.suppress(ObjectNotFound):  # its backup took it back, or somebody forgot it
                try:
                    self._snapshot(self._load(name, refs.get(name)))
                except IntegrityError:
                    self._repo.store.stat(name)  # one that is gone need not be whole
                    raise
                self.names.add(name)
        return self.keys - before

    def _load(self, name: str, ref: SnapshotRef | None) -> Snapshot:
        if ref is None:
            self._repo.store.stat(name)
            raise StoreError(f"{self._repo.store.url} does not list {name}, which it has", hint=_LISTS)
        try:
            return self._repo.load(ref)
        except FormatError as error:
            raise IntegrityError(str(error), hint=_DAMAGED) from error

    def _snapshot(self, snap: Snapshot) -> None:
        for root, form in ((snap.manifest, Form.ENTRIES), (snap.plugin_table, Form.PLUGINS)):
            for child in root.children:
                self.roots.setdefault(bytes.fromhex(child.id), set()).add(_place(child.pack, child))
            self._tree(root, form)

    def _tree(self, root: Root, form: Form) -> None:
        for node in self._repo.top(root):
            self._visit(bytes.fromhex(node.id), node.place, Form.CHILDREN if root.level else form, form, root.level)

    def _visit(self, node_id: bytes, place: Place | None, form: Form, leaf: Form, level: int) -> None:
        key = node_id[:ID_SIZE]
        if key in self.nodes:
            return
        try:
            data, found = self._reader.node(node_id.hex(), place)
            children = children_of(form, data)
        except FormatError as error:
            raise IntegrityError(f"the node {node_id.hex()[:16]}… is damaged: {error}", hint=_LOST) from error
        except IntegrityError as error:
            raise IntegrityError(str(error), hint=_LOST) from error
        places: list[Place | None] = found if len(found) == len(children) else [None] * len(children)
        if form is Form.CHILDREN:
            below = Form.CHILDREN if level > 1 else leaf
            for child, where in zip(children, places, strict=True):
                self._visit(child, where, below, leaf, level - 1)
        elif form is Form.ENTRIES:
            for list_id in _lists(data):
                where = dict(zip(children, places, strict=True)).get(list_id)
                self._visit(list_id, where, Form.IDS, leaf, 0)
        packs = {one.pack for one in places if one is not None}
        self.nodes[key] = Node(
            node_id,
            form,
            level + 1 if form is Form.CHILDREN else int(form is not Form.IDS),
            b"".join([child[:ID_SIZE] for child in children]),
            None if None in places else frozenset(packs),
        )
        self.keys.add(key)
        self.keys.update(child[:ID_SIZE] for child in children)


def _lists(segment: bytes) -> list[bytes]:
    if b'"lists"' not in segment:
        return []
    entries = manifest.decode_entries(segment)
    return [bytes.fromhex(list_id) for entry in entries for list_id in entry.lists]


def _place(pack: str, child: object) -> Place | None:
    numbers = (getattr(child, name) for name in ("frame_offset", "frame_length", "offset", "length"))
    return Place(PackId(bytes.fromhex(pack)), *numbers) if pack else None
