"""The base of the layer specs: every kind of layer has a name, and gives fused norms the names of separate ones."""

from typing import Any

import pytest
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import ColumnParallelLinear
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.identity_op import IdentityOp
from torch import nn

from modelwright.config import LAYER_KINDS, Parallelism, Precision
from modelwright.layers import (
    FUSED_NAMES,
    AttentionLayerSpec,
    LatentAttentionLayerSpec,
    LatentAttentionSpec,
    LayerSpec,
    MambaLayerSpec,
    MambaMixerSpec,
    MlpLayerSpec,
    MlpSpec,
    MoeLayerSpec,
    SelfAttentionSpec,
    StackSpec,
    resolve,
)
from packages.layers.tests.attention.test_mla import LatentConfig
from packages.layers.tests.moe.moe_toy import MoeToyConfig
from packages.layers.tests.toy import ToyConfig


class FusedColumn(ColumnParallelLinear):
    """Linear that includes the norm before it, as Transformer Engine's does."""

    def __init__(self, input_size: int, output_size: int, **slot: Any) -> None:
        super().__init__(input_size, output_size, **slot)
        self.layer_norm_weight = nn.Parameter(torch.ones(input_size))


class NoNorm(IdentityOp):
    """Identity that the engine does not take for its own, for which it would build Transformer Engine's linear."""


def fused_mlp(**slot: Any) -> Any:
    """A custom part in the slot of the MoE layer."""
    return MlpSpec(linear_fc1=FusedColumn)(**slot)


FUSED: dict[str, tuple[LayerSpec[Any], ToyConfig, str]] = {
    "*": (
        AttentionLayerSpec(input_layernorm=IdentityOp, self_attention=SelfAttentionSpec(linear_qkv=FusedColumn)),
        ToyConfig(),
        "input_layernorm",
    ),
    "-": (
        MlpLayerSpec(pre_mlp_layernorm=IdentityOp, mlp=MlpSpec(linear_fc1=FusedColumn)),
        ToyConfig(),
        "pre_mlp_layernorm",
    ),
    "E": (
        MoeLayerSpec(pre_mlp_layernorm=IdentityOp, mlp=fused_mlp),
        MoeToyConfig(),
        "pre_mlp_layernorm",
    ),
    "+, queries": (
        LatentAttentionLayerSpec(self_attention=LatentAttentionSpec(q_layernorm=NoNorm, linear_q_up_proj=FusedColumn)),
        LatentConfig(),
        "self_attention.q_layernorm",
    ),
    "+, keys and values": (
        LatentAttentionLayerSpec(
            self_attention=LatentAttentionSpec(kv_layernorm=NoNorm, linear_kv_up_proj=FusedColumn)
        ),
        LatentConfig(),
        "self_attention.kv_layernorm",
    ),
    "M": (MambaLayerSpec(norm=IdentityOp, mixer=MambaMixerSpec(in_proj=FusedColumn)), ToyConfig(), "norm"),
}


def engine_config(config: ToyConfig) -> TransformerConfig:
    made = resolve(config, Parallelism(), Precision())
    made.mamba_num_heads, made.mamba_head_dim, made.mamba_num_groups, made.mamba_state_dim = 4, 8, 2, 8
    return made


@pytest.mark.parametrize("kind", FUSED)
def test_a_fused_norm_has_the_name_of_a_separate_one(groups: ProcessGroupCollection, kind: str) -> None:
    """So that checkpoints move between backends, whatever the kind of the layer."""
    spec, config, norm = FUSED[kind]
    layer = spec(config=engine_config(config), layer_number=1, pg_collection=groups)
    sharded = layer.sharded_state_dict("layer.", (), {"dp_cp_group": groups.dp_cp})
    keys = {shard.key for shard in sharded.values() if "layer_norm_weight" not in shard.key}
    assert f"layer.{norm}.weight" in keys
    assert not [shard.key for shard in sharded.values() if "layer_norm_" in shard.key]


def test_every_fused_name_is_covered_here() -> None:
    assert {f"{norm}." for _, _, norm in FUSED.values()} == set(FUSED_NAMES.values())


NAMED: dict[str, tuple[type[LayerSpec[Any]], str, ToyConfig]] = {
    "*": (AttentionLayerSpec, "self_attention", ToyConfig()),
    "-": (MlpLayerSpec, "mlp", ToyConfig()),
    "E": (MoeLayerSpec, "mlp", MoeToyConfig()),
    "+": (LatentAttentionLayerSpec, "self_attention", LatentConfig()),
    "M": (MambaLayerSpec, "mixer", ToyConfig()),
}


@pytest.mark.parametrize("kind", NAMED)
def test_a_layer_names_its_parts(groups: ProcessGroupCollection, kind: str) -> None:
    names: list[str] = []

    def part(*_: Any, **given: Any) -> Any:
        names.append(given["name"])
        return nn.Identity()

    spec, slot, config = NAMED[kind]
    spec(**{slot: part})(config=engine_config(config), layer_number=1, pg_collection=groups, name="decoder.layers.0")
    assert names == [f"decoder.layers.0.{slot}"]


def test_every_kind_that_a_stack_can_build_is_a_layer_spec() -> None:
    specs = {kind.symbol: getattr(StackSpec(), kind.spec_field) for kind in LAYER_KINDS.values() if kind.spec_field}
    assert {symbol: type(spec) for symbol, spec in specs.items()} == {
        symbol: spec for symbol, (spec, *_) in NAMED.items()
    }
