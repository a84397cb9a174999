"""The state of the engine's optimizers, parameter by parameter.

The engine has a class of optimizer for each dtype and wrapper, and each finds its state by places in parameter groups.
Here every class is read as one list: a parameter of the model, the range of its elements that this rank optimizes, the
float32 copy, and Adam's moments. Nothing is gathered, so saving takes no memory beyond a buffer.

Seam: `_get_model_param_range_map` is the only way to the ranges of the distributed optimizer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, final

import torch
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import ChainedOptimizer, Float16OptimizerWithFloat16Params, FP32Optimizer
from torch import Tensor

from modelwright.distributed import LocalRange, local_range
from modelwright.training.checkpoint.files.manifest import CheckpointError

MASTER = "master"
"""Name of the float32 copy of a parameter with a narrower dtype."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Names of Adam's moments, in torch and in the fused optimizers."""


@final
@dataclass(frozen=True, kw_only=True)
class OptimizedParameter:
    """The state of one parameter on this rank."""

    parameter: Tensor
    """The parameter of the model."""
    where: LocalRange
    """The elements of the parameter that this rank optimizes."""
    target: Tensor
    """Tensor that the inner optimizer updates: the parameter, a range of it, or a float32 copy."""
    group: dict[str, Any]
    """The parameter group in the inner optimizer."""
    inner: torch.optim.Optimizer
    """The inner optimizer."""

    @property
    def has_master(self) -> bool:
        """True if `target` is a float32 copy of a parameter with a narrower dtype."""
        return self.target.dtype != self.parameter.dtype

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors to save, by the names of this file."""
        state = self.inner.state[self.target]
        masters = {MASTER: self.target} if self.has_master else {}
        return masters | {name: state[name] for name in MOMENTS}

    @property
    def step(self) -> int:
        """Number of steps done. torch counts them for each parameter, fused optimizers for each group."""
        return int(self.inner.state[self.target].get("step", self.group.get("step", 0)))

    def set_step(self, step: int) -> None:
        """Set the number of steps done.

        Args:
            step: The number.
        """
        if _counts_by_parameter(self.inner):
            self.inner.state[self.target]["step"].fill_(step)
        else:
            self.group["step"] = step

    def start(self) -> None:
        """Make the state that the inner optimizer would make in its first step, unless there is one."""
        state = self.inner.state[self.target]
        if not state:
            if _counts_by_parameter(self.inner):
                state["step"] = torch.tensor(0.0, dtype=torch.float32)
            for name in MOMENTS:
                state[name] = torch.zeros_like(self.target, memory_format=torch.preserve_format)


def _counts_by_parameter(inner: torch.optim.Optimizer) -> bool:
    return isinstance(inner, torch.optim.Adam)  # AdamW is one too


def optimized_parameters(optimizer: Any) -> Iterator[OptimizedParameter]:
    """Yield the state of every parameter that this rank optimizes, and make it where there is none yet.

    Args:
        optimizer: From `make_optimizer`.

    Raises:
        CheckpointError: The class of the optimizer is not known here.
    """
    for engine, inner in _inner_optimizers(optimizer):
        for parameter, where, target, group in _targets(engine, inner):
            found = OptimizedParameter(parameter=parameter, where=where, target=target, group=group, inner=inner)
            found.start()
            yield found


def loss_scalers(optimizer: Any) -> list[Any]:
    """Return the engine's loss scalers, one for each chained optimizer; none unless the dtype is float16.

    Args:
        optimizer: From `make_optimizer`.
    """
    chained = optimizer.chained_optimizers if isinstance(optimizer, ChainedOptimizer) else [optimizer]
    found = [getattr(one, "grad_scaler", None) for one in chained]
    return list({id(scaler): scaler for scaler in found if scaler is not None}.values())


def _inner_optimizers(optimizer: Any) -> Iterator[tuple[Any, torch.optim.Optimizer]]:
    """Yield the engine's optimizers that have parameters, and the optimizer inside each."""
    if isinstance(optimizer, ChainedOptimizer):
        for one in optimizer.chained_optimizers:
            yield from _inner_optimizers(one)
    elif not isinstance(optimizer, DistributedOptimizer | Float16OptimizerWithFloat16Params | FP32Optimizer):
        raise CheckpointError(
            f"the optimizer must be one that can be saved, but is {type(optimizer).__name__}; train without `out`."
        )
    else:
        inner: Any = optimizer.optimizer  # None where this rank has nothing to train
        if inner is not None:
            yield optimizer, inner


def _targets(engine: Any, inner: torch.optim.Optimizer) -> Iterator[tuple[Tensor, LocalRange, Tensor, dict[str, Any]]]:
    """Yield parameter, range, target and group, in the order of the inner optimizer."""
    if isinstance(engine, DistributedOptimizer):
        places: dict[Any, tuple[int, int]] = engine.model_param_group_index_map
        for parameter, (index, position) in places.items():
            chosen = inner.param_groups[index]
            range_map: Any = engine._get_model_param_range_map  # pyright: ignore[reportPrivateUsage]
            ranges: dict[str, Any] = range_map(parameter)
            where = LocalRange(first=int(ranges["param"].start), over_data=True)
            yield parameter, where, chosen["params"][position], chosen
        return
    narrow: dict[int, Tensor] = {}
    if isinstance(engine, Float16OptimizerWithFloat16Params):
        models: list[list[Tensor]] = engine.float16_groups
        masters: list[list[Tensor]] = engine.fp32_from_float16_groups
        pairs = zip(chain.from_iterable(models), chain.from_iterable(masters), strict=True)
        narrow = {id(master): model for model, master in pairs}
    for group in inner.param_groups:
        targets: list[Tensor] = group["params"]
        for target in targets:
            parameter = narrow.get(id(target), target)
            yield parameter, local_range(parameter), target, group
