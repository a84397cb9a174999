"""Configs of models: what all families share, the registry of kinds, presets."""
