"""Configs as files: reading with line and column, writing, overrides, differences, JSON Schema."""
