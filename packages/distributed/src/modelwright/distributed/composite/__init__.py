"""Composite models: several modules, each with its own ranks, layout, process groups and wrapper."""
