"""Megatron's own config dictionaries and `run_config.yaml`, read as configs of this library."""
