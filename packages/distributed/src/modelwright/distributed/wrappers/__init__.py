"""Data-parallel wrappers around the stages of a rank: Megatron's DDP and FSDP, and PyTorch's FSDP2."""
