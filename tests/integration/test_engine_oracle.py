"""The engine's own builder as the oracle: `megatron.training.models.HybridModelBuilder`, same pattern, same weights.

Its layers are the engine's local ones. The engine's stack hard-codes Transformer Engine's final norm, a package that
needs CUDA; there, and nowhere else, the engine's own PyTorch norm stands in for it.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from modelwright.config import Parallelism, Precision
from modelwright.gpt import GPTModelConfig
from modelwright.testing import RankPool
from tests.integration.jobs import TINY


@dataclass(frozen=True)
class Comparison:
    """Results of the two builders, as plain data."""

    theirs: dict[str, tuple[int, ...]]
    ours: dict[str, tuple[int, ...]]
    their_logits: torch.Tensor
    our_logits: torch.Tensor
    their_loss: torch.Tensor
    our_loss: torch.Tensor


def compare(parallelism: Parallelism) -> Comparison:
    """Build both on this rank, copy our weights over, run both."""
    from megatron.core.models.hybrid import hybrid_block
    from megatron.core.transformer.torch_norm import WrappedTorchNorm
    from megatron.training.models import HybridModelBuilder

    from modelwright.builders import builder_for
    from modelwright.distributed import initialize

    groups = initialize(parallelism)
    ours = builder_for(TINY).build_model(groups, parallelism=parallelism, precision=Precision()).eval()
    before, hybrid_block.TENorm = hybrid_block.TENorm, WrappedTorchNorm
    try:
        theirs = HybridModelBuilder(engine_config(TINY, parallelism)).build_model(groups).eval()
    finally:
        hybrid_block.TENorm = before
    shapes = {name: tuple(p.shape) for name, p in ours.named_parameters()}
    their_shapes = {name: tuple(p.shape) for name, p in theirs.named_parameters()}
    theirs.load_state_dict(ours.state_dict(), strict=False)
    tokens = torch.randint(0, 256, (2, TINY.seq_length), generator=torch.Generator().manual_seed(3))
    positions = torch.arange(TINY.seq_length).expand_as(tokens)
    # The engine's local attention reads its mask; ours is causal by type.
    later = torch.ones(TINY.seq_length, TINY.seq_length, dtype=torch.bool).triu(1)[None, None]
    with torch.no_grad():
        return Comparison(
            their_shapes,
            shapes,
            theirs(tokens, positions, later, runtime_gather_output=True),
            ours(tokens, positions, None, runtime_gather_output=True),
            theirs(tokens, positions, later, labels=tokens),
            ours(tokens, positions, None, labels=tokens),
        )


def engine_config(
    model: GPTModelConfig, parallelism: Parallelism, *, norm: Any = None, core_attention: Any = None
) -> Any:
    """The config of `megatron.training.models.HybridModelBuilder` for one of our models: SwiGLU, RMSNorm, rope.

    Args:
        model: The model.
        parallelism: Sizes of the axes.
        norm: In place of the engine's PyTorch norm.
        core_attention: In place of the engine's local attention.

    Returns:
        A `HybridModelConfig`.
    """
    import torch.nn.functional as F
    from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
    from megatron.core.models.hybrid.hybrid_block import HybridStack, HybridStackSubmodules
    from megatron.core.ssm.mlp_layer import MLPLayer
    from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
    from megatron.core.transformer import TransformerConfig, TransformerLayer, TransformerLayerSubmodules
    from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
    from megatron.core.transformer.dot_product_attention import DotProductAttention
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.mlp import MLP, MLPSubmodules
    from megatron.core.transformer.spec_utils import ModuleSpec
    from megatron.core.transformer.torch_norm import WrappedTorchNorm
    from megatron.training.models import HybridModelConfig

    norm, core_attention = norm or WrappedTorchNorm, core_attention or DotProductAttention
    attention = ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm,
            self_attention=ModuleSpec(
                module=SelfAttention,
                params={"attn_mask_type": AttnMaskType.causal},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=ColumnParallelLinear, core_attention=core_attention, linear_proj=RowParallelLinear
                ),
            ),
            self_attn_bda=get_bias_dropout_add,
        ),
    )
    mlp = ModuleSpec(
        module=MLPLayer,
        submodules=TransformerLayerSubmodules(
            pre_mlp_layernorm=norm,
            mlp=ModuleSpec(module=MLP, submodules=MLPSubmodules(ColumnParallelLinear, RowParallelLinear)),
            mlp_bda=get_bias_dropout_add,
        ),
    )
    transformer = TransformerConfig(
        num_layers=2 * model.num_layers,
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.resolved_query_groups,
        ffn_hidden_size=model.resolved_ffn_hidden_size,
        gated_linear_unit=True,
        activation_func=F.silu,
        normalization="RMSNorm",
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        is_hybrid_model=True,
        tensor_model_parallel_size=parallelism.tensor,
    )
    return HybridModelConfig(
        transformer=transformer,
        hybrid_layer_pattern=model.stack_pattern,
        hybrid_stack_spec=ModuleSpec(
            module=HybridStack, submodules=HybridStackSubmodules(attention_layer=attention, mlp_layer=mlp)
        ),
        vocab_size=model.padded_vocab_size,
        seq_length=model.seq_length,
        position_embedding_type="rope",
    )


@pytest.mark.parametrize("parallelism", [Parallelism(), Parallelism(tensor=2)], ids=["one rank", "tensor 2"])
def test_the_engines_builder_makes_the_same_model(parallelism: Parallelism, two_ranks: RankPool) -> None:
    for found in two_ranks.run(compare, parallelism, ranks=parallelism.world_size()):
        assert found.ours == found.theirs
        assert found.our_logits.std() > 0.1
        torch.testing.assert_close(found.our_logits, found.their_logits, atol=1e-4, rtol=0)
        torch.testing.assert_close(found.our_loss, found.their_loss, atol=1e-4, rtol=0)
