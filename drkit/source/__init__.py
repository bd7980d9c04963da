"""The tree being protected: walking it, leaving things out, recognising plugins, reading files."""
