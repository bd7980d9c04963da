"""Backup: from a source to a snapshot."""

from drkit.backup.backup import backup
from drkit.backup.record import record_snapshot
from drkit.backup.report import BackupOptions, BackupReport, Committed

__all__ = ["BackupOptions", "BackupReport", "Committed", "backup", "record_snapshot"]
