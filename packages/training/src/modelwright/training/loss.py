"""The loss: mean cross-entropy over the tokens of a batch, as the engine's pipeline schedule accumulates it.

The model itself returns one loss per token (the engine's vocabulary-parallel cross-entropy).
"""

import torch
from torch import Tensor
from torch.distributed import ProcessGroup


def token_mean_loss(losses_BS: Tensor, *, context_size: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Reduce the losses of a micro-batch to the scalar that the schedule differentiates.

    The schedule multiplies the loss by the context-parallel size, because it expects this rank's share of the mean over
    the whole sequence.

    Args:
        losses_BS: Loss of each token of this rank, [b, s / context_size], in nats.
        context_size: Number of context-parallel ranks.

    Returns:
        The scalar, and the detached mean under the name `loss`.
    """
    loss = losses_BS.float().mean()
    return loss / context_size, {"loss": loss.detach().clone()}


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
