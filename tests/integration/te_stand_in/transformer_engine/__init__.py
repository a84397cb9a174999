"""A stand-in for Transformer Engine: its interface as Megatron-Core uses it, in plain PyTorch, with a record of calls.

It proves nothing about Transformer Engine's kernels, its speed or its accuracy. It is there so that the code of
Megatron-Core that calls Transformer Engine runs on a CPU: which parts are built with which arguments, which recipes and
contexts are active when they are called, and whether the model that they make up computes the right numbers. Names and
signatures are those of Transformer Engine 2.20. What no part of Megatron-Core reaches from modelwright is left out.

`recorded.py` has the record. Tests put the folder above this package on the path of new processes (`te_ranks.py`), so
that no process of another test sees it.
"""

from transformer_engine import common, pytorch

__version__ = "2.20.0"
__all__ = ["__version__", "common", "pytorch"]
