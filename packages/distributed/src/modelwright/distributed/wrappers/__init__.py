"""Data-parallel wrappers: Megatron's DDP and PyTorch's FSDP2 around the stages of a rank."""
