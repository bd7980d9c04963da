"""drkit: backups that are proved restorable before anything is edited."""

__version__ = "0.1.0"
