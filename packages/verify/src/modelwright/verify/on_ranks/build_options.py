"""Ways to build the same model: on the meta device, with experts one after another, with the engine's dispatcher."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import nn

from modelwright.builders import AnyBuilder
from modelwright.distributed import engine_config
from modelwright.layers import MoeLayerSpec, MoeSpec, SequentialExpertsSpec, StackModelBuilder
from modelwright.protocols import ModelwrightError

META: Final = "meta-build"
SEQUENTIAL: Final = "sequential-experts"
DISPATCHER: Final = "engine-dispatcher"


def apply_option(builder: AnyBuilder, option: str) -> None:
    """Change a builder, so that it builds the same model in another way.

    Args:
        builder: Builder of the model.
        option: Name of the way.

    Raises:
        ModelwrightError: The builder does not build a stack, or its MoE layers have other parts.
    """
    if not isinstance(builder, StackModelBuilder):
        raise ModelwrightError(
            f"`{option}` needs a builder with a stack spec, but `{type(builder).__name__}` builds without one; leave "
            "this layout out."
        )
    stack: StackModelBuilder[Any] = builder
    if option == META:
        stack.meta = True
        return
    layer = stack.spec.moe
    if not isinstance(layer, MoeLayerSpec) or not isinstance(layer.mlp, MoeSpec):
        raise ModelwrightError(
            f"`{option}` needs the parts of `MoeSpec`, but the spec builds custom MoE layers; leave this layout out."
        )
    changes: dict[str, Any] = (
        {"experts": SequentialExpertsSpec()} if option == SEQUENTIAL else {"token_dispatcher": None}
    )
    moe = dataclasses.replace(layer, mlp=dataclasses.replace(layer.mlp, **changes))
    stack.spec = dataclasses.replace(stack.spec, moe=moe)


def to_float64(stages: Sequence[nn.Module]) -> None:
    """Convert the stages of a rank to float64, with what their stages send to each other.

    Args:
        stages: The stages without a wrapper.
    """
    for stage in stages:
        stage.double()
        config = engine_config(stage)
        config.params_dtype = config.pipeline_dtype = torch.float64
