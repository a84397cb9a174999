"""Layout parity: tests that one config and seed give the same curve on every layout.

A run is trained on one rank and on the layout, from the same seed and on the same global batches. Losses and gradient
norms must agree at every step. Equal losses alone prove little, because Adam hides a gradient that is wrong by a
constant factor. `modelwright.verify` trains and compares; it finds the module that differs, too.
"""

from dataclasses import dataclass

from modelwright.config import MegatronDDP, Parallelism, RunConfig, Wrap, replace
from modelwright.distributed import RankPool
from modelwright.verify import losses_and_norms, within


class LayoutParityError(AssertionError):
    """A layout that trains another model than one rank does. The message names the first step that differs."""


@dataclass(frozen=True)
class CurvePoint:
    """The values of one step that are compared."""

    loss: float
    """Mean loss over the tokens of the global batch, in nats per token."""
    grad_norm: float
    """Gradient norm of the whole model before clipping."""


def train_curve(run: RunConfig) -> list[CurvePoint]:
    """Train as one rank of a job. The processes of the pool call this function.

    Args:
        run: The config.

    Returns:
        One point for each step.
    """
    return [CurvePoint(loss, grad_norm) for loss, grad_norm in losses_and_norms(run)]


def reference_curve(pool: RankPool, run: RunConfig) -> list[CurvePoint]:
    """Return the curve of a run on one rank.

    Args:
        pool: Pool of at least one process.
        run: The config. Its parallelism and wrapper are replaced by those of one rank.

    Returns:
        One point for each step.
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
        pool: Pool of at least as many processes as the layout needs.
        run: The config.
        parallelism: The layout.
        wrap: Data-parallel wrapper of the stages. None: Megatron-Core's DDP.
        reference: Result of `reference_curve`, to train it once for many layouts. None: trained by this call.
        tolerance: Largest absolute difference of losses and gradient norms.
        relative: Further tolerance as a fraction of the value on one rank, for dtypes shorter than float32.

    Raises:
        LayoutParityError: A loss or gradient norm differs by more than the tolerance.
    """
    expected = reference_curve(pool, run) if reference is None else reference
    laid_out = replace(run, parallelism=parallelism, wrap=wrap or MegatronDDP())
    for rank, found in enumerate(pool.run(train_curve, laid_out, ranks=parallelism.world_size())):
        for step, (here, there) in enumerate(zip(found, expected, strict=True), start=1):
            beyond = [
                name
                for name in ("loss", "grad_norm")
                if not within(getattr(here, name), getattr(there, name), absolute=tolerance, relative=relative)
            ]
            if beyond:
                raise LayoutParityError(
                    f"`{parallelism}` must train the same model as one rank, but at step {step} rank {rank} has {here} "
                    f"and one rank has {there}; the difference in {' and '.join(beyond)} exceeds {tolerance:.0e}"
                    f"{f' + {relative:.0e} of the value' if relative else ''}."
                )
