"""The guarded enhancement stage. It may import drkit's public API; drkit never imports it."""
