"""Typed specs, the parts that fill them, and the adapter to the engine."""
