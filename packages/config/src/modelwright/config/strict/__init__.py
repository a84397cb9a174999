"""Strict frozen dataclasses on pydantic: the base of every config class, and the way from plain data to one."""
