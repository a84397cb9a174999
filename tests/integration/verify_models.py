"""Models that `verify` must judge: with randomness, without numbers, and with initial values of the rank."""

import os
from functools import partial
from typing import Any, override

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from torch import Tensor, nn

from tests.proofs.museum.bare import config_of, layer_of, model_of

LINEARS = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)


def with_mlp(groups: Any, layout: Any, mlp: Any) -> Any:
    """A bare model with another MLP."""
    layer = layer_of()
    layer.mlp = partial(mlp.as_mlp_submodule, submodules=LINEARS)
    return model_of(groups, config_of(groups, layout), layer)


class Unseeded(MLP):
    """Noise that no seed controls."""

    @override
    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        noise = 1.0 + int.from_bytes(os.urandom(1), "big") / 2560
        return super().forward(hidden_states * noise, *args, **kwargs)


def unseeded(groups: Any, layout: Any) -> Any:
    return with_mlp(groups, layout, Unseeded)


class NotFinite(MLP):
    """Not a number, on every layout."""

    @override
    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return super().forward(hidden_states * float("nan"), *args, **kwargs)


def not_finite(groups: Any, layout: Any) -> Any:
    return with_mlp(groups, layout, NotFinite)


class NeedsCuda(MLP):
    """A kernel that runs on a GPU alone."""

    @override
    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("this kernel needs CUDA")


def needs_cuda(groups: Any, layout: Any) -> Any:
    return with_mlp(groups, layout, NeedsCuda)


def refuses_pipelines(groups: Any, layout: Any) -> Any:
    if groups.pp.size() > 1:
        raise ValueError("no pipeline, please")
    return model_of(groups, config_of(groups, layout), layer_of())


def dies_on_two_tensor_ranks(groups: Any, layout: Any) -> Any:
    return with_mlp(groups, layout, DiesOnTwo)


class DiesOnTwo(MLP):
    """An error in the middle of a step."""

    @override
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.tp_group.size() > 1:
            raise ZeroDivisionError("two ranks")
        return super().forward(*args, **kwargs)


class OwnValues(nn.Module):
    """An MLP with a matrix that every rank draws for itself, without the engine's `init_method`."""

    def __init__(self, *, config: Any, pg_collection: Any, is_mtp_layer: bool, name: str | None = None) -> None:
        super().__init__()
        self.matrix = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        generator = torch.Generator().manual_seed(1 + pg_collection.dp.size())
        with torch.no_grad():
            self.matrix.weight.normal_(0.0, 0.1, generator=generator)

    def forward(self, hidden_SBH: Tensor, /, *, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return self.matrix(hidden_SBH), None
