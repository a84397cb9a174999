"""Every patch of Megatron-Core and torch, one file each, and how it is undone."""
