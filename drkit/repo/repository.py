"""A repository: settings, snapshots, manifests and plugin tables on top of a store."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial

from msgspec import Struct, field

from drkit.clock import utc_now
from drkit.errors import FormatError, IntegrityError, StoreCorrupt, UsageError
from drkit.format import manifest, nodes, snapshot
from drkit.format.limits import FORMAT_MINOR, LEVELS
from drkit.format.settings import CompressionSettings, NewerFormat, ParitySettings, Settings
from drkit.model import (
    Entry,
    Finding,
    PackId,
    Place,
    PluginRow,
    Root,
    Snapshot,
    SnapshotId,
    show_path,
    sort_key,
)
from drkit.repo import opening
from drkit.repo.descent import Node, overlapping
from drkit.repo.index import Index, LoadedIndex, load_index
from drkit.repo.newest import Known, read_newest
from drkit.repo.parity import heal_if, healable
from drkit.repo.reader import CACHED, NODES_CACHED, BlobLost, BlobReader
from drkit.repo.roots import read_roots
from drkit.seal import KeySource, Secret, unlock
from drkit.store.base import Store
from drkit.store.parallel import soon
from drkit.store.url import file_of


class SnapshotRef(Struct, frozen=True):
    """A snapshot by name: its object's name, its id, and the time in the name."""

    name: str
    id: SnapshotId
    time: str


class Segment(Struct):
    """A stretch of a manifest: its entries, where their blobs lie (by id), and the entries' raw paths in step.

    `lost` says why a segment could not be read; it then has no entries, and everything from `first` on is unknown, up
    to the next segment's first path `until`, or to the end. `place` is where a hint says that the segment lies itself.
    """

    entries: list[Entry]
    places: dict[str, Place]
    lost: str = ""
    first: bytes = b""
    id: str = ""
    place: Place | None = None
    paths: list[bytes] = field(default_factory=list)
    until: bytes | None = None

    @property
    def stretch(self) -> str:
        """How far a lost segment goes, for people."""
        return "to the end" if self.until is None else f"to before {show_path(self.until)}"


