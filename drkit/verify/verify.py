"""The verify verb: plan which packs and snapshots, read them, and return findings."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import TYPE_CHECKING

from msgspec import Struct

from drkit.errors import DrkitError, IntegrityError, NoSpace, StoreCorrupt, StoreError, UsageError
from drkit.format.limits import MIB
from drkit.model import Finding, Level, PackId, Snapshot, SnapshotId, show_path
from drkit.progress import Progress
from drkit.repo import BlobLost, Repository, SnapshotRef
from drkit.repo.names import pack_id_of
from drkit.seal import SealedStore
from drkit.store import LocalStore
from drkit.verify.packs import PackResult, table_digest, verify_pack, verify_parity
from drkit.verify.trees import ELSEWHERE, TreeVerifier

if TYPE_CHECKING:
    from drkit.verify.apart import PackProcess

_WORKERS = 2
_APART = 8 * MIB
"""From so many bytes of packs on, a second process is worth its start."""
_LOST = "repair the packs that hold it; what the source no longer has may be in another snapshot ('drkit find')"
_FOREIGN = "restore what it holds, then move it out of snapshots/; if all are foreign, drkit.json was replaced"
_SCRATCH = "set TMPDIR to a directory with more space"

Witness = Callable[[SnapshotRef], tuple[str, str] | None]
"""Tells the id and the tree hash that the snapshot of that time had when it was made; None where nobody knows."""


class VerifyReport(Struct, frozen=True):
    """What a verification read and found. `level` in lower case, `bytes_read` from packs only."""

    level: str
    ok: bool
    snapshots: tuple[SnapshotId, ...]
    packs_read: int
    bytes_read: int
    findings: tuple[Finding, ...]
    duration_s: float


def verify(
    repo: Repository,
    refs: Sequence[SnapshotRef],
    *,
    level: Level,
    every_pack: bool = False,
    subset: str | None = None,
    scratch: bytes | None = None,
    witness: Witness | None = None,
    progress: Progress,
) -> VerifyReport:
    """Verify snapshots and the packs that they need, or all packs of the store with `every_pack`.

    `subset` ("N/M" or "P%") bounds which packs are read, and which files in chunks are put together; `scratch` is
    where the level RESTORE restores to (default: the system's temporary directory). `witness` is asked what a snapshot
    was when it was made: a repository that was rewritten as a whole is in itself without fault. Damage becomes
    findings; UsageError for a subset that cannot be, NoSpace if `scratch` is too small.
    """
    began = monotonic()
    chosen = _subset(subset)
    job = _Job(repo, level, chosen, progress)
    with contextlib.ExitStack() as stack:
        job.pool = stack.enter_context(ThreadPoolExecutor(_WORKERS, thread_name_prefix="drkit-verify"))
        job.start_process(stack)
        snapshots = job.load(refs)
        if witness is not None:
            job.compare(snapshots, witness)
        job.walk(snapshots)
        if every_pack and level >= Level.PACKS:
            for info in repo.store.list("packs/"):
                pack_id = pack_id_of(info.name)
                if pack_id is None:
                    message = "this is no pack: its name is not its hash"
                    job.report(Finding("stray", info.name, message, "move it out of the repository"))
                else:
                    job.read_pack(pack_id)
        job.collect()
    if level >= Level.RESTORE:
        for ref, snap in snapshots:
            _restore(repo, ref, snap, scratch, job)
    return VerifyReport(
        level=level.name.lower(),
        ok=not job.findings,
        snapshots=tuple(ref.id for ref in refs),
        packs_read=job.packs_read,
        bytes_read=job.bytes_read,
        findings=tuple(job.findings.values()),
        duration_s=round(monotonic() - began, 3),
    )


class _Chosen(Struct, frozen=True):
    part: int = 1
    parts: int = 1
    share: float = 1.0

    def takes(self, object_id: bytes) -> bool:
        if self.share < 1.0:
            return random.random() < self.share  # noqa: S311 - a sample, not a secret
        return int.from_bytes(object_id[:4], "big") % self.parts == self.part - 1


def _subset(text: str | None) -> _Chosen:
    if text is None:
        return _Chosen()
    if match := re.fullmatch(r"(\d{1,6})/(\d{1,6})", text):
        part, parts = int(match[1]), int(match[2])
        if 1 <= part <= parts:
            return _Chosen(part, parts)
    elif (match := re.fullmatch(r"(\d+(?:\.\d+)?)%", text)) and 0 < float(match[1]) <= 100:
        return _Chosen(share=float(match[1]) / 100)
    raise UsageError(f"{text!r} is no subset", hint="write N/M, for instance 1/7, or P%, for instance 10%")


class _Job:
    """One verification under way. Packs are read while the trees are walked: by threads, or by a second process."""

    pool: ThreadPoolExecutor
    process: PackProcess | None = None

    def __init__(self, repo: Repository, level: Level, chosen: _Chosen, progress: Progress) -> None:
        self.findings: dict[object, Finding] = {}
        self.packs_read = self.bytes_read = 0
        self._repo = repo
        self._level = level
        self._chosen = chosen
        self._progress = progress
        self._parity = repo.config.parity is not None
        self._damaged = False
        self._reading: dict[PackId, Future[PackResult] | None] = {}
        """Packs that are being read; None where the second process does it."""

    def report(self, finding: Finding) -> None:
        """Keep a finding, once; a lost file comes up at several levels, for other reasons."""
        key = (finding.code, finding.object) if finding.code == "file-lost" else finding
        self.findings.setdefault(key, finding)

    def load(self, refs: Sequence[SnapshotRef]) -> list[tuple[SnapshotRef, Snapshot]]:
        loaded = []
        own = self._repo.config.repository_id
        for ref in refs:
            try:
                snap = self._repo.load(ref)
            except (IntegrityError, StoreError) as error:
                self.report(Finding("snapshot-damaged", ref.name, str(error), ELSEWHERE))
                continue
            loaded.append((ref, snap))
            if self._parity and self._level >= Level.CONTENT:
                for finding in verify_parity(self._repo.store, bytes.fromhex(ref.id)):
                    self.report(finding)
            if snap.repository_id != own:
                message = f"it was made in the repository {snap.repository_id}, this one is {own}"
                self.report(Finding("snapshot-foreign", ref.name, message, _FOREIGN))
        return loaded

    def compare(self, snapshots: list[tuple[SnapshotRef, Snapshot]], witness: Witness) -> None:
        for ref, snap in snapshots:
            told = witness(ref)
            if told is not None and told != (ref.id, snap.tree_sha256):
                message = f"when it was made, its id was {told[0]} and its tree hash {told[1]}: it is another one now"
                self.report(Finding("snapshot-replaced", ref.name, message, ELSEWHERE))

    def walk(self, snapshots: list[tuple[SnapshotRef, Snapshot]]) -> None:
        index = self._repo.load_index()
        for finding in (*self._repo.findings, *index.findings):
            self.report(finding)
        self._progress.start(sum(snap.files for _, snap in snapshots), None, "verifying")
        found = self.read_pack if self._level >= Level.PACKS else _ignore
        trees = TreeVerifier(self._repo, found, self.report)
        for ref, snap in snapshots:
            try:
                trees.verify(ref.name, snap)
            except IntegrityError as error:
                self.report(Finding("tree-damaged", ref.name, str(error), ELSEWHERE))
            self._progress.advance(snap.files, 0)
        if self._level >= Level.CONTENT:
            trees.verify_parts(self._chosen.takes)

    def read_pack(self, pack_id: PackId) -> None:
        if pack_id in self._reading or not self._chosen.takes(pack_id):
            return
        if self.process is not None:
            with contextlib.suppress(OSError):  # what it does not read is read by threads in the end
                self.process.read(pack_id, self._indexed(pack_id))
                self._reading[pack_id] = None
                return
        self._reading[pack_id] = self._submit(pack_id)

    def _submit(self, pack_id: PackId) -> Future[PackResult]:
        level = min(self._level, Level.CONTENT)
        indexed = self._indexed(pack_id)
        return self.pool.submit(verify_pack, self._repo.store, pack_id, level, indexed, parity=self._parity)

    def _indexed(self, pack_id: PackId) -> bytes:
        known = self._repo.index.packs.get(pack_id)
        return table_digest(known.table) if known else b""

    def start_process(self, stack: contextlib.ExitStack) -> None:
        """Start a second process if there is so much to read that it is worth its start."""
        store = self._repo.store
        inner = store.inner if isinstance(store, SealedStore) else store
        if self._level < Level.CONTENT or not isinstance(inner, LocalStore):
            return
        assert isinstance(store, (LocalStore, SealedStore))
        if sum(pack.size for pack in self._repo.index.packs.values()) >= _APART:
            with contextlib.suppress(OSError):
                from drkit.verify.apart import PackProcess

                self.process = stack.enter_context(
                    PackProcess(store, min(self._level, Level.CONTENT), parity=self._parity)
                )

    def collect(self) -> None:
        self._progress.start(None, None, "reading packs")
        if self.process is not None:
            for pack_id, result in self.process.results():
                self._take(result)
                del self._reading[pack_id]
        left = [future or self._submit(pack_id) for pack_id, future in self._reading.items()]
        for future in left:
            self._take(future.result())
        if self._damaged:
            self._name_losses()

    def _take(self, result: PackResult) -> None:
        self.packs_read += 1
        self.bytes_read += result.bytes_read
        self._progress.advance(0, result.bytes_read)
        for finding in result.findings:
            self._damaged = self._damaged or finding.code != "parity-damaged"
            self.report(finding)

    def _name_losses(self) -> None:
        """Say which paths of which snapshots the damage costs: only what no other place gives back."""
        reader = self._repo.reader()
        for ref in self._repo.snapshots():
            try:
                for segment in self._repo.segments(self._repo.load(ref)):
                    for entry in segment.entries:
                        try:
                            for _ in reader.content(entry, segment.places):
                                continue
                        except BlobLost as error:
                            where = f"{ref.name} {show_path(entry.raw_path)}"
                            self.report(Finding("file-lost", where, str(error), _LOST))
            except (IntegrityError, StoreCorrupt):
                continue  # a damaged snapshot has its own finding


def _restore(repo: Repository, ref: SnapshotRef, snap: Snapshot, parent: bytes | None, job: _Job) -> None:
    import os

    from drkit.restore import restore_tree
    from drkit.restore.scratch import scratch

    try:
        with scratch(parent) as directory:
            report = restore_tree(repo, ref, os.path.join(directory, b"tree"), progress=job._progress)
        for lost in report.lost:
            job.report(Finding("file-lost", f"{ref.name} {lost.path}", lost.reason, _LOST))
        if not report.lost and report.tree_sha256 != snap.tree_sha256:
            job.report(Finding("restore-mismatch", ref.name, "what was restored has another tree hash", ELSEWHERE))
    except NoSpace as error:
        raise NoSpace(str(error), hint=_SCRATCH) from error
    except DrkitError as error:
        job.report(Finding("restore-failed", ref.name, str(error), error.hint))


def _ignore(pack_id: PackId) -> None:
    """Take no notice: at the level EXISTS packs are not read."""
