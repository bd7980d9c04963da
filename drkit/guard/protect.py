"""protect(): the only way to an edit permit, and from a permit to the disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from msgspec import structs

from drkit.errors import DrkitError, GuardRefused, NoSpace, ProposalRejected, StoreError, UsageError
from drkit.guard.apply import GONE, Applier
from drkit.guard.elsewhere import check_stores
from drkit.guard.journal import Edit, Journal
from drkit.guard.lock import TreeLock
from drkit.guard.permit import SEAL, Change, EditPermit, StagedPlugin, Validator, told
from drkit.guard.proof import prove
from drkit.guard.recover import recovered
from drkit.guard.site import Policy, Site
from drkit.guard.snapshot import take
from drkit.guard.staging import Changes, Staging
from drkit.guard.tree import Tree, open_dir, read_file, read_tree
from drkit.model import show_path
from drkit.repo import SnapshotRef
from drkit.source.globs import Globs

_SHOWN = 10
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EXDEV, errno.EBUSY})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def protect(
    plugin: bytes,
    site: Site,
    policy: Policy | None = None,
    *,
    validators: Sequence[Validator] = (),
    tags: tuple[str, ...] = (),
) -> Iterator[EditPermit]:
    """Take a snapshot of the source, prove that the plugin comes back from it, and permit its edit for a block.

    Without a `policy` that of the site holds: in which stores the proof must be, and how thorough it is.

    `plugin` is its path in the source (empty for the source itself). What the permit's holder stages is validated
    and written when the block ends; if it raises, nothing is. LockedError if others work there for too long;
    GuardRefused without proof, or if the plugin is not what the snapshot has, now or at the end of the block;
    ProposalRejected if a validator finds something; StoreError if writing failed. After any of them the plugin is as
    it was before. What was left of somebody's earlier edit is put back first.
    """
    plugin = plugin.strip(b"/")
    policy = policy or site.policy
    check_stores(site, policy)
    with recovered(TreeLock.plugin(site.source, plugin, site.waiting), site.source, site=site):
        root_fd = open_dir(site.source, plugin)
        try:
            excludes = Globs(site.options.excludes)
            permit, staging, tree = _enter(plugin, site, policy, tags, root_fd, excludes)
            try:
                yield permit
            finally:
                permit.close()
            if permit.here:  # in a fork's child there is nothing to do
                permit.changes = _leave(permit, site, staging, tree, validators, root_fd, excludes)
        finally:
            os.close(root_fd)


def _enter(
    plugin: bytes, site: Site, policy: Policy, tags: tuple[str, ...], root_fd: int, excludes: Globs
) -> tuple[EditPermit, Staging, Tree]:
    report, ref = take(site, tags, plugins=False)
    try:
        row = site.repo.plugin(site.repo.load(ref), os.fsdecode(plugin) or ".")
    except UsageError as error:
        raise GuardRefused(str(error), hint=error.hint) from error
    if row.raw_path != plugin:
        raise GuardRefused(f"there is no plugin at {show_path(plugin)}", hint="name the plugin by its path")
    prove(site, policy, ref, row)
    with _unreadable(plugin):
        tree = read_tree(root_fd, plugin, excludes)
    if tree.sha256 != row.tree_sha256:
        raise _differs(plugin, site, ref)
    staging = Staging(tree, plugin, excludes, _reader(root_fd))
    return EditPermit(plugin, report.snapshot, row.tree_sha256, staging, SEAL), staging, tree


def _reader(root_fd: int) -> Callable[[bytes], bytes]:
    def read(path: bytes) -> bytes:
        return read_file(root_fd, path)

    return read


def _differs(plugin: bytes, site: Site, ref: SnapshotRef) -> GuardRefused:
    """Return the error for a plugin that is not what the snapshot has."""
    live = []
    for segment in site.repo.segments(site.repo.load(ref), below=plugin):
        for path, entry in zip(segment.paths, segment.entries, strict=True):
            if entry.live and (not plugin or path.startswith(plugin + b"/")):
                live.append(show_path(path))
    if live:
        return GuardRefused(
            f"{show_path(plugin)} holds a database that is in use ({', '.join(live[:_SHOWN])}): "
            "no snapshot has its file as it is",
            hint="end the program that uses it, or keep it outside of the plugin",
        )
    return GuardRefused(
        f"{show_path(plugin)} is not what the snapshot just taken has: somebody changes it, or a part cannot be read",
        hint="wait until it is left alone, then try again; 'drkit backup' warns of what cannot be read",
    )


def _leave(
    permit: EditPermit,
    site: Site,
    staging: Staging,
    tree: Tree,
    validators: Sequence[Validator],
    root_fd: int,
    excludes: Globs,
) -> tuple[Change, ...]:
    """Write what is staged; return what was changed."""
    try:
        changes = staging.changes()
    except OSError as error:
        raise _changed(permit.plugin) from error
    _compare_again(permit, site, tree, root_fd, excludes)
    if not changes.paths:
        return ()
    result = told(permit.plugin, changes)
    staged = StagedPlugin(permit.plugin, staging, result)
    if messages := [message for validator in validators for message in validator(staged)]:
        shown = "; ".join(messages[:_SHOWN])
        raise ProposalRejected(f"the proposal for {show_path(permit.plugin)} was rejected: {shown}")
    write(permit, site, changes, result, root_fd)
    return result


def _compare_again(permit: EditPermit, site: Site, tree: Tree, root_fd: int, excludes: Globs) -> None:
    """Refuse if the plugin is not what it was when the block began, or its directory another one."""
    try:
        now_fd = open_dir(site.source, permit.plugin)
    except (OSError, GuardRefused) as error:
        raise _changed(permit.plugin) from error
    try:
        with _unreadable(permit.plugin):
            same = os.path.samestat(os.fstat(now_fd), os.fstat(root_fd))
            if not same or read_tree(root_fd, permit.plugin, excludes).sha256 != tree.sha256:
                raise _changed(permit.plugin)
    finally:
        os.close(now_fd)


def _changed(plugin: bytes) -> GuardRefused:
    return GuardRefused(
        f"somebody else changed {show_path(plugin)} meanwhile: nothing was written", hint="look at it, then try again"
    )


def write(permit: EditPermit, site: Site, changes: Changes, result: tuple[Change, ...], root_fd: int) -> None:
    """Apply the changes under a journal, and tell the audit. If any of it fails, all is put back.

    The caller holds the plugin's lock. Errors as of `protect`.
    """
    stage = b".drkit-" + site.random(8).hex().encode()
    edit = Edit("apply", site.source, permit.plugin, permit.snapshot, stage, changes.paths, changes.times)
    journal = Journal.create(edit, random=site.random)
    applier = Applier(root_fd, edit)
    ending = False
    try:
        applier.apply(changes.data)
        _audit(permit, site, result)
        ending = True
        journal.write(structs.replace(edit, state="done"))
    except BaseException as error:
        alone = _put_back(applier, journal, edit if ending else None)
        if isinstance(error, OSError):
            raise _explained(error, permit.plugin) from error
        if alone and isinstance(error, DrkitError):
            names = ", ".join(map(show_path, alone[:_SHOWN]))
            raise GuardRefused(f"{error}; left alone, as somebody else's later work: {names}") from error
        raise
    try:
        applier.finish()
        journal.remove()
    except OSError:
        journal.close()  # the edit stands; the next command on this source removes what is left
    except BaseException:
        journal.close()
        raise


def _put_back(applier: Applier, journal: Journal, edit: Edit | None) -> list[bytes]:
    """Put everything back. With an `edit` the journal may say "done" although that failed: it must not any more."""
    try:
        if edit is not None:
            journal.write(edit)
        alone = applier.put_back()
    except BaseException as error:
        journal.close()  # for the next command on this source
        if isinstance(error, (OSError, StoreError)):
            raise StoreError(
                f"an edit that failed could not be put back: {error}",
                hint="mend the cause, then run 'drkit guard recover --source DIR': it ends this one way or the other",
            ) from error
        raise
    journal.abandon()
    return alone


def _audit(permit: EditPermit, site: Site, result: tuple[Change, ...]) -> None:
    changes = [[show_path(one.path), one.kind, one.old_sha256, one.new_sha256] for one in result]
    detail = {"plugin": show_path(permit.plugin), "snapshot": permit.snapshot, "changes": changes}
    site.inventory.record("edit", detail, {}, repo_id=site.repo.config.repository_id)


@contextmanager
def _unreadable(plugin: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GuardRefused(f"{show_path(plugin)} cannot be read: {error.strerror}") from error


def _explained(error: OSError, plugin: bytes) -> DrkitError:
    if error.errno in GONE:
        return _changed(plugin)
    what = f"{show_path(plugin)} could not be written, and is as it was: {error.strerror}"
    if error.errno in _DENIED:
        return GuardRefused(what, hint="check who may write there")
    if error.errno in _FULL:
        return NoSpace(what)
    return StoreError(what, hint="check the disk of the source")
