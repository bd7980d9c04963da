"""`drkit backup`: take a snapshot."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import structs

from drkit.cli import copies, recording
from drkit.cli.output import Console, count, duration, size
from drkit.cli.params import LevelName
from drkit.cli.session import Session
from drkit.clock import utc_now
from drkit.errors import IntegrityError, PartialError
from drkit.model import Level

if TYPE_CHECKING:
    from drkit.backup import BackupReport
    from drkit.cli.copies import Done
    from drkit.repo import Repository

EXAMPLES = """
drkit backup ~/plugins
drkit backup ~/plugins --verify restore --tag nightly
drkit backup ~/plugins --exclude node_modules --exclude '/build/**' --dry-run
"""
KEYS = {
    "snapshot": "its id; empty for a dry run",
    "parent": "id of the snapshot before it of the same source, or null",
    "files": "how many files the snapshot has",
    "dirs": "how many directories",
    "others": "how many links, FIFOs and devices",
    "plugins": "how many plugins",
    "bytes_source": "sum of the files' sizes",
    "bytes_added": "what the repository grew by",
    "files_unchanged": "files that were not read, because nothing about them had changed",
    "packs": "how many packs were written",
    "duration_s": "seconds",
    "tree_sha256": "tree hash of everything (docs/format.md)",
    "warnings": "what could not be read, or changed while it was read; then the exit code is 3",
    "dry_run": "whether nothing was written",
    "verify": "with --verify, the result of 'drkit verify', else null",
    "copies": "of each of the configured stores: {name, url, ok, error, created, snapshots, packs, bytes, lag, lag_s, "
    "duration_s}; how many snapshots and packs were copied there, how many snapshots it still lacks, and since when",
}


def command(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The directory to back up.")],
    *,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="Mark the snapshot; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="GLOB", help="Leave out what matches; repeatable.")
    ] = None,
    verify: Annotated[
        LevelName | None, typer.Option("--verify", help="Verify the snapshot when it is stored; see 'drkit verify'.")
    ] = None,
    level: Annotated[
        int | None, typer.Option("--level", min=1, max=19, metavar="N", help="zstd level of this backup, 1 to 19.")
    ] = None,
    host: Annotated[str, typer.Option("--host", metavar="NAME", help="Record this instead of the host's name.")] = "",
    no_copies: Annotated[
        bool, typer.Option("--no-copies", help="Do not bring the configured stores up to date.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and report, but store nothing.")] = False,
) -> int:
    """Take a snapshot of a directory.

    Files of which size, times and inode are as they were are not read again. What could not be read becomes a
    warning, and the exit code is 3. A SQLite database that is in use is stored as its last transaction left it. Globs
    without '/' match any name, those with one match from the top.

    Then the [stores] of drkit.toml are brought up to date, as by 'drkit copy --all'. If fewer of them than [copies]
    requires can be, or one lags too far, the exit code is 3.
    """
    from drkit.backup import BackupOptions, backup
    from drkit.cli import guarding
    from drkit.cli.commands import verify as prove
    from drkit.source.walk import PluginRules

    session: Session = ctx.obj
    config = session.config
    options = BackupOptions(
        tags=tuple(tag or ()),
        excludes=(*config.backup.exclude, *(exclude or ())),
        rules=PluginRules(config.plugins.markers, config.plugins.globs),
        level=level,
        host=host,
        dry_run=dry_run,
    )
    repository = session.open()
    if not dry_run:
        guarding.recover_first(session, os.fsencode(source), repository)
    in_use = () if dry_run else recording.in_use(session)
    with session.progress() as progress:
        report = backup(
            repository,
            os.fsencode(source),
            options=options,
            progress=progress,
            now=utc_now,
            cache_dir=session.cache_dir,
            in_use=in_use,
            committed=partial(recording.backup, session, repository, last=not verify),
        )
    proof = None
    if verify and not dry_run:
        repository = session.open()  # as somebody else will find it
        proof = prove.run(session, repository, [repository.resolve(report.snapshot)], Level[verify.upper()])
    console = session.console
    _show(console, report)
    if proof is not None:
        prove.show(session, proof)
    done = [] if dry_run or no_copies else _copy(session, repository)
    if not dry_run:
        recording.flush(session, repository)
    console.result({**structs.asdict(report), "verify": proof, "copies": [each.copy for each in done]})
    short = copies.verdict(session, done)
    if proof is not None and not proof.ok:
        return IntegrityError.code
    return PartialError.code if report.warnings else short


def _copy(session: Session, repository: Repository) -> list[Done]:
    """Bring the configured stores up to date, with what was recorded so far among what goes there."""
    stores = copies.of(session, repository.store)
    if not stores:
        return []
    recording.flush(session, repository, turso=False)
    done = copies.every(session, repository, stores, level=Level.EXISTS)
    copies.show(session, done)
    return done


def _show(console: Console, report: BackupReport) -> None:
    for warning in report.warnings:
        console.warn(warning)
    what = "dry run" if report.dry_run else f"snapshot {report.snapshot[:12]}"
    console.note(
        f"{what}: {count(report.files, 'file')}, {count(report.plugins, 'plugin')}, {size(report.bytes_source)}; "
        f"{count(report.files_unchanged, 'file')} unchanged"
    )
    verb = "would add" if report.dry_run else "added"
    console.note(f"{verb} {size(report.bytes_added)} to the repository in {duration(report.duration_s)}")
