"""Backup: from a source to a snapshot."""

from drkit.backup.backup import backup
from drkit.backup.record import record_snapshot
from drkit.backup.report import BackupOptions, BackupReport

__all__ = ["BackupOptions", "BackupReport", "backup", "record_snapshot"]
