"""The offline generator: deterministic, without a network, from the plugin's own texts alone."""

from enhance.generators.offline.generator import VERSION, Offline

__all__ = ["VERSION", "Offline"]
