"""The loss of logits that tensor ranks split."""

from typing import Any

from torch import Tensor

from transformer_engine.recorded import record


def parallel_cross_entropy(
    inp: Tensor,
    target: Tensor,
    label_smoothing: float = 0.0,
    reduce_loss: bool = False,
    dist_process_group: Any = None,
    ignore_idx: int = -100,
    is_cg_capturable: bool = False,
) -> Tensor:
    # Megatron-Core imports this package, so it is imported when it is there.
    from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

    record("parallel_cross_entropy", inp=inp, target=target, group=dist_process_group)
    loss: Tensor = vocab_parallel_cross_entropy(inp.float(), target, tp_group=dist_process_group)
    return loss
