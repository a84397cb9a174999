"""Models of each kind, built and run by the real engine with a recording part in every slot: no call has drifted.

Where the engine fixes a class or a function in its code, the recording part is put under the name that the code looks
up. Where it needs a package that is not installed (Transformer Engine, mamba-ssm, flash-linear-attention), a stand-in
of a few lines takes the place of the kernel; the calls that are recorded are those of the engine's own code all the
same.
"""

import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.common.embeddings import language_model_embedding, rotary_pos_embedding
from megatron.core.models.common.embeddings.yarn_rotary_pos_embedding import YarnRotaryEmbedding
from megatron.core.models.common.language_module import language_module
from megatron.core.models.hybrid import hybrid_block, hybrid_model
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.ssm import mamba_context_parallel, mamba_mixer
from megatron.core.ssm.gated_delta_net import common as gdn_common
from megatron.core.ssm.gated_delta_net import gdn
from megatron.core.ssm.mamba_layer import MambaLayer, MambaLayerSubmodules
from megatron.core.ssm.mlp_layer import MLPLayer
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import TransformerConfig, multi_latent_attention, multi_token_prediction
from megatron.core.transformer.attention import (
    CrossAttention,
    CrossAttentionSubmodules,
    SelfAttention,
    SelfAttentionSubmodules,
)
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.experimental_attention_variant import absorbed_mla, dsa
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.moe import experts, moe_layer
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.moe.shared_experts import SharedExpertMLP
from megatron.core.transformer.transformer_block import TransformerBlock, TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import MLATransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor, nn

from modelwright.config import Parallelism
from modelwright.distributed import finalize, initialize
from modelwright.engine import as_module_spec, device_runtime
from modelwright.layers import SdpaCoreAttention, TorchNorm
from modelwright.protocols import SLOTS
from tests.integration.engine_mixer import rearrange
from tests.integration.recording import Book

VOCABULARY, LENGTH, HIDDEN = 32, 8, 16


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessGroupCollection]:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with device_runtime():
        yield initialize(Parallelism())
        finalize()


@pytest.fixture
def book() -> Book:
    return Book()


def config(kind: type[TransformerConfig] = TransformerConfig, **fields: Any) -> TransformerConfig:
    common: dict[str, Any] = {
        "num_layers": 2,
        "hidden_size": HIDDEN,
        "num_attention_heads": 4,
        "normalization": "RMSNorm",
        "add_bias_linear": False,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "gated_linear_unit": True,
        "activation_func": nn.functional.silu,
        "bias_activation_fusion": False,
        "bias_dropout_fusion": False,
        "apply_rope_fusion": False,
        "gradient_accumulation_fusion": False,
        "is_hybrid_model": True,
        "params_dtype": torch.float32,
    }
    return kind(**{**common, **fields})


def norm(book: Book, slot: str) -> Any:
    return book.builder(slot, TorchNorm)


def self_attention(book: Book) -> Any:
    owner = "SelfAttentionSubmodules"
    parts = SelfAttentionSubmodules(
        linear_qkv=book.builder(f"{owner}.linear_qkv", ColumnParallelLinear),
        core_attention=book.builder(f"{owner}.core_attention", SdpaCoreAttention),
        linear_proj=book.builder(f"{owner}.linear_proj", RowParallelLinear),
        q_layernorm=norm(book, f"{owner}.q_layernorm"),
        k_layernorm=norm(book, f"{owner}.k_layernorm"),
    )
    build = functools.partial(SelfAttention, submodules=parts, attn_mask_type=AttnMaskType.causal)
    return book.spec("TransformerLayerSubmodules.self_attention", build)


def attention_parts(book: Book) -> TransformerLayerSubmodules:
    owner = "TransformerLayerSubmodules"
    return TransformerLayerSubmodules(
        input_layernorm=norm(book, f"{owner}.input_layernorm"),
        self_attention=self_attention(book),
        self_attn_bda=book.chooser(f"{owner}.self_attn_bda", get_bias_dropout_add),
    )


