"""What does not depend on PyTorch."""

from transformer_engine.common import recipe

__all__ = ["recipe"]
