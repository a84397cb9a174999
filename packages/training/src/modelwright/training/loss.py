"""The loss: mean cross-entropy over the tokens of a batch, as the engine's pipeline schedule accumulates it.

The model itself returns one loss per token (the engine's vocabulary-parallel cross-entropy).
"""

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

type ReducedLoss = tuple[Tensor, dict[str, Tensor]] | tuple[Tensor, Tensor, dict[str, Tensor]]
"""The scalar that the schedule differentiates, the number of tokens if it is a sum, and what the schedule returns."""


def reduced_loss(losses_BS: Tensor, *, context_size: int, per_token: bool) -> ReducedLoss:
    """Reduce the losses of a micro-batch to the scalar that the schedule differentiates.

    By default that is this rank's share of the mean over the whole sequence: the schedule multiplies it by the
    context-parallel size and divides it by the number of micro-batches. With the engine's `calculate_per_token_loss` it
    is the sum over the tokens of this rank, and the gradients are divided by the tokens of all ranks and micro-batches
    at the end of the step (`forward_step_calc_loss` and `finalize_model_grads` of Megatron-Core).

    Args:
        losses_BS: Loss of each token of this rank, [b, s / context_size], in nats.
        context_size: Number of context-parallel ranks.
        per_token: Value of `calculate_per_token_loss` in the engine's config.

    Returns:
        The scalar, with `per_token` the number of tokens of this rank, and the detached mean under the name `loss`.
    """
    losses_BS = losses_BS.float()
    mean = losses_BS.mean()
    returned = {"loss": mean.detach().clone()}
    if per_token:
        tokens = torch.tensor(losses_BS.numel(), dtype=torch.int, device=losses_BS.device)
        return losses_BS.sum(), tokens, returned
    return mean / context_size, returned


def mean_over_ranks(losses: list[Tensor], model_ranks: ProcessGroup) -> float:
    """Return the mean of the micro-batch losses of all ranks. Only the last pipeline stage has losses.

    Args:
        losses: The mean losses of this rank's micro-batches, scalars; empty on other stages.
        model_ranks: The group of all ranks of the model.
    """
    total = torch.zeros(2, dtype=torch.float64, device=torch.cuda.current_device())
    for loss in losses:
        total += torch.stack([loss.double(), torch.ones_like(loss, dtype=torch.float64)])
    torch.distributed.all_reduce(total, group=model_ranks)
    return float(total[0] / total[1])
