"""Restoring: plan, write to a stage, make it durable, read it back, swap it in."""
