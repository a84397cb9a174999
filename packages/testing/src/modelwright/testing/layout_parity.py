"""Layout parity: one config and seed give one curve, whatever the layout. The test that everything answers to.

A run is trained on one rank and on the layout in question, from the same seed and on the same global batches; losses
and gradient norms must agree at every step. Equal losses alone prove little: an optimizer like Adam hides a gradient
that is wrong by a constant factor.
"""

import logging
import warnings
from dataclasses import dataclass

from modelwright.config import MegatronDDP, Parallelism, RunConfig, Wrap, replace
from modelwright.distributed import RankPool


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
    relative: float = 0.0,
) -> None:
    """Train a run on a layout and on one rank, and compare every step on every rank.

    Args:
        pool: Of at least as many processes as the layout needs.
        run: The config; dropout must be off.
        parallelism: The layout.
        wrap: How its stages become data-parallel; Megatron's DDP when None.
        reference: From `reference_curve`, to train it once for many layouts; trained here when None.
        tolerance: How far losses and gradient norms may lie apart.
        relative: By which part of the one rank's value more; for formats shorter than float32.

    Raises:
        LayoutParityError: They lie further apart at some step.
    """
    expected = reference_curve(pool, run) if reference is None else reference
    laid_out = replace(run, parallelism=parallelism, wrap=wrap or MegatronDDP())
    for rank, found in enumerate(pool.run(train_curve, laid_out, ranks=parallelism.world_size())):
        for step, (here, there) in enumerate(zip(found, expected, strict=True), start=1):
            beyond = [
                name
                for name in ("loss", "grad_norm")
                if not _agree(getattr(here, name), getattr(there, name), tolerance, relative)
            ]
            if beyond:
                raise LayoutParityError(
                    f"`{parallelism}` must train what one rank trains, but at step {step} on rank {rank} it has {here} "
                    f"where one rank has {there}; in {' and '.join(beyond)} they are further apart than {tolerance:.0e}"
                    f"{f' + {relative:.0e} of it' if relative else ''}."
                )


def _agree(here: float, there: float, tolerance: float, relative: float) -> bool:
    """Whether two values lie close enough; nan lies close to nothing."""
    return abs(here - there) <= tolerance + relative * abs(there)
