"""Protocols of the parts of Megatron-Core that no `StackSpec` can fill yet, one file per topic."""
