"""The index in memory: which frame of which pack holds a blob. Loaded from index objects, completed from packs."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate, compress, repeat
from typing import cast

from drkit.errors import FormatError, IntegrityError, ObjectNotFound, StoreCorrupt
from drkit.format import indexfile
from drkit.format.hints import encode_columns
from drkit.format.indexfile import ID_SIZE, IndexedPack
from drkit.format.limits import INDEX_MERGED
from drkit.format.pack import PackTable, read_table
from drkit.model import Finding, IndexId, Kind, PackId, Place
from drkit.repo.lock import condemned_packs
from drkit.repo.names import index_id_of, index_name, pack_id_of, pack_name, put_hashed
from drkit.store.base import ObjectInfo, Store
from drkit.store.parallel import in_parallel, is_remote, soon


class Index:
    """Blob → place. Ids are looked up by their first 16 bytes; about 130 bytes of memory for each blob."""

    def __init__(self) -> None:
        self.packs: dict[PackId, IndexedPack] = {}
        self._rows: dict[bytes, int] = {}
        self._others: dict[bytes, list[int]] = {}
        self._pack_ids: list[PackId] = []
        self._frame_pack = array("I")
        self._frame_offset = array("Q")
        self._frame_length = array("I")
        self._blob_frame = array("I")
        self._blob_offset = array("I")
        self._blob_length = array("I")

    def add_pack(self, pack: IndexedPack) -> None:
        """Add the blobs of a pack. A blob that is known already keeps its first place and gains another."""
        if pack.id in self.packs:
            return
        self.packs[pack.id] = pack
        table = pack.table
        number = len(self._pack_ids)
        self._pack_ids.append(pack.id)
        first_row = len(self._blob_frame)
        blob = 0
        for (frame_offset, length, _size), count in zip(table.offsets(), table.frame_blobs, strict=True):
            frame = len(self._frame_pack)
            self._frame_pack.append(number)
            self._frame_offset.append(frame_offset)
            self._frame_length.append(length)
            lengths: Sequence[int] = table.lengths[blob : blob + count]
            offsets: Iterable[int] = accumulate(lengths[:-1], initial=0) if count else ()
            kinds = table.kinds[blob : blob + count]
            if Kind.HINTS in kinds:  # whose ids are in no column
                has_id = [kind != Kind.HINTS for kind in kinds]
                lengths, offsets = list(compress(lengths, has_id)), compress(offsets, has_id)
            self._blob_frame.extend(repeat(frame, len(lengths)))
            self._blob_offset.extend(offsets)
            self._blob_length.extend(lengths)
            blob += count
        ids = bytes(table.ids)
        for row, at in enumerate(range(0, len(ids), ID_SIZE), first_row):
            key = ids[at : at + ID_SIZE]
            if self._rows.setdefault(key, row) != row:
                self._others.setdefault(key, []).append(row)

    def __contains__(self, blob_id: bytes) -> bool:
        return blob_id[:ID_SIZE] in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, blob_id: bytes) -> Place | None:
        """Return the first place of a blob, or None."""
        row = self._rows.get(blob_id[:ID_SIZE])
        return None if row is None else self._place(row)

    def find_all(self, blob_id: bytes) -> list[Place]:
        """Return every known place of a blob."""
        key = blob_id[:ID_SIZE]
        row = self._rows.get(key)
        return [] if row is None else [self._place(number) for number in (row, *self._others.get(key, ()))]

    def hints(self, ids: Iterable[bytes]) -> bytes | None:
        """Return the hints of blobs in the order of their ids; None if one of them is not known."""
        rows = [self._rows.get(blob_id[:ID_SIZE]) for blob_id in ids]
        if None in rows:
            return None
        known = cast("list[int]", rows)
        frames = [self._blob_frame[row] for row in known]
        return encode_columns(
            [self._pack_ids[self._frame_pack[frame]] for frame in frames],
            [self._frame_offset[frame] for frame in frames],
            [self._frame_length[frame] for frame in frames],
            [self._blob_offset[row] for row in known],
            [self._blob_length[row] for row in known],
        )

    def has_all(self, keys: bytes) -> bool:
        """Whether the blobs whose 16-byte keys stand in `keys`, in one piece, are all known."""
        rows = self._rows
        return all(keys[at : at + ID_SIZE] in rows for at in range(0, len(keys), ID_SIZE))

    def lengths(self, ids: Iterable[bytes]) -> list[int | None]:
        """Return the length of each blob, None of those that are not known."""
        rows, lengths = self._rows, self._blob_length
        return [None if (row := rows.get(blob_id[:ID_SIZE])) is None else lengths[row] for blob_id in ids]

    def locate(self, ids: Iterable[bytes], packs: set[PackId]) -> list[bytes]:
        """Add the packs of blobs to `packs`; return the ids that are not known."""
        rows, blob_frame, frame_pack = self._rows, self._blob_frame, self._frame_pack
        numbers: set[int] = set()
        missing = []
        for blob_id in ids:
            row = rows.get(blob_id[:ID_SIZE])
            if row is None:
                missing.append(blob_id)
            else:
                numbers.add(frame_pack[blob_frame[row]])
        packs.update(self._pack_ids[number] for number in numbers)
        return missing

    def _place(self, row: int) -> Place:
        frame = self._blob_frame[row]
        return Place(
            self._pack_ids[self._frame_pack[frame]],
            self._frame_offset[frame],
            self._frame_length[frame],
            self._blob_offset[row],
            self._blob_length[row],
        )


class LoadedIndex:
    """The index as the store has it now, and what was wrong with it."""

    def __init__(self) -> None:
        self.index = Index()
        self.findings: list[Finding] = []
        self.objects: list[IndexId] = []
        """The index objects that are live, that is, readable and not superseded."""
        self.superseded: list[IndexId] = []
        """Those in the store that others supersede: what supersedes one of these must supersede them, too."""
        self.damaged: list[IndexId] = []
        """The index objects that are not readable and not superseded."""
        self.unindexed: list[PackId] = []
        """Packs in the store that no index object names; their blobs are in the index all the same."""
        self.stale = False
        """Whether index objects name packs that are gone, or have another size."""


def stored_packs(store: Store, *, without: frozenset[PackId] = frozenset()) -> dict[PackId, int]:
    """Return the sizes of the packs that the store has, except those in `without`."""
    return {
        pack_id: info.size
        for info in store.list("packs/")
        if (pack_id := pack_id_of(info.name)) and pack_id not in without
    }


def load_index(
    store: Store, *, without: frozenset[PackId] = frozenset(), listed: Callable[[], dict[PackId, int]] | None = None
) -> LoadedIndex:
    """Load all live index objects, and the tables of packs that none of them names.

    A pack counts only if the store has it with the recorded size; `without` are packs to treat as absent. `listed`
    gives what `stored_packs` has said a moment ago. Damaged index objects and unreadable packs become findings, never
    errors: what they would have told is in the packs.
    """
    loaded = LoadedIndex()
    packs = soon(store, listed or partial(stored_packs, store))
    if not is_remote(store):
        packs()  # before the index, so that what that names and is not here is gone
    named: set[PackId] = set()
    pruned: frozenset[PackId] | None = None
    indexed = list(_indexed_packs(store, loaded))
    stored = {pack_id: size for pack_id, size in packs().items() if pack_id not in without}
    for pack in indexed:
        named.add(pack.id)
        size = stored.get(pack.id)
        if size == pack.size:
            loaded.index.add_pack(pack)
        elif pack.id not in without:
            loaded.stale = True
            if size is None:
                pruned = _pruned(store) if pruned is None else pruned
                if pack.id in pruned:
                    continue  # named by an index object that a backup wrote while a prune was under way
            what = "is missing" if size is None else f"has {size} bytes instead of {pack.size}"
            code = "pack-missing" if size is None else "pack-size"
            repair = _AGAIN if size is None else _REPLACE
            loaded.findings.append(Finding(code, pack_name(pack.id), f"the pack {what}", repair))
    for pack_id, size in stored.items():
        if pack_id not in named:
            _adopt(store, pack_id, size, loaded)
    return loaded


def _pruned(store: Store) -> frozenset[PackId]:
    """Return the packs that prunes have condemned: what of it is missing was deleted on purpose."""
    try:
        return frozenset().union(*condemned_packs(store).values())
    except FormatError:
        return frozenset()


def named_packs(store: Store) -> Iterator[IndexedPack]:
    """Yield what the live index objects say of packs, whether or not the store has those."""
    return _indexed_packs(store, LoadedIndex())


_AGAIN = (
    "run 'drkit repair', with --from URL if there is a copy; or back up again, which stores what the source still has; "
    "'drkit verify --level content' lists the rest"
)
_REPLACE = f"{_AGAIN}; when nothing is lost any more, move the pack out of the repository"


def _indexed_packs(store: Store, loaded: LoadedIndex) -> Iterator[IndexedPack]:
    superseded: set[IndexId] = set()
    readable: dict[IndexId, tuple[IndexedPack, ...]] = {}
    damaged: dict[IndexId, str] = {}
    # Newest first: what a later object supersedes need not be read at all, unless stamps are too coarse to tell.
    found = sorted(store.list("index/"), key=lambda info: info.modified, reverse=True)

    def read(info: ObjectInfo) -> indexfile.IndexObject | Exception | None:
        """Return an index object, or why it cannot be read; None if it counts for nothing, or is gone."""
        index_id = index_id_of(info.name)
        if index_id is None or index_id in superseded:
            return None
        try:
            data = store.get(info.name)
            if hashlib.sha256(data).digest() != index_id:
                raise FormatError("its bytes do not hash to its name")
            return indexfile.decode(data)
        except ObjectNotFound:
            return None  # a prune removed it after we listed
        except (IntegrityError, StoreCorrupt) as error:
            return error

    decoded = in_parallel(read, found) if is_remote(store) else map(read, found)
    for info, content in zip(found, decoded, strict=True):
        index_id = index_id_of(info.name)
        if index_id is None:
            message = "this is no index object: its name is not its hash"
            loaded.findings.append(Finding("stray", info.name, message, "move it out of the repository"))
        elif index_id in superseded:
            loaded.superseded.append(index_id)
        elif isinstance(content, Exception):
            damaged[index_id] = str(content)
        elif content is not None:
            readable[index_id] = content.packs
            superseded.update(content.supersedes)
    for index_id, why in damaged.items():
        if index_id in superseded:
            loaded.superseded.append(index_id)
        else:
            loaded.damaged.append(index_id)
            repair = "nothing is lost; the next 'drkit backup' that stores something writes the index anew"
            loaded.findings.append(Finding("index-damaged", index_name(index_id), why, repair))
    for index_id, packs in readable.items():
        if index_id in superseded:
            loaded.superseded.append(index_id)
        else:
            loaded.objects.append(index_id)
            yield from packs


def _adopt(store: Store, pack_id: PackId, size: int, loaded: LoadedIndex) -> None:
    try:
        table = read_pack_table(store, pack_id, size)
    except ObjectNotFound:
        return
    except (IntegrityError, StoreCorrupt) as error:
        loaded.findings.append(Finding("pack-damaged", pack_name(pack_id), str(error), _REPLACE))
        return
    loaded.unindexed.append(pack_id)
    loaded.index.add_pack(IndexedPack(pack_id, size, indexfile.shorten(table)))


def read_pack_table(store: Store, pack_id: PackId, size: int) -> PackTable:
    """Return a pack's own table, with full ids. FormatError if its tail is damaged."""
    name = pack_name(pack_id)
    return read_table(size, lambda offset, length: store.get_range(name, offset, length))


def write_index(
    store: Store, packs: Iterable[IndexedPack], supersedes: tuple[IndexId, ...] = ()
) -> tuple[list[IndexId], int]:
    """Store index objects for packs that are durable already, several if one would exceed 8 MiB.

    Returns their ids and the sum of their sizes.
    """
    batches: list[list[IndexedPack]] = [[]]
    size = 0
    for pack in packs:
        if size >= INDEX_MERGED:
            batches.append([])
            size = 0
        batches[-1].append(pack)
        size += len(pack.table.ids) + 5 * len(pack.table.lengths) + 12 * len(pack.table.frame_lengths)
    written = []
    total = 0
    for batch in batches:
        # The superseding object comes last: until it is there, the old ones stay live.
        # An old object may have come out the same again: then it stays live.
        old = tuple(index_id for index_id in supersedes if index_id not in written) if batch is batches[-1] else ()
        data = indexfile.encode(indexfile.IndexObject(tuple(batch), old))
        index_id = IndexId(hashlib.sha256(data).digest())
        put_hashed(store, index_name(index_id), data)
        written.append(index_id)
        total += len(data)
    return written, total
