"""Checks that parts fit their slots, and adapters for constructors that do not."""