class Activation(nn.Module):
    """Stand-in for Transformer Engine's part."""

    def __init__(self, *, config: TransformerConfig) -> None:
        super().__init__()

    def forward(self, intermediate: Tensor) -> Tensor:
        gate, up = intermediate.chunk(2, dim=-1)
        return nn.functional.silu(gate) * up


def mlp_submodules(book: Book, *, with_activation: bool) -> MLPSubmodules:
    return MLPSubmodules(
        linear_fc1=book.builder("MLPSubmodules.linear_fc1", ColumnParallelLinear),
        linear_fc2=book.builder("MLPSubmodules.linear_fc2", RowParallelLinear),
        activation_func=book.builder("MLPSubmodules.activation_func", Activation) if with_activation else None,
    )


def mlp_parts(book: Book, mlp: Any) -> TransformerLayerSubmodules:
    owner = "TransformerLayerSubmodules"
    return TransformerLayerSubmodules(
        pre_mlp_layernorm=norm(book, f"{owner}.pre_mlp_layernorm"),
        mlp=book.builder(f"{owner}.mlp", mlp),
        mlp_bda=book.chooser(f"{owner}.mlp_bda", get_bias_dropout_add),
    )


def dense(book: Book, *, with_activation: bool = False) -> Any:
    submodules = mlp_submodules(book, with_activation=with_activation)
    return functools.partial(MLP.as_mlp_submodule, submodules=submodules, ffn_hidden_size=24)


