"""Forward and backward over one global batch, through the engine's pipeline schedule.

`run_batch` runs it, and sets the functions that the schedule reads from the engine's config for that time.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.distributed.data_parallel_base import _BaseDataParallel  # pyright: ignore[reportPrivateUsage]
from megatron.core.optimizer.optimizer import MegatronOptimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from modelwright.config import Parallelism
from modelwright.distributed import context_positions, engine_config, unwrapped, virtual_stages
from modelwright.layers import clear_dropout_draw, set_dropout_draw
from modelwright.training.data.batches import Batch, micro_batches
from modelwright.training.loss import mean_over_ranks, reduced_loss

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection


@contextlib.contextmanager
def _schedule_functions(
    stages: Sequence[nn.Module], optimizer: MegatronOptimizer | None, pg_collection: "ProcessGroupCollection"
) -> Generator[None]:
    """Set the functions by which the schedule scales, reduces and finalizes gradients, until the end of the block.

    They refer to the optimizer and the stages. Whoever keeps the config after a run would keep both, and with them the
    process groups.

    Seam: the schedule reads these fields of the engine's config.
    """
    config = engine_config(unwrapped(stages[0]))
    functions = _functions(stages, optimizer, pg_collection)
    before = {name: getattr(config, name) for name in functions}
    _set_all(config, functions)
    try:
        yield
    finally:
        _set_all(config, before)


def _functions(
    stages: Sequence[nn.Module], optimizer: MegatronOptimizer | None, pg_collection: "ProcessGroupCollection"
) -> dict[str, Any]:
    # Stages without a wrapper, as in a build with `wrap: {kind: none}`, have no buffers to reduce.
    wrapped = isinstance(stages[0], _BaseDataParallel)
    functions: dict[str, Any] = {
        "finalize_model_grads_func": partial(_finalize, pg_collection=pg_collection) if wrapped else None,
        "grad_scale_func": optimizer.scale_loss if optimizer is not None else None,
    }
    reduced = [stage for stage in stages if isinstance(stage, DistributedDataParallel)]
    if reduced and reduced[0].ddp_config.overlap_grad_reduce:
        one = len(reduced) == 1
        functions["no_sync_func"] = reduced[0].no_sync if one else [stage.no_sync for stage in reduced]
        functions["grad_sync_func"] = reduced[0].start_grad_sync if one else [it.start_grad_sync for it in reduced]
    return functions


@contextlib.contextmanager
def _no_draw_left() -> Generator[None]:
    """Clear the draw of the last micro-batch at the end of the block, also after an error."""
    try:
        yield
    finally:
        clear_dropout_draw()


def _set_all(config: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        setattr(config, name, value)


def _finalize(
    stages: list[nn.Module], num_tokens: Tensor | None = None, *, pg_collection: "ProcessGroupCollection", **rest: Any
) -> None:
    finalize_model_grads(stages, num_tokens, pg_collection=pg_collection)


def clear_gradients(stages: Sequence[nn.Module], optimizer: MegatronOptimizer) -> None:
    """Set all gradients of this rank to zero, including those in the buffers of Megatron's wrappers.

    Args:
        stages: The wrapped stages of this rank.
        optimizer: From `make_optimizer`.
    """
    for stage in stages:
        if isinstance(stage, _BaseDataParallel):
            stage.zero_grad_buffer()
    optimizer.zero_grad()


def run_batch(
    stages: Sequence[nn.Module],
    batch: Batch,
    pg_collection: "ProcessGroupCollection",
    parallelism: Parallelism,
    *,
    micro_batch: int,
    optimizer: MegatronOptimizer | None = None,
    seed: int | None = None,
    step: int = 0,
    forward_only: bool = False,
) -> float:
    """Run forward, and backward unless `forward_only` is set, over one global batch.

    Args:
        stages: The wrapped stages of this rank. Gradients are accumulated in them.
        batch: The whole global batch, the same on every rank.
        pg_collection: The process groups of this rank.
        parallelism: Sizes of the axes.
        micro_batch: Sequences per micro-batch.
        optimizer: From `make_optimizer`; scales the losses. None: they are not scaled, because no optimizer step
            follows.
        seed: Seed of dropout, which then depends on `step` and the sequence but not on the layout. None: dropout draws
            from the random states of the rank.
        step: Number of the step.
        forward_only: Leave out the backward passes.

    Returns:
        The mean loss over the tokens of the batch, in nats, the same on every rank of the model.
    """
    data_rank, data_size = pg_collection.dp.rank(), pg_collection.dp.size()
    share = list(micro_batches(batch, data_rank=data_rank, data_size=data_size, micro_batch=micro_batch))
    virtual = virtual_stages(parallelism)
    schedule: Callable[..., Any] = get_forward_backward_func(  # pyright: ignore[reportUnknownVariableType]
        pp_size=parallelism.pipeline, vp_size=virtual
    )
    with _schedule_functions(stages, optimizer, pg_collection), _no_draw_left():
        losses: list[dict[str, Tensor]] = schedule(
            forward_step_func=partial(_forward, context=pg_collection.cp, seed=seed, step=step),
            data_iterator=[iter(share) for _ in stages] if virtual else iter(share),
            model=list(stages),
            num_microbatches=len(share),
            seq_length=batch.tokens_BS.size(1),
            micro_batch_size=micro_batch,
            forward_only=forward_only,
            # Without these two the engine uses the groups in its module globals.
            p2p_communicator=P2PCommunicator(pg_collection.pp, engine_config(unwrapped(stages[0]))),
            pg_collection=pg_collection,
        )
    return mean_over_ranks([entry["loss"] for entry in losses], pg_collection.intra_dist_opt)


def _forward(
    batches: Iterator[Batch], stage: nn.Module, *, context: ProcessGroup, seed: int | None, step: int
) -> tuple[Tensor, Any]:
    batch, device = next(batches), torch.cuda.current_device()
    if seed is not None and stage.training:
        sequences_B = torch.arange(batch.first, batch.first + batch.tokens_BS.size(0))
        set_dropout_draw(seed=seed, step=step, sequences_B=sequences_B)
    local = context_positions(batch.tokens_BS.size(1), rank=context.rank(), size=context.size())
    tokens, labels = (part[:, local].to(device) for part in (batch.tokens_BS, batch.labels_BS))
    positions = local.to(device).expand_as(tokens)
    config = engine_config(unwrapped(stage))
    reduce = partial(
        reduced_loss, context_size=context.size(), per_token=bool(getattr(config, "calculate_per_token_loss", False))
    )
    return stage(tokens, positions, None, labels=labels), reduce
