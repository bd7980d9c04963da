"""The tree being protected: walking it, leaving things out, recognising plugins, reading files."""

from drkit.source.globs import Globs
from drkit.source.read import open_file
from drkit.source.walk import PluginRules, Seen, Walker

__all__ = ["Globs", "PluginRules", "Seen", "Walker", "open_file"]
