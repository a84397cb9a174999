"""Layout parity: one config and seed give one curve, whatever the layout. The test that everything answers to.

A run is trained on one rank and on the layout in question, from the same seed and on the same global batches; losses
and gradient norms must agree at every step. Equal losses alone prove little: an optimizer like Adam hides a gradient
that is wrong by a constant factor.
"""

import logging
import warnings
from dataclasses import dataclass

from modelwright.config import MegatronDDP, Parallelism, RunConfig, Wrap, replace
from modelwright.testing._ranks import RankPool


class LayoutParityError(AssertionError):
    """A layout trains another model than one rank does; the message names the first step that differs."""


@dataclass(frozen=True)
class CurvePoint:
    """What is compared of a step."""

    loss: float
    """Mean over the tokens of the global batch."""
    grad_norm: float
    """Of the whole model, before clipping."""


def train_curve(run: RunConfig) -> list[CurvePoint]:
    """Train as one rank of a job; what the processes of the pool run.

    Args:
        run: The config.

    Returns:
        A point for each step.
    """
    from modelwright.training import train

    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [CurvePoint(record.loss, record.grad_norm) for record in train(run)]


def reference_curve(pool: RankPool, run: RunConfig) -> list[CurvePoint]:
    """The curve of a run on one rank.

    Args:
        pool: Of at least one process.
        run: The config; its parallelism and wrap are replaced by one rank's.

    Returns:
        A point for each step.
    """
    return pool.run(train_curve, replace(run, parallelism=Parallelism(), wrap=MegatronDDP()), ranks=1)[0]


def assert_layout_parity(
    pool: RankPool,
    run: RunConfig,
    parallelism: Parallelism,
    *,
    wrap: Wrap | None = None,
    reference: list[CurvePoint] | None = None,
    tolerance: float = 1e-4,
) -> None:
    """Train a run on a layout and on one rank, and compare every step on every rank.

    Args:
        pool: Of at least as many processes as the layout needs.
        run: The config; dropout must be off.
        parallelism: The layout.
        wrap: How its stages become data-parallel; Megatron's DDP when None.
        reference: From `reference_curve`, to train it once for many layouts; trained here when None.
        tolerance: How far losses and gradient norms may lie apart.

    Raises:
        LayoutParityError: They lie further apart at some step.
    """
    expected = reference_curve(pool, run) if reference is None else reference
    laid_out = replace(run, parallelism=parallelism, wrap=wrap or MegatronDDP())
    for rank, found in enumerate(pool.run(train_curve, laid_out, ranks=parallelism.world_size())):
        for step, (here, there) in enumerate(zip(found, expected, strict=True), start=1):
            apart = max(abs(here.loss - there.loss), abs(here.grad_norm - there.grad_norm))
            if not apart <= tolerance:
                raise LayoutParityError(
                    f"`{parallelism}` must train what one rank trains, but at step {step} on rank {rank} it has {here} "
                    f"where one rank has {there}, which is {apart:.2e} apart; {tolerance:.0e} is allowed."
                )
