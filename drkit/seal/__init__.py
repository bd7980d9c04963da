"""Encryption: a store around a store, so that everything above sees plain objects under their plain names."""

from drkit.seal.names import STRAY
from drkit.seal.opening import encrypt, unlock
from drkit.seal.secret import KeySource, Secret
from drkit.seal.store import SealedStore, beneath, beside

__all__ = ["STRAY", "KeySource", "SealedStore", "Secret", "beneath", "beside", "encrypt", "unlock"]
