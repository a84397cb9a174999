"""Strict frozen dataclasses on pydantic: the base of every config class, validation, plain data, migrations."""
