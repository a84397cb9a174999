"""A bare Megatron model that is right on every layout, made of the engine's modules alone. Each fault changes one part.

Nothing here imports modelwright: `layout` is read for the sizes of its axes, as a training script reads its arguments.
"""

import copy
from typing import Any

import torch
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_submodules
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer import ModuleSpec, TransformerConfig, TransformerLayer
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from torch import Tensor, nn

VOCABULARY, LENGTH = 256, 32


class Norm(nn.Module):
    """RMSNorm that marks its weight, so that the engine sums its gradient over ranks with different tokens."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **unused: Any) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


def config_of(groups: Any, layout: Any, **fields: Any) -> TransformerConfig:
    """The engine's config on a layout."""
    given: dict[str, Any] = {
        "num_layers": 4,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "ffn_hidden_size": 64,
        "init_method_std": 0.1,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "add_bias_linear": False,
        "normalization": "RMSNorm",
        "gated_linear_unit": True,
        "activation_func": nn.functional.silu,
        "gradient_accumulation_fusion": False,
        "bias_activation_fusion": False,
        "bias_dropout_fusion": False,
        "masked_softmax_fusion": False,
        "persist_layer_norm": False,
        "apply_rope_fusion": False,
        "pipeline_dtype": torch.float32,
        "tensor_model_parallel_size": groups.tp.size(),
        "sequence_parallel": layout.sequence,
        "pipeline_model_parallel_size": groups.pp.size(),
        "expert_model_parallel_size": groups.ep.size(),
        "expert_tensor_parallel_size": groups.expt_tp.size(),
    }
    return TransformerConfig(**(given | fields))


def layer_of(*, norm: Any = Norm, **parts: Any) -> Any:
    """The parts of a layer; `mlp` and `self_attention` replace those of the engine."""
    layer = copy.copy(get_gpt_layer_local_submodules(normalization="RMSNorm", **parts))
    layer.input_layernorm = layer.pre_mlp_layernorm = norm
    layer.sharded_state_dict_keys_map = {}
    return layer


def model_of(
    groups: Any, config: TransformerConfig, layer: Any, *, norm: Any = Norm, kind: Any = GPTModel, **options: Any
) -> Any:
    """One stage of the pipeline."""
    count = get_num_layers_to_build(config, pp_rank=groups.pp.rank())
    layers = [ModuleSpec(module=TransformerLayer, submodules=layer)] * count
    return kind(
        config=config,
        transformer_layer_spec=TransformerBlockSubmodules(layer_specs=layers, layer_norm=norm),
        vocab_size=VOCABULARY,
        max_sequence_length=LENGTH,
        pre_process=groups.pp.rank() == 0,
        post_process=groups.pp.rank() == groups.pp.size() - 1,
        position_embedding_type="rope",
        pg_collection=groups,
        **options,
    )


def right(groups: Any, layout: Any) -> Any:
    """The model without a fault."""
    return model_of(groups, config_of(groups, layout), layer_of())