class Repository:
    """Read access to a repository; backup, prune and copy write through `drkit.repo.packer` and the store."""

    def __init__(self, store: Store, config: Settings, findings: list[Finding], keys: KeySource | None = None) -> None:
        self.store = store
        self.config = config
        self.findings = findings
        self.keys = keys or KeySource()
        self._loaded: LoadedIndex | None = None
        self._roots: dict[str, Place] | None = None
        self._known: Callable[[], Known] = Known
        self._list_recent: Callable[[], list[SnapshotRef]] = self._recent

    @classmethod
    def create(
        cls,
        store: Store,
        *,
        now: datetime,
        small_level: int = 7,
        chunk_level: int = 3,
        parity: ParitySettings | None = None,
        secrets: Sequence[Secret] = (),
    ) -> Repository:
        """Make a new repository where nothing is, encrypted if there are secrets that are to open it.

        UsageError if there is something already.
        """
        config = opening.new_settings(now, CompressionSettings(small_level, chunk_level), parity)
        return cls(*opening.create(store, config, secrets, now), [])

    @classmethod
    def open(cls, store: Store, *, both: bool = True, keys: KeySource | None = None) -> Repository:
        """Open an existing repository; an encrypted one with `keys`, by default those that the environment names.

        RepositoryNotFound if there is none, FormatError if it is of a newer version, IntegrityError if both copies
        of its settings are damaged or lost, WrongKey if it stays closed. One damaged copy becomes a finding; without
        `both`, where each request counts, the second is only read if the first is no good.
        """
        keys = keys or KeySource()
        config, findings = opening.read_settings(store, both=both)
        if config.encryption is None and keys.named:  # somebody may have put it in the place of an encrypted one
            findings.append(Finding("not-encrypted", store.url, "a key is given, but it is not encrypted", _NO_KEY))
        repository = cls(*unlock(store, config, keys), findings, keys)
        if not both:  # what is going to be asked for: one after the other, ways there and back are half of all the time
            repository._known = soon(repository.store, partial(read_newest, repository.store))
            repository._list_recent = soon(repository.store, repository._recent)
        return repository

    def location(self) -> bytes | None:
        """Return the real path of a repository in the file system, directory or file; None of one elsewhere."""
        place = self.store.directory or file_of(self.store.url)
        return os.path.realpath(place) if place is not None else None

    def check_writable(self) -> None:
        """Raise NewerFormat if this version may read the repository but not write to it.

        UsageError if a key is given, but it is not encrypted: what is stored could be read by anybody.
        """
        if self.config.format.minor > FORMAT_MINOR:
            raise NewerFormat(f"the repository is of format 1.{self.config.format.minor}: this drkit may only read it")
        if self.config.encryption is None and self.keys.named:
            raise UsageError(f"a key is given, but the repository in {self.store.url} is not encrypted", hint=_NO_KEY)

    # Index and blobs

    @property
    def index(self) -> Index:
        """The index, loaded when first asked for."""
        return self.load_index().index

    def load_index(self, fresh: bool = False) -> LoadedIndex:
        """Return the index with what is wrong with it; `fresh` loads it anew."""
        if self._loaded is None or fresh:
            self._loaded = load_index(self.store)
        return self._loaded

    def reader(self, limit: int = CACHED) -> BlobReader:
        """Return a reader of blobs, for one thread, that keeps so many bytes of decoded frames."""
        parity = self.config.parity is not None
        return BlobReader(self.store, self._fresh_index, limit, parity=parity, known=self._known())

    def _fresh_index(self, fresh: bool) -> Index:
        return self.load_index(fresh).index

    # Snapshots

    def snapshots(self, *, after: str = "") -> list[SnapshotRef]:
        """Return all snapshots, or those with a time greater than `after`, oldest first.

        Other files among them become findings.
        """
        refs = []
        for info in self.store.list("snapshots/", after=after and f"snapshots/{after}"):
            try:
                time, snapshot_id = snapshot.parse_name(info.name)
            except FormatError as error:
                if not any(finding.object == info.name for finding in self.findings):
                    self.findings.append(Finding("snapshot-name", info.name, str(error), error.hint))
                continue
            refs.append(SnapshotRef(info.name, snapshot_id, time))
        return refs

    def load(self, ref: SnapshotRef) -> Snapshot:
        """Return the snapshot itself. IntegrityError if its bytes are damaged or unreadable."""
        try:
            return snapshot.decode(ref.name, self.store.get(ref.name))
        except NewerFormat:
            raise
        except (FormatError, StoreCorrupt) as error:
            if data := heal_if(self.config, self.store, ref.name, bytes.fromhex(ref.id)):
                finding = healable(ref.name, error)
                self.findings += () if finding in self.findings else (finding,)
                return snapshot.decode(ref.name, data)
            raise IntegrityError(str(error), hint=_VERIFY_ALL) from error

    def latest(self) -> SnapshotRef | None:
        """Return the newest snapshot that is readable and not tagged `rejected`, or None."""
        return self._newest() or self._latest(self.snapshots(), [])

    def _newest(self) -> SnapshotRef | None:
        """Return the latest where a remote store has it among those of the last days: a list is many requests."""
        if self.store.directory is not None:
            return None
        listed, self._list_recent = self._list_recent, self._recent  # the next time, as it is then
        return self._latest(listed(), [])

    def _recent(self) -> list[SnapshotRef]:
        return self.snapshots(after=snapshot.time_after(utc_now() - _RECENT, None))

    def _latest(self, refs: list[SnapshotRef], errors: list[IntegrityError]) -> SnapshotRef | None:
        for ref in reversed(refs):
            try:
                loaded = self.load(ref)
            except IntegrityError as error:
                errors.append(error)
                self.findings.append(Finding("snapshot-damaged", ref.name, str(error), _OTHER_SNAPSHOT))
                continue
            if "rejected" not in loaded.tags:
                return ref
        return None

    def resolve(self, spec: str) -> SnapshotRef:
        """Return the snapshot that `latest`, an id prefix or a name prefix means. UsageError lists the candidates.

        IntegrityError if there are snapshots, but none of them can be read.
        """
        if spec == "latest" and (newest := self._newest()):
            return newest
        refs = self.snapshots()
        if spec == "latest":
            errors: list[IntegrityError] = []
            if ref := self._latest(refs, errors):
                return ref
            raise opening.no_latest(len(refs), errors)
        matches = [ref for ref in refs if spec and (ref.id.startswith(spec.lower()) or ref.time.startswith(spec))]
        if len(matches) == 1:
            return matches[0]
        shown = ", ".join(f"{ref.id[:12]} ({ref.time})" for ref in (matches or refs)[-5:]) or "none"
        what = "is ambiguous" if matches else "is not a snapshot"
        raise UsageError(f"{spec!r} {what}; the newest are: {shown}", hint="list them all with 'drkit snapshots'")

    # Manifests and plugin tables

    def segments(
        self,
        snap: Snapshot,
        *,
        below: bytes = b"",
        skip: Container[str] = (),
        within: Callable[[bytes], bool] | None = None,
        passed: Callable[[str], object] | None = None,
        again: bool = False,
        places: bool = True,
    ) -> Iterator[Segment]:
        """Yield the manifest in order, checked. What is damaged comes as a segment that says so.

        `again` leaves out the checks of paths and order, which a pass before has made of the same bytes: they are
        named by their hash. Without `places` the segments say nothing of where their blobs lie.

        With `below`, only segments that can hold that path or something below it; with `within`, those of which it
        takes the first path. Those with an id in `skip`, which the caller knows already, are not read. `passed` is
        told the id of each list on the way.
        """
        reader = self.reader(NODES_CACHED)
        checker = manifest.EntryChecker(partial=bool(below))
        lost: Segment | None = None
        for node in self.leaves(reader, snap.manifest, below=below, passed=passed):
            if lost is not None:
                lost.until = node.first
                yield lost
                lost = None
            if within is not None and not within(node.first):
                continue
            if isinstance(node, Segment):
                checker.skip()
                lost = node
                continue
            if node.id in skip:
                checker.skip()
                continue
            try:
                data, found = reader.node(node.id, node.place) if places else (reader.blob(node.id, node.place), [])
                entries = manifest.decode_entries(data)
                paths = [entry.raw_path for entry in entries] if again else checker.check(entries)
                if not paths or paths[0] != node.first:
                    raise FormatError("a segment does not begin with the path that its list says")
            except (BlobLost, FormatError) as error:
                checker.skip()
                lost = Segment([], {}, lost=str(error), first=node.first, id=node.id)
                continue
            known = zip(manifest.child_ids(entries), found, strict=False) if found else ()
            found_places = {child: place for child, place in known if place is not None}
            yield Segment(entries, found_places, first=node.first, id=node.id, place=node.place, paths=paths)
        if lost is not None:
            yield lost

    def plugins(self, snap: Snapshot) -> Iterator[PluginRow]:
        """Yield the plugin table in order. IntegrityError if a part of it is lost."""
        yield from self._plugin_rows(snap, b"")

    def plugin(self, snap: Snapshot, name_or_path: str) -> PluginRow:
        """Return the plugin of this path or name. UsageError lists the paths of an ambiguous name."""
        raw = os.fsencode(name_or_path).strip(b"/")
        raw = b"" if raw == b"." else raw
        for row in self._plugin_rows(snap, raw):
            if row.raw_path == raw:
                return row
        rows = list(self.plugins(snap))
        matches = [row for row in rows if row.name == name_or_path]
        if len(matches) == 1:
            return matches[0]
        if matches:
            paths = ", ".join(show_path(row.raw_path) for row in matches)
            raise UsageError(
                f"{name_or_path!r} names {len(matches)} plugins: {paths}",
                hint="give the path instead of the name",
            )
        import difflib

        known = [row.name for row in rows] + [show_path(row.raw_path) for row in rows]
        near = ", ".join(difflib.get_close_matches(name_or_path, known, n=3))
        raise UsageError(
            f"there is no plugin {name_or_path!r} in this snapshot" + (f"; near: {near}" if near else ""),
            hint="list them with 'drkit plugins'",
        )

    def _plugin_rows(self, snap: Snapshot, below: bytes) -> Iterator[PluginRow]:
        reader = self.reader()
        for node in self.leaves(reader, snap.plugin_table, below=below):
            if isinstance(node, Segment):
                raise IntegrityError(f"a part of the plugin table is lost: {node.lost}", hint=_OTHER_SNAPSHOT)
            yield from manifest.decode_plugins(reader.blob(node.id, node.place))

    def leaves(
        self, reader: BlobReader, root: Root, *, below: bytes = b"", passed: Callable[[str], object] | None = None
    ) -> Iterator[Node | Segment]:
        """Yield the segments of a tree as nodes, in order; a lost list as a Segment that says so.

        `passed` is told the id of each list on the way.
        """
        yield from self._descend(reader, self.top(root), root.level, None, below, passed)

    def top(self, root: Root) -> list[Node]:
        """Return the children of a root, with the places that a prune gave them last."""
        if not 0 <= root.level < LEVELS:
            raise FormatError(f"a manifest of {root.level} levels is over the limit")
        known = self._known()
        moved = known.roots
        if any(child.id not in known.nodes and child.id not in moved for child in root.children):
            if self._roots is None:  # before the snapshot's places, which may lead to old copies with old hints
                self._roots = read_roots(self.store)
            moved = {**self._roots, **moved}
        return [
            Node(
                child.raw_first,
                child.id,
                moved.get(child.id)
                or Place(
                    PackId(bytes.fromhex(child.pack)),
                    child.frame_offset,
                    child.frame_length,
                    child.offset,
                    child.length,
                )
                if child.pack
                else None,
            )
            for child in root.children
        ]

    def _descend(
        self,
        reader: BlobReader,
        children: Sequence[Node],
        level: int,
        end: bytes | None,
        below: bytes,
        passed: Callable[[str], object] | None,
    ) -> Iterator[Node | Segment]:
        for node, until in overlapping(children, end, below):
            if level == 0:
                yield node
                continue
            if passed is not None:
                passed(node.id)
            try:
                data, found = reader.node(node.id, node.place)
                lines = nodes.decode_children(data)
                if lines[0][0] != node.first or (until is not None and sort_key(lines[-1][0]) >= until):
                    raise FormatError("a list holds other paths than the list above it says")
            except (BlobLost, FormatError) as error:
                yield Segment([], {}, lost=str(error), first=node.first, id=node.id)
                continue
            inner = [
                Node(first, node_id, found[number] if number < len(found) else None)
                for number, (first, node_id) in enumerate(lines)
            ]
            yield from self._descend(reader, inner, level - 1, until, below, passed)


_NO_KEY = "take DRKIT_KEY_FILE and DRKIT_PASSWORD… out of the environment, or find out who replaced drkit.json"
_RECENT = timedelta(days=10)
_VERIFY_ALL = "run 'drkit verify --all' to see what is damaged"
_OTHER_SNAPSHOT = "restore from another snapshot ('drkit snapshots'), and back up again"
