"""The repair verb: read everything, heal it from copies in the order of writing, and say what is lost.

Settings → packs → what no whole pack holds → index → snapshots. Killed anywhere, the next repair goes on: a bad
object is replaced only when it lies in quarantine, and taken away only when all that is good in it is stored anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import datetime
from time import monotonic

from drkit.errors import (
    FormatError,
    IntegrityError,
    LockedError,
    ObjectNotFound,
    RepositoryNotFound,
    StoreCorrupt,
    UsageError,
)
from drkit.format import settings
from drkit.format.indexfile import IndexedPack
from drkit.format.settings import Settings
from drkit.model import Finding, Level, PackId
from drkit.progress import NullProgress, Progress
from drkit.repair.examine import named_right, parse_pack, read_pack, snapshot_problem
from drkit.repair.quarantine import Quarantine
from drkit.repair.report import Healed, RepairReport
from drkit.repair.rescue import Rescue
from drkit.repo import BlobReader, Repository, opening
from drkit.repo.index import Index, load_index, named_packs, stored_packs, write_index
from drkit.repo.lock import BackupLock, put_record, read_record
from drkit.repo.names import index_name, pack_name
from drkit.repo.packer import Packer
from drkit.repo.parity import check_parity, heal, make_parity, parity_name, parity_problem
from drkit.seal import KeySource, beside, unlock
from drkit.seal.keys import read_slots, slot_names
from drkit.store.base import Store
from drkit.verify import verify
from drkit.verify.packs import table_digest

_WORKERS = 2
_LOST = frozenset(
    {"file-lost", "segment-lost", "plugins-lost", "snapshot-damaged", "tree-damaged", "tree-hash", "file-size"}
)
_ANOTHER = "look for it in another copy: 'drkit repair --from URL'; 'drkit backup' stores what the source still has"


def repair(
    store: Store,
    copies: Sequence[Store],
    *,
    dry_run: bool = False,
    progress: Progress,
    now: Callable[[], datetime],
    keys: KeySource | None = None,
) -> RepairReport:
    """Heal the repository in `store` from `copies`, the first that has a good object first; without any, save
    what can be read and name the rest.

    What is missing here and whole in a copy is brought back too, snapshots included. With `dry_run` everything is
    read and nothing written. UsageError if a copy is of another repository, LockedError if a prune works here,
    RepositoryNotFound or IntegrityError if there are no settings, here or in a copy. An encrypted repository is opened
    with `keys`, or as a copy of it was.
    """
    began = monotonic()
    keys = keys or KeySource()
    donors = [Repository.open(copy, keys=keys) for copy in copies]
    store = _unlocked(store, donors, keys)
    job = _Job(store, donors, dry_run, Quarantine(store, now()), progress)
    job.settings()
    with ExitStack() as stack:
        if not dry_run:
            if next(store.list("locks/prune-"), None) is not None:
                raise LockedError(f"a prune is working on {store.url}", hint="wait until it has ended")
            lock = stack.enter_context(BackupLock(store, now))
            for donor in donors:
                lock.refuse_in(donor.store)
            job.hold(lock)
        job.packs()
        job.rescue()
        job.index()
        job.records()
        job.others()
        job.snapshots()
    lost = job.losses()
    return RepairReport(
        store=store.url,
        sources=tuple(copy.url for copy in copies),
        dry_run=dry_run,
        ok=not lost,
        healed=tuple(job.healed),
        quarantined=tuple(job.quarantine.names),
        rescued=job.rescued,
        index_rebuilt=job.index_rebuilt,
        packs_read=job.packs_read,
        bytes_read=job.bytes_read,
        lost=tuple(lost),
        duration_s=round(monotonic() - began, 3),
    )


class _Job:
    """One repair under way."""

    config: Settings

    def __init__(
        self, store: Store, donors: Sequence[Repository], dry_run: bool, quarantine: Quarantine, progress: Progress
    ) -> None:
        self.healed: list[Healed] = []
        self.quarantine = quarantine
        self.rescued = self.packs_read = self.bytes_read = 0
        self.index_rebuilt = False
        self._store = store
        self._donors = donors
        self._dry_run = dry_run
        self._progress = progress
        self._whole: dict[PackId, IndexedPack] = {}
        """Packs that are whole, or healed, with what their own tables say."""
        self._bad: dict[PackId, str] = {}
        """Packs that no copy gives back, and what is wrong with them."""
        self._named: dict[PackId, IndexedPack] = {}
        self._tick: Callable[[], object] = dict

    def hold(self, lock: BackupLock) -> None:
        """Keep a lock fresh as long as the job takes."""
        self._tick = lock.refresh

    def settings(self) -> None:
        """Heal the settings and the recovery program; a store that is empty becomes a repository again."""
        from drkit import recovery

        bad: list[Finding] = []
        try:
            self.config, bad = opening.read_settings(self._store)
        except (RepositoryNotFound, IntegrityError) as error:
            if not self._donors:
                raise
            if isinstance(error, RepositoryNotFound):
                opening.refuse_strangers(self._store, opening.OF_REPOSITORY)
            self.config = self._donors[0].config
            bad = [Finding("", name, "the settings are missing or damaged", "") for name in opening.SETTINGS_NAMES]
        for donor in self._donors:
            if donor.config.repository_id != self.config.repository_id:
                raise UsageError(
                    f"{donor.store.url} holds another repository ({donor.config.repository_id})",
                    hint="name a copy of this one with --from",
                )
        self.config = unlock(self._store, self.config, KeySource({}))[1]
        Repository(self._store, self.config, []).check_writable()
        check_parity(self.config)
        if not self._dry_run:
            self._store.prepare()
        for finding in reversed(bad):
            self._heal(finding.object, finding.message, settings.encode(self.config), "the other copy")
        for name, data in recovery.files().items():
            with suppress(StoreCorrupt, ObjectNotFound):
                if self._store.get(name) == data:
                    continue
            self._heal(name, "missing, damaged or of another version", data, "this drkit")

    def packs(self) -> None:
        """Read every pack; bring back from its parity or a copy those that are damaged or missing."""
        here = stored_packs(self._store)
        self._named = {pack.id: pack for pack in named_packs(self._store)}
        self._read(dict.fromkeys([*here, *self._named]))
        index = Index()
        for donor in self._donors:
            for pack in self._whole.values():
                index.add_pack(pack)
            # Of what a prune here has joined, a copy may have the old packs as well.
            more = [pack.id for pack in donor.index.packs.values() if not index.has_all(bytes(pack.table.ids))]
            self._read([pack_id for pack_id in more if pack_id not in self._bad])

    def _read(self, wanted: Collection[PackId]) -> None:
        self._progress.start(len(wanted), None, "reading packs")
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="drkit-repair") as pool:
            for pack_id, (pack, problem, parity) in zip(wanted, pool.map(self._look, wanted), strict=True):
                self.packs_read += 1
                self._tick()
                self._progress.advance(1, 0)
                if pack is not None:
                    self._whole[pack_id] = pack
                    self.bytes_read += pack.size
                elif (pack := self._heal_pack(pack_id, problem)) is not None:
                    self._whole[pack_id] = pack
                else:
                    self._bad[pack_id] = problem
                if pack is not None and parity:
                    self._heal_parity(pack_id, pack_name(pack_id), parity)

    def _look(self, pack_id: PackId) -> tuple[IndexedPack | None, str, str]:
        """Return a pack, if it is whole, and what is wrong with it and with its parity."""
        parity = parity_problem(self._store, pack_id) if self.config.parity else ""
        return *read_pack(self._store, pack_id)[1:], parity

    def _heal_pack(self, pack_id: PackId, problem: str) -> IndexedPack | None:
        for source, data in self._candidates(pack_id):
            pack, _ = parse_pack(pack_id, data)
            if pack is not None:
                self._heal(pack_name(pack_id), problem, data, source)
                return pack
        return None

    def _candidates(self, pack_id: PackId) -> Iterator[tuple[str, bytes]]:
        """Yield what may be the pack: what its parity gives back, copies, and what their parity gives back."""
        parity = self.config.parity is not None
        if parity:
            yield parity_name(pack_id), heal(self._store, pack_name(pack_id), pack_id)
        for donor in self._donors:
            yield donor.store.url, read_pack(donor.store, pack_id)[0]
        for donor in self._donors if parity else ():
            yield f"the parity in {donor.store.url}", heal(donor.store, pack_name(pack_id), pack_id)

    def _heal_parity(self, object_id: bytes, name: str, problem: str) -> None:
        made = b"" if self._dry_run else make_parity(self.config, object_id, self._store.get(name))
        self._heal(parity_name(object_id), problem, made, name)

    def rescue(self) -> None:
        """Store anew what snapshots need and no whole pack holds: it may be in damaged ones, or in a copy's others."""
        index = Index()
        for pack in self._whole.values():
            index.add_pack(pack)
        with ExitStack() as stack:
            packer = None
            if not self._dry_run:
                # A new pack must not get the name of one that is going to be set aside.
                packer = Packer(self._store, lambda: index, self.config, level=None, condemned=frozenset(self._bad))
                stack.enter_context(packer)
            everywhere = [self._salvager(), *(donor.reader() for donor in self._donors)]
            rescue = Rescue(index, everywhere, packer)
            for repo in self._repos():
                for ref in repo.snapshots():
                    self._tick()
                    with suppress(IntegrityError):
                        rescue.snapshot(repo.load(ref))
            self.rescued = rescue.rescued
            if packer is not None:
                packer.finish()
                self._whole.update((pack.id, pack) for pack in packer.new_packs)

    def _salvager(self) -> BlobReader:
        """Return a reader that looks into damaged packs, too, also into those that became shorter."""
        every = Index()
        for pack in (*self._whole.values(), *self._named.values(), *load_index(self._store).index.packs.values()):
            every.add_pack(pack)
        return BlobReader(self._store, lambda _fresh: every)

    def index(self) -> None:
        """Write the index anew, from the packs' own tables, if it is not just that; set bad packs aside after it."""
        loaded = load_index(self._store, without=frozenset(self._bad))
        known = {pack_id: table_digest(pack.table) for pack_id, pack in loaded.index.packs.items()}
        right = {pack_id: table_digest(pack.table) for pack_id, pack in self._whole.items()}
        bad_names = [index_name(index_id) for index_id in loaded.damaged]
        self.index_rebuilt = bool(bad_names or loaded.stale or loaded.unindexed or self._bad or known != right)
        if self._dry_run or not self.index_rebuilt:
            return
        old = (*loaded.objects, *loaded.damaged, *loaded.superseded)
        for name in bad_names:
            self.quarantine.keep(name)  # the new one may get the same name
        written, _ = write_index(self._store, self._whole.values(), old)
        for name in set(bad_names) - {index_name(index_id) for index_id in written}:
            self.quarantine.remove(name)
        for pack_id in self._bad:
            self.quarantine.remove(pack_name(pack_id))
            if self.config.parity is not None:
                self.quarantine.remove(parity_name(pack_id))

    def records(self) -> None:
        """Set aside prune records that cannot be read; from the others take what is here.

        No prune is at work: what one condemned is as good as before, and snapshots that come back may need it.
        """
        names = [info.name for info in self._store.list("prunes/")]
        if self._dry_run or next(self._store.list("locks/prune-"), None) is not None:  # it has begun meanwhile
            return
        for name in names:
            try:
                packs = read_record(self._store, name)
            except ObjectNotFound:
                continue
            except FormatError:
                self.quarantine.remove(name)
                continue
            if spared := packs & self._whole.keys():
                put_record(self._store, name, packs - spared)

    def others(self) -> None:
        """Heal key slots and rows of inventories, of which the names hold a hash."""
        places = [repo.store for repo in self._donors]
        slots = read_slots(self._store, both=True)
        for slot in slots:
            for name in slot_names(slot.id):
                if not slot.twice and not named_right(self._store, name):
                    self._heal(name, "missing or damaged", slot.data, "its other copy")
        # A slot that was removed here is not to come back, unless there is none left; one that is damaged is.
        for prefix in ("keys/", "inventory/"):
            known = (self._store,) if slots and prefix == "keys/" else (self._store, *places)
            names = {info.name for store in known for info in store.list(prefix)}
            for name in sorted(names):
                problem = "" if named_right(self._store, name) else "missing or damaged"
                donor = next((store for store in places if problem and named_right(store, name)), None)
                if donor is not None:
                    self._heal(name, problem, donor.get(name), donor.url)

    def snapshots(self) -> None:
        """Heal snapshots, last: what they need is there by now, as far as anybody has it."""
        refs = {ref.name: bytes.fromhex(ref.id) for repo in self._repos() for ref in repo.snapshots()}
        for name, object_id in sorted(refs.items()):
            problem = snapshot_problem(self._store, name)
            parity = parity_problem(self._store, object_id) if self.config.parity else ""
            if (problem is None or self._heal_snapshot(name, object_id, problem)) and parity:
                self._heal_parity(object_id, name, parity)

    def _heal_snapshot(self, name: str, object_id: bytes, problem: str) -> bool:
        if self.config.parity is not None and (data := heal(self._store, name, object_id)):
            self._heal(name, problem, data, parity_name(object_id))
            return True
        for donor in self._donors:
            if snapshot_problem(donor.store, name) is None:
                self._heal(name, problem, donor.store.get(name), donor.store.url)
                return True
        return False

    def losses(self) -> list[Finding]:
        """Return what is still lost; of a dry run, what is without the copies, unless they have every pack."""
        repo = Repository(self._store, self.config, [])
        if self._dry_run and not self._bad and self.healed:
            return []
        # Before anything is healed, only reading the packs tells what is lost.
        level = Level.CONTENT if self._dry_run else Level.EXISTS
        report = verify(repo, repo.snapshots(), level=level, progress=NullProgress())
        return [Finding(one.code, one.object, one.message, _ANOTHER) for one in report.findings if one.code in _LOST]

    def _repos(self) -> Iterator[Repository]:
        yield Repository(self._store, self.config, [])
        yield from self._donors

    def _heal(self, name: str, problem: str, data: bytes, source: str) -> None:
        if not self._dry_run:
            self.quarantine.replace(name, data)
        self.healed.append(Healed(name, problem, source))


def _unlocked(store: Store, donors: Sequence[Repository], keys: KeySource) -> Store:
    """Return an encrypted repository's store as it looks in clear; where its own keys are lost, with a copy's.

    WrongKey if it has slots that nothing given opens, though a copy opens: the copy may not know of a rotation, and to
    its keys what was written since looks damaged.
    """
    try:
        config = opening.read_settings(store)[0]
    except RepositoryNotFound:  # nothing is there, and so nothing that other keys have sealed
        if not donors:
            raise
        return beside(donors[0].store, store)
    except IntegrityError:
        if not donors:
            raise
        config = donors[0].config
    try:
        return unlock(store, config, keys)[0]
    except IntegrityError:
        if not donors:
            raise
        return beside(donors[0].store, store)
