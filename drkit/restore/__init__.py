"""Restoring: plan, write to a stage, make it durable, read it back, swap it in."""

from drkit.restore.plugin import restore_plugin
from drkit.restore.recover import recover_leftovers
from drkit.restore.report import Lost, RestoreReport
from drkit.restore.tree import restore_tree

__all__ = ["Lost", "RestoreReport", "recover_leftovers", "restore_plugin", "restore_tree"]
