"""Conversion of Megatron-Core's config dictionaries and run files."""
