"""Encryption: a store around a store, so that everything above sees plain objects under their plain names."""
