"""Configs of models: what all families share, layer kinds, the registries of kinds and presets."""