class Module:
    """A module of Python with some names replaced."""

    def __init__(self, module: Any, **names: Any) -> None:
        self.__dict__.update(names)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def fix(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording parts where `HybridModel` and its bases name a class or a function."""
    monkeypatch.setattr(
        hybrid_model,
        "LanguageModelEmbedding",
        book.builder("HybridModel.embedding", language_model_embedding.LanguageModelEmbedding),
    )
    monkeypatch.setattr(
        hybrid_model,
        "RotaryEmbedding",
        book.builder("HybridModel.rotary_pos_emb", rotary_pos_embedding.RotaryEmbedding),
    )
    output = book.builder("HybridModel.output_layer", ColumnParallelLinear)
    monkeypatch.setattr(
        hybrid_model, "tensor_parallel", Module(hybrid_model.tensor_parallel, ColumnParallelLinear=output)
    )
    original = language_module.tensor_parallel
    loss = book.function("HybridModel.compute_language_model_loss", original.vocab_parallel_cross_entropy)
    monkeypatch.setattr(language_module, "tensor_parallel", Module(original, vocab_parallel_cross_entropy=loss))
    monkeypatch.setattr(hybrid_block, "TENorm", norm(book, "HybridStack.final_norm"))


def run(
    book: Book,
    groups: ProcessGroupCollection,
    engine: TransformerConfig,
    pattern: str,
    layers: dict[str, Any],
    **model_options: Any,
) -> nn.Module:
    """Build a model of these layers, and run it forward and backward, in training and in eval mode."""
    owner = "HybridStackSubmodules"
    specs = {name: book.spec(f"{owner}.{name}", build) for name, build in layers.items() if name != "mtp_block_spec"}
    if "mtp_block_spec" in layers:
        specs["mtp_block_spec"] = layers["mtp_block_spec"]
    submodules = hybrid_block.HybridStackSubmodules(**specs)
    stack = book.builder("HybridModel.decoder", functools.partial(hybrid_block.HybridStack, submodules=submodules))
    spec = SimpleNamespace(module=_Stack, params={"stack": stack}, submodules=submodules)
    options = {"position_embedding_type": "rope", **model_options}
    model = hybrid_model.HybridModel(
        config=engine,
        hybrid_stack_spec=spec,  # type: ignore[arg-type]
        vocab_size=VOCABULARY,
        max_sequence_length=LENGTH,
        hybrid_layer_pattern=pattern,
        pg_collection=groups,
        **options,
    )
    tokens = torch.arange(2 * LENGTH).reshape(2, LENGTH) * 3 % VOCABULARY
    positions = torch.arange(LENGTH)[None].expand(2, LENGTH)
    for training in (True, False):
        model.train(training)
        model(input_ids=tokens, position_ids=positions, attention_mask=None, labels=tokens).sum().backward()
    model.set_input_tensor(None)
    return model


class _Stack:
    """Drops the `submodules` that `build_module` adds for a spec that has them."""

    def __new__(cls, *args: Any, stack: Callable[..., Any], submodules: object, **kwargs: Any) -> Any:
        return stack(*args, **kwargs)


def assert_nothing_drifted(book: Book) -> None:
    assert book.drifted == set()
    assert book.undeclared == {}


RECORDED: set[str] = set()


@pytest.fixture(autouse=True)
def _remember(book: Book) -> Iterator[None]:
    """Every test checks its book, and the last test asks that all slots have been in one."""
    yield
    assert_nothing_drifted(book)
    RECORDED.update(book.built)
    RECORDED.update(book.called)


@pytest.mark.parametrize("recompute", [False, True])
def test_gpt(groups: ProcessGroupCollection, book: Book, monkeypatch: pytest.MonkeyPatch, *, recompute: bool) -> None:
    fix(book, monkeypatch)
    fields: dict[str, Any] = {}
    if recompute:
        fields = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    layers = {
        "attention_layer": functools.partial(TransformerLayer, submodules=attention_parts(book)),
        "mlp_layer": functools.partial(MLPLayer, submodules=mlp_parts(book, dense(book, with_activation=recompute))),
    }
    engine = config(qk_layernorm=True, ffn_hidden_size=24, use_te_activation_func=False, **fields)
    engine.use_te_activation_func = recompute
    run(book, groups, engine, "*-", layers)
    assert book.called["SelfAttentionSubmodules.core_attention"] >= 2
    assert book.called["HybridModel.compute_language_model_loss"] == 2


class Grouped(nn.Module):
    """Stand-in for Transformer Engine's grouped linear."""

    def __init__(self, experts: int, input_size: int, output_size: int, **slot: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(experts, input_size, output_size) * 0.02)

    def forward(self, tokens: Tensor, tokens_per_expert: list[int]) -> tuple[Tensor, None]:
        rows = tokens.split(tokens_per_expert)
        return torch.cat([part @ weight for part, weight in zip(rows, self.weight, strict=True)]), None


class Duplicated(nn.Module):
    """Stand-in for Transformer Engine's `TELinear`."""

    def __init__(self, input_size: int, output_size: int, **slot: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size, output_size, bias=False)

    def forward(self, hidden_SBH: Tensor) -> tuple[Tensor, None]:
        return self.linear(hidden_SBH), None


@pytest.mark.parametrize("grouped", [False, True])
def test_moe(groups: ProcessGroupCollection, book: Book, monkeypatch: pytest.MonkeyPatch, *, grouped: bool) -> None:
    fix(book, monkeypatch)
    for name in ("MoEAlltoAllTokenDispatcher", "MoEAllGatherTokenDispatcher"):
        monkeypatch.setattr(moe_layer, name, book.builder("MoELayer.token_dispatcher", getattr(moe_layer, name)))
    fields: dict[str, Any] = {"moe_token_dispatcher_type": "allgather" if grouped else "alltoall"}
    if grouped:
        grouped_parts = experts.GroupedMLPSubmodules(
            linear_fc1=book.builder("GroupedMLPSubmodules.linear_fc1", Grouped),
            linear_fc2=book.builder("GroupedMLPSubmodules.linear_fc2", Grouped),
            activation_func=book.builder("GroupedMLPSubmodules.activation_func", Activation),
        )
        routed: Any = functools.partial(experts.TEGroupedMLP, submodules=grouped_parts)
        # One Duplicated stands for two slots that are built alike.
        latent = iter(["fc1_latent_proj", "fc2_latent_proj"])

        def latent_projection(*args: Any, **kwargs: Any) -> Any:
            return book.builder(f"MoELayer.{next(latent)}", Duplicated)(*args, **kwargs)

        monkeypatch.setattr(moe_layer, "HAVE_TE", True)
        monkeypatch.setattr(moe_layer, "TELinear", latent_projection)
    else:
        routed = functools.partial(experts.SequentialMLP, submodules=mlp_submodules(book, with_activation=False))
    parts = MoESubmodules(
        experts=book.builder("MoESubmodules.experts", routed),
        shared_experts=book.builder(
            "MoESubmodules.shared_experts",
            functools.partial(SharedExpertMLP, submodules=mlp_submodules(book, with_activation=grouped)),
        ),
        router=book.builder("MoESubmodules.router", TopKRouter),
    )
    layers = {
        "attention_layer": functools.partial(TransformerLayer, submodules=attention_parts(book)),
        "moe_layer": functools.partial(
            TransformerLayer, submodules=mlp_parts(book, functools.partial(MoELayer, submodules=parts))
        ),
    }
    engine = config(
        qk_layernorm=True,
        num_moe_experts=4,
        moe_router_topk=2,
        moe_ffn_hidden_size=24,
        ffn_hidden_size=24,
        moe_shared_expert_intermediate_size=8,
        moe_shared_expert_gate=True,
        moe_router_load_balancing_type="aux_loss",
        moe_aux_loss_coeff=0.01,
        **fields,
    )
    if grouped:
        engine.moe_latent_size, engine.use_te_activation_func = 12, True
    run(book, groups, engine, "*E", layers)


def latent_config(**fields: Any) -> TransformerConfig:
    latent: dict[str, Any] = {
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_head_dim": 4,
        "qk_pos_emb_head_dim": 4,
        "v_head_dim": 4,
        "rope_type": "rope",
        "qk_layernorm": True,
        "multi_latent_attention": True,
        "ffn_hidden_size": 24,
    }
    return config(MLATransformerConfig, **{**latent, **fields})


def latent_linears(book: Book, owner: str, down: Any) -> dict[str, Any]:
    """The projections of MLA; the engine compares the down-projections with classes of its own."""
    return {
        "linear_q_proj": book.spec(f"{owner}.linear_q_proj", ColumnParallelLinear),
        "linear_q_down_proj": down,
        "linear_q_up_proj": book.spec(f"{owner}.linear_q_up_proj", ColumnParallelLinear),
        "linear_kv_down_proj": down,
        "linear_kv_up_proj": book.spec(f"{owner}.linear_kv_up_proj", ColumnParallelLinear),
        "q_layernorm": norm(book, f"{owner}.q_layernorm"),
        "kv_layernorm": norm(book, f"{owner}.kv_layernorm"),
    }


def down_projection(book: Book, monkeypatch: pytest.MonkeyPatch, module: Any, owner: str) -> Any:
    """One part for both down-projections, distinguished by buffers, under a name that the engine compares with."""

    def build(*args: Any, tp_comm_buffer_name: str, **kwargs: Any) -> Any:
        recording = book.builder(f"{owner}.linear_{tp_comm_buffer_name}", ColumnParallelLinear)
        return recording(*args, tp_comm_buffer_name=tp_comm_buffer_name, **kwargs)

    spec = as_module_spec(build)
    monkeypatch.setattr(module, "ColumnParallelLinear", spec)
    return spec


@pytest.mark.parametrize("kind", ["low rank", "full rank", "fused"])
def test_latent_attention(
    groups: ProcessGroupCollection, book: Book, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    fix(book, monkeypatch)
    owner = "MLASelfAttentionSubmodules"
    down = down_projection(book, monkeypatch, multi_latent_attention, owner)
    rotary = book.builder("MultiLatentAttention.rotary_pos_emb", rotary_pos_embedding.RotaryEmbedding)
    monkeypatch.setattr(multi_latent_attention, "RotaryEmbedding", rotary)
    parts: Any = multi_latent_attention.MLASelfAttentionSubmodules(
        linear_proj=book.builder(f"{owner}.linear_proj", RowParallelLinear),
        linear_qkv_down_proj=down,
        core_attention=book.spec(f"{owner}.core_attention", SdpaCoreAttention),
        **latent_linears(book, owner, down),
    )
    if kind == "full rank":  # the engine refuses to norm queries that have no low rank, and to norm the values alone
        parts.q_layernorm = parts.kv_layernorm = IdentityOp
    mixer = multi_latent_attention.FusedMLASelfAttention if kind == "fused" else multi_latent_attention.MLASelfAttention
    attention = functools.partial(mixer, submodules=parts, attn_mask_type=AttnMaskType.causal)
    layer = TransformerLayerSubmodules(
        input_layernorm=norm(book, "TransformerLayerSubmodules.input_layernorm"),
        self_attention=book.spec("TransformerLayerSubmodules.self_attention", attention),
        self_attn_bda=book.chooser("TransformerLayerSubmodules.self_attn_bda", get_bias_dropout_add),
    )
    layers = {"mla_layer": functools.partial(TransformerLayer, submodules=layer)}
    engine = latent_config(**({"q_lora_rank": None, "qk_layernorm": False} if kind == "full rank" else {}))
    run(book, groups, engine, "++", layers)


@pytest.mark.parametrize("kind", ["low rank", "full rank"])
def test_sparse_attention(
    groups: ProcessGroupCollection, book: Book, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    fix(book, monkeypatch)
    owner = "AbsorbedMLASelfAttentionSubmodules"
    down = down_projection(book, monkeypatch, absorbed_mla, owner)
    indexer = dsa.DSAIndexerSubmodules(
        linear_wq_b=book.spec("DSAIndexerSubmodules.linear_wq_b", Duplicated),
        linear_wk=book.spec("DSAIndexerSubmodules.linear_wk", Duplicated),
        k_norm=book.spec("DSAIndexerSubmodules.k_norm", TorchNorm),
        linear_weights_proj=book.spec("DSAIndexerSubmodules.linear_weights_proj", Duplicated),
    )
    core = dsa.DSAttentionSubmodules(
        indexer=book.spec("DSAttentionSubmodules.indexer", functools.partial(dsa.DSAIndexer, submodules=indexer))
    )
    parts = absorbed_mla.AbsorbedMLASelfAttentionSubmodules(
        core_attention=book.spec(f"{owner}.core_attention", functools.partial(dsa.DSAttention, submodules=core)),
        linear_proj=book.spec(f"{owner}.linear_proj", RowParallelLinear),
        **latent_linears(book, owner, down),
    )
    # This one attention builds its norms as untyped slots.
    for name in ("q_layernorm", "kv_layernorm"):
        setattr(parts, name, IdentityOp if kind == "full rank" else book.spec(f"{owner}.{name}", TorchNorm))
    attention = functools.partial(
        absorbed_mla.AbsorbedMLASelfAttention, submodules=parts, attn_mask_type=AttnMaskType.causal
    )
    layer = TransformerLayerSubmodules(
        input_layernorm=norm(book, "TransformerLayerSubmodules.input_layernorm"),
        self_attention=book.spec("TransformerLayerSubmodules.self_attention", attention),
        self_attn_bda=book.chooser("TransformerLayerSubmodules.self_attn_bda", get_bias_dropout_add),
    )
    layers = {"dsa_layer": functools.partial(TransformerLayer, submodules=layer)}
    engine = latent_config(
        experimental_attention_variant="dsa",
        dsa_indexer_n_heads=2,
        dsa_indexer_head_dim=8,
        dsa_indexer_topk=4,
        dsa_indexer_rotate_activation=False,
        **({"q_lora_rank": None, "qk_layernorm": False} if kind == "full rank" else {}),
    )
    run(book, groups, engine, "DD", layers)


def test_cross_attention_in_a_transformer_block(groups: ProcessGroupCollection, book: Book) -> None:
    """The engine's own way to stack layers for a GPT, and the one place for cross-attention."""
    owner, cross = "TransformerLayerSubmodules", "CrossAttentionSubmodules"
    parts = attention_parts(book)
    parts.pre_cross_attn_layernorm = norm(book, f"{owner}.pre_cross_attn_layernorm")
    inner = CrossAttentionSubmodules(
        linear_q=book.builder(f"{cross}.linear_q", ColumnParallelLinear),
        linear_kv=book.builder(f"{cross}.linear_kv", ColumnParallelLinear),
        core_attention=book.builder(f"{cross}.core_attention", DotProductAttention),
        linear_proj=book.builder(f"{cross}.linear_proj", RowParallelLinear),
    )
    build = functools.partial(CrossAttention, submodules=inner, attn_mask_type=AttnMaskType.no_mask)
    parts.cross_attention = book.spec(f"{owner}.cross_attention", build)
    parts.cross_attn_bda = book.chooser(f"{owner}.cross_attn_bda", get_bias_dropout_add)
    feed_forward = mlp_parts(book, dense(book))
    parts.pre_mlp_layernorm, parts.mlp, parts.mlp_bda = (
        feed_forward.pre_mlp_layernorm,
        feed_forward.mlp,
        feed_forward.mlp_bda,
    )
    layer = functools.partial(TransformerLayer, submodules=parts)
    submodules = TransformerBlockSubmodules(
        layer_specs=[book.spec("TransformerBlockSubmodules.layer_specs", layer)],
        layer_norm=norm(book, "TransformerBlockSubmodules.layer_norm"),
    )
    engine = config(num_layers=1, qk_layernorm=True, ffn_hidden_size=24)
    block = TransformerBlock(engine, submodules, pg_collection=groups)
    hidden = torch.randn(LENGTH, 2, HIDDEN)
    mask = torch.zeros(1, 1, LENGTH, 4, dtype=torch.bool)
    block(hidden, attention_mask=None, context=torch.randn(4, 2, HIDDEN), context_mask=mask).sum().backward()


class GatedNorm(nn.Module):
    """Stand-in for the gated norm of mamba-ssm."""

    def __init__(self, hidden_size: int, **slot: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))

    def forward(self, hidden_SBH: Tensor, gate: Tensor | None = None) -> Tensor:
        gated = hidden_SBH if gate is None else hidden_SBH * nn.functional.silu(gate)
        return nn.functional.rms_norm(gated, self.weight.shape, self.weight)


def scan(x: Tensor, *rest: Any, **options: Any) -> Tensor:
    return x


def fused_scan(zxbcdt: Tensor, *rest: Any, headdim: int, **options: Any) -> Tensor:
    return zxbcdt[..., : 2 * HIDDEN]


def convolution(*, x: Tensor, **options: Any) -> Tensor:
    return x


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_mamba(
    groups: ProcessGroupCollection, book: Book, monkeypatch: pytest.MonkeyPatch, *, fused: bool, recompute: bool
) -> None:
    """The engine's own mixer and layer; kernels, and einops, have stand-ins."""
    fix(book, monkeypatch)
    kernels = {"mamba_chunk_scan_combined": scan, "mamba_split_conv1d_scan_combined": fused_scan}
    for name, kernel in {**kernels, "causal_conv1d_fn": convolution}.items():
        monkeypatch.setattr(mamba_mixer, name, book.function(f"MambaMixer.{name}", kernel))
    monkeypatch.setattr(mamba_mixer, "ExtendedRMSNorm", book.builder("MambaMixer.norm", GatedNorm))
    monkeypatch.setattr(mamba_mixer, "rearrange", rearrange, raising=False)
    for flag in ("HAVE_MAMBA_SSM", "HAVE_EINOPS"):
        monkeypatch.setattr(mamba_mixer, flag, True)
    monkeypatch.setattr(mamba_context_parallel, "HAVE_EINOPS", True)
    inner = mamba_mixer.MambaMixerSubmodules(
        in_proj=book.spec("MambaMixerSubmodules.in_proj", ColumnParallelLinear),
        out_proj=book.spec("MambaMixerSubmodules.out_proj", RowParallelLinear),
    )
    parts = MambaLayerSubmodules(
        norm=norm(book, "MambaLayerSubmodules.norm"),
        mixer=book.spec("MambaLayerSubmodules.mixer", functools.partial(mamba_mixer.MambaMixer, submodules=inner)),
        mamba_bda=book.chooser("MambaLayerSubmodules.mamba_bda", get_bias_dropout_add),
    )
    layers = {
        "mamba_layer": functools.partial(MambaLayer, submodules=parts),
        "attention_layer": functools.partial(TransformerLayer, submodules=attention_parts(book)),
    }
    fields: dict[str, Any] = {}
    if recompute:
        fields = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    engine = config(
        qk_layernorm=True,
        mamba_state_dim=4,
        mamba_head_dim=4,
        mamba_num_groups=2,
        use_mamba_mem_eff_path=fused,
        **fields,
    )
    model = run(book, groups, engine, "M*", layers)
    assert model.decoder.mamba_state_shapes_per_request()  # type: ignore[union-attr, operator]


def delta_rule(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> tuple[Tensor, None]:
    return value, None


def test_gated_delta_net(groups: ProcessGroupCollection, book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's own net; the kernels of flash-linear-attention have stand-ins."""
    fix(book, monkeypatch)
    monkeypatch.setattr(gdn_common, "HAVE_FLA", True)
    monkeypatch.setattr(gdn_common, "l2norm", lambda x: nn.functional.normalize(x, dim=-1))
    monkeypatch.setattr(gdn, "causal_conv1d", lambda x, **options: (x, None))
    monkeypatch.setattr(gdn, "chunk_gated_delta_rule", book.function("GatedDeltaNet.gated_delta_rule", delta_rule))
    owner = "GatedDeltaNetSubmodules"
    inner = gdn_common.GatedDeltaNetSubmodules(
        in_proj=book.spec(f"{owner}.in_proj", ColumnParallelLinear),
        out_norm=book.spec(f"{owner}.out_norm", TorchNorm),
        out_proj=book.spec(f"{owner}.out_proj", RowParallelLinear),
    )
    parts = TransformerLayerSubmodules(
        input_layernorm=norm(book, "TransformerLayerSubmodules.input_layernorm"),
        self_attention=book.spec(
            "TransformerLayerSubmodules.self_attention", functools.partial(gdn.GatedDeltaNet, submodules=inner)
        ),
        self_attn_bda=book.chooser("TransformerLayerSubmodules.self_attn_bda", get_bias_dropout_add),
    )
    layers = {"gdn_layer": functools.partial(TransformerLayer, submodules=parts)}
    engine = config(
        linear_conv_kernel_dim=2,
        linear_key_head_dim=4,
        linear_value_head_dim=4,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
    )
    run(book, groups, engine, "GG", layers)


@pytest.mark.parametrize("position_embedding", ["rope", "yarn"])
def test_multi_token_prediction(
    groups: ProcessGroupCollection, book: Book, monkeypatch: pytest.MonkeyPatch, position_embedding: str
) -> None:
    fix(book, monkeypatch)
    owner = "MultiTokenPredictionLayerSubmodules"
    yarn = book.builder("HybridModel.rotary_pos_emb (yarn)", YarnRotaryEmbedding)
    monkeypatch.setattr(hybrid_model, "YarnRotaryEmbedding", yarn)
    inner = multi_token_prediction.MultiTokenPredictionLayerSubmodules(
        enorm=norm(book, f"{owner}.enorm"),
        hnorm=norm(book, f"{owner}.hnorm"),
        layer_norm=norm(book, f"{owner}.layer_norm"),
        eh_proj=book.spec(f"{owner}.eh_proj", ColumnParallelLinear),
    )
    layer = functools.partial(multi_token_prediction.MultiTokenPredictionLayer, submodules=inner)
    submodules = multi_token_prediction.MultiTokenPredictionBlockSubmodules(
        layer_specs=[book.spec("MultiTokenPredictionBlockSubmodules.layer_specs", layer)]
    )
    block = book.builder("HybridStackSubmodules.mtp_block_spec", multi_token_prediction.MultiTokenPredictionBlock)
    monkeypatch.setattr(hybrid_model, "MultiTokenPredictionBlock", block)
    layers = {
        "attention_layer": functools.partial(TransformerLayer, submodules=attention_parts(book)),
        "mlp_layer": functools.partial(MLPLayer, submodules=mlp_parts(book, dense(book))),
        "mtp_block_spec": submodules,
    }
    engine = config(qk_layernorm=True, ffn_hidden_size=24, mtp_num_layers=1)
    engine.yarn_rotary_scaling_factor, engine.yarn_original_max_position_embeddings = 2.0, 4
    engine.yarn_beta_fast, engine.yarn_beta_slow = 32.0, 1.0
    engine.yarn_mscale, engine.yarn_mscale_all_dim = 1.0, 1.0
    engine.yarn_correction_range_round_to_int = True
    run(book, groups, engine, "*-/*-", layers, position_embedding_type=position_embedding)


def as_class(builder: Callable[..., Any]) -> type:
    """A class that makes what the builder makes: the engine reads the submodules of a `ModuleSpec` in this slot."""
    return type("Built", (), {"__new__": lambda cls, *args, **kwargs: builder(*args, **kwargs)})


def test_the_inner_layer_of_multi_token_prediction_in_a_gpt(
    groups: ProcessGroupCollection, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a pattern the layer of a GPT is built from a slot of its own."""
    owner = "MultiTokenPredictionLayerSubmodules"
    parts = attention_parts(book)
    feed_forward = mlp_parts(book, dense(book))
    parts.pre_mlp_layernorm, parts.mlp, parts.mlp_bda = (
        feed_forward.pre_mlp_layernorm,
        feed_forward.mlp,
        feed_forward.mlp_bda,
    )
    transformer_layer = functools.partial(TransformerLayer, submodules=parts)
    inner = multi_token_prediction.MultiTokenPredictionLayerSubmodules(
        enorm=norm(book, f"{owner}.enorm"),
        hnorm=norm(book, f"{owner}.hnorm"),
        layer_norm=norm(book, f"{owner}.layer_norm"),
        eh_proj=book.spec(f"{owner}.eh_proj", ColumnParallelLinear),
        mtp_model_layer=as_class(book.builder(f"{owner}.mtp_model_layer", transformer_layer)),
    )
    layer = functools.partial(multi_token_prediction.MultiTokenPredictionLayer, submodules=inner)
    spec = book.spec("MultiTokenPredictionBlockSubmodules.layer_specs", layer)
    engine = config(num_layers=1, qk_layernorm=True, ffn_hidden_size=24, mtp_num_layers=1)
    block = multi_token_prediction.MultiTokenPredictionBlock(
        engine,
        multi_token_prediction.MultiTokenPredictionBlockSubmodules(layer_specs=[spec]),
        pg_collection=groups,
        name="mtp",
    )
    embedding = nn.Embedding(VOCABULARY, HIDDEN)
    tokens = torch.zeros(2, LENGTH, dtype=torch.long)
    block(
        input_ids=tokens,
        position_ids=tokens,
        hidden_states=torch.randn(LENGTH, 2, HIDDEN),
        attention_mask=None,
        embedding=lambda input_ids, position_ids: embedding(input_ids).transpose(0, 1),
    ).sum().backward()


def test_the_book_notes_what_no_protocol_declares(book: Book) -> None:
    """The same checks on calls that have drifted, with a book of their own: or green would mean nothing."""
    drifted = Book()
    slot = "TransformerLayerSubmodules.input_layernorm"
    built = drifted.builder(slot, lambda **slot: nn.LayerNorm(4))(config=None, hidden_size=4, eps=0.1, name="norm")
    built(torch.zeros(1, 4))
    assert drifted.drifted == {
        (
            f"{slot}, built with 0 positions and ['config', 'eps', 'hidden_size', 'name']: got an unexpected keyword "
            "argument 'name'"
        )
    }
    namespace: dict[str, Any] = {"part": built}
    exec(compile("part.normalized_shape", "megatron/core/outside.py", "eval"), namespace)  # noqa: S102 - our own text
    assert drifted.undeclared == {slot: ["normalized_shape"]}


def test_every_slot_was_recorded() -> None:
    """Runs last: together the models above have filled every slot."""
    if len(RECORDED) < 60:
        pytest.skip("needs the other tests of this file")
    assert sorted({slot.name for slot in SLOTS} - RECORDED) == []
