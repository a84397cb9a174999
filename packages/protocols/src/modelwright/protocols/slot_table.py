"""The table of slots: every slot of Megatron-Core, with its Protocol, its call site and the parts that fill it.

A slot is named `OWNER.FIELD`. The field belongs to one of the engine's `…Submodules` dataclasses. Where the engine
fixes a class or a function in its code, it is the attribute that stores the built part. `docs/slots.md` is generated
from this table, and a test compares the table with the installed engine.
"""

from __future__ import annotations

from typing import NamedTuple

from modelwright.protocols.not_fillable_yet import cross_attention, gated_delta, transformer_block, yarn_rotary
from modelwright.protocols.not_fillable_yet import multi_token_prediction as mtp
from modelwright.protocols.not_fillable_yet import sparse_attention as sparse
from modelwright.protocols.slots import attention, embedding, layer, linear, moe, rotary, stack
from modelwright.protocols.slots import latent_attention as latent
from modelwright.protocols.slots import mamba as ssm
from modelwright.protocols.slots import residual as bias_dropout_add
from modelwright.protocols.slots.mlp import ActivationFunctionBuilder, MlpBuilder
from modelwright.protocols.slots.norm import NormBuilder


class Slot(NamedTuple):
    """One slot of the engine."""

    owner: str
    """Dataclass of the engine that declares the slot, or class of the engine that fixes the part."""
    field: str
    """Field of the dataclass, or attribute that stores the part."""
    protocol: type[object]
    """Builder of the part. For a slot that stores a function: Interface of the function."""
    caller: str
    """Call site in the engine that builds the part or calls the function, as file and function."""
    filled_by: tuple[str, ...] = ()
    """Classes and functions of the engine that fill the slot, below `megatron.core`. `IdentityOp` leaves it empty."""
    spec_fields: tuple[str, ...] = ()
    """Fields of specs in `modelwright.layers` that fill the slot, as `SPEC.FIELD`. Empty: no spec can fill it yet."""

    @property
    def name(self) -> str:
        """Name of the slot, as `OWNER.FIELD`."""
        return f"{self.owner}.{self.field}"


_NORMS = (
    "transformer.torch_norm.WrappedTorchNorm",
    "transformer.identity_op.IdentityOp",
    "extensions.transformer_engine.TENorm",
)
_COLUMN = (
    "tensor_parallel.layers.ColumnParallelLinear",
    "extensions.transformer_engine.TEColumnParallelLinear",
    "extensions.transformer_engine.TELayerNormColumnParallelLinear",
)
_ROW = (
    "tensor_parallel.layers.RowParallelLinear",
    "extensions.transformer_engine.TERowParallelLinear",
)
_DUPLICATED = ("extensions.transformer_engine.TELinear",)
_BIAS_DROPOUT_ADD = ("fusions.fused_bias_dropout.get_bias_dropout_add", "transformer.identity_op.IdentityFuncOp")
_DOT_PRODUCT = (
    "transformer.dot_product_attention.DotProductAttention",
    "extensions.transformer_engine.TEDotProductAttention",
)
_LAYER = "transformer_layer.py, TransformerLayer.__init__"
_FORWARD_LAYER = "transformer_layer.py, TransformerLayer._forward_attention"
_MLA = "multi_latent_attention.py, MLASelfAttention.__init__"
_ABSORBED = "absorbed_mla.py, AbsorbedMLASelfAttention.__init__"
_STACK = "hybrid_block.py, HybridStack.__init__"
_MODEL = "hybrid_model.py, HybridModel.__init__"
_MTP = "multi_token_prediction.py, MultiTokenPredictionLayer.__init__"
_INDEXER = "dsa.py, DSAIndexer.__init__"
_TRANSFORMER_LAYER = "transformer.transformer_layer.TransformerLayer"
_MLP_LAYER = "ssm.mlp_layer.MLPLayer"

SLOTS: tuple[Slot, ...] = (
    # A transformer layer.
    Slot(
        "TransformerLayerSubmodules",
        "input_layernorm",
        NormBuilder,
        _LAYER,
        _NORMS,
        spec_fields=(
            "AttentionLayerSpec.input_layernorm",
            "LatentAttentionLayerSpec.input_layernorm",
        ),
    ),
    Slot(
        "TransformerLayerSubmodules",
        "self_attention",
        attention.SelfAttentionBuilder,
        _LAYER,
        (
            "transformer.attention.SelfAttention",
            "transformer.multi_latent_attention.MLASelfAttention",
            "transformer.multi_latent_attention.FusedMLASelfAttention",
            "transformer.experimental_attention_variant.absorbed_mla.AbsorbedMLASelfAttention",
            "transformer.identity_op.IdentityOp",
        ),
        spec_fields=(
            "AttentionLayerSpec.self_attention",
            "LatentAttentionLayerSpec.self_attention",
        ),
    ),
    Slot(
        "TransformerLayerSubmodules",
        "self_attn_bda",
        bias_dropout_add.BiasDropoutAddBuilder,
        _FORWARD_LAYER,
        _BIAS_DROPOUT_ADD,
        spec_fields=(
            "AttentionLayerSpec.self_attn_bda",
            "LatentAttentionLayerSpec.self_attn_bda",
        ),
    ),
    Slot("TransformerLayerSubmodules", "pre_cross_attn_layernorm", NormBuilder, _LAYER, _NORMS),
    Slot(
        "TransformerLayerSubmodules",
        "cross_attention",
        cross_attention.CrossAttentionBuilder,
        _LAYER,
        ("transformer.attention.CrossAttention", "transformer.identity_op.IdentityOp"),
    ),
    Slot(
        "TransformerLayerSubmodules",
        "cross_attn_bda",
        cross_attention.CrossBiasDropoutAddBuilder,
        _FORWARD_LAYER,
        _BIAS_DROPOUT_ADD,
    ),
    Slot(
        "TransformerLayerSubmodules",
        "pre_mlp_layernorm",
        NormBuilder,
        _LAYER,
        _NORMS,
        spec_fields=(
            "MlpLayerSpec.pre_mlp_layernorm",
            "MoeLayerSpec.pre_mlp_layernorm",
        ),
    ),
    Slot(
        "TransformerLayerSubmodules",
        "mlp",
        MlpBuilder,
        _LAYER,
        (
            "transformer.mlp.MLP.as_mlp_submodule",
            "transformer.moe.moe_layer.MoELayer",
            "transformer.identity_op.IdentityOp",
        ),
        spec_fields=(
            "MlpLayerSpec.mlp",
            "MoeLayerSpec.mlp",
        ),
    ),
    Slot(
        "TransformerLayerSubmodules",
        "mlp_bda",
        bias_dropout_add.BiasDropoutAddBuilder,
        "transformer_layer.py, TransformerLayer._forward_post_mlp",
        _BIAS_DROPOUT_ADD,
        spec_fields=(
            "MlpLayerSpec.mlp_bda",
            "MoeLayerSpec.mlp_bda",
        ),
    ),
    # Attention.
    Slot(
        "SelfAttentionSubmodules",
        "linear_qkv",
        linear.LinearQkvBuilder,
        "attention.py, SelfAttention.__init__",
        _COLUMN,
        spec_fields=("SelfAttentionSpec.linear_qkv",),
    ),
    Slot(
        "SelfAttentionSubmodules",
        "core_attention",
        attention.CoreAttentionBuilder,
        "attention.py, Attention.__init__",
        _DOT_PRODUCT,
        spec_fields=("SelfAttentionSpec.core_attention",),
    ),
    Slot(
        "SelfAttentionSubmodules",
        "linear_proj",
        linear.LinearProjBuilder,
        "attention.py, Attention.__init__",
        _ROW,
        spec_fields=("SelfAttentionSpec.linear_proj",),
    ),
    Slot(
        "SelfAttentionSubmodules",
        "q_layernorm",
        NormBuilder,
        "attention.py, SelfAttention.__init__",
        (*_NORMS, "transformer.torch_norm.L2Norm"),
        spec_fields=("SelfAttentionSpec.q_layernorm",),
    ),
    Slot(
        "SelfAttentionSubmodules",
        "k_layernorm",
        NormBuilder,
        "attention.py, SelfAttention.__init__",
        (*_NORMS, "transformer.torch_norm.L2Norm"),
        spec_fields=("SelfAttentionSpec.k_layernorm",),
    ),
    Slot(
        "CrossAttentionSubmodules",
        "linear_q",
        cross_attention.LinearLayerBuilder,
        "attention.py, CrossAttention.__init__",
        _COLUMN,
    ),
    Slot(
        "CrossAttentionSubmodules",
        "linear_kv",
        cross_attention.LinearLayerBuilder,
        "attention.py, CrossAttention.__init__",
        _COLUMN,
    ),
    Slot(
        "CrossAttentionSubmodules",
        "core_attention",
        attention.CoreAttentionBuilder,
        "attention.py, Attention.__init__",
        _DOT_PRODUCT,
    ),
    Slot("CrossAttentionSubmodules", "linear_proj", linear.LinearProjBuilder, "attention.py, Attention.__init__", _ROW),
    # Multi-head latent attention (MLA).
    Slot(
        "MLASelfAttentionSubmodules",
        "linear_proj",
        linear.LinearProjBuilder,
        "multi_latent_attention.py, MultiLatentAttention.__init__",
        _ROW,
        spec_fields=("LatentAttentionSpec.linear_proj",),
    ),
    Slot(
        "MLASelfAttentionSubmodules",
        "q_layernorm",
        NormBuilder,
        _MLA,
        _NORMS,
        spec_fields=("LatentAttentionSpec.q_layernorm",),
    ),
    Slot(
        "MLASelfAttentionSubmodules",
        "kv_layernorm",
        NormBuilder,
        _MLA,
        _NORMS,
        spec_fields=("LatentAttentionSpec.kv_layernorm",),
    ),
    Slot("MLASelfAttentionSubmodules", "linear_q_proj", latent.LinearQProjBuilder, _MLA, _COLUMN),
    Slot(
        "MLASelfAttentionSubmodules",
        "linear_q_down_proj",
        latent.LinearDownProjBuilder,
        _MLA,
        ("tensor_parallel.layers.ColumnParallelLinear", *_DUPLICATED),
        spec_fields=("LatentAttentionSpec.linear_q_down_proj",),
    ),
    Slot(
        "MLASelfAttentionSubmodules",
        "linear_q_up_proj",
        latent.LinearUpProjBuilder,
        _MLA,
        _COLUMN,
        spec_fields=("LatentAttentionSpec.linear_q_up_proj",),
    ),
    Slot(
        "MLASelfAttentionSubmodules",
        "linear_kv_down_proj",
        latent.LinearDownProjBuilder,
        _MLA,
        ("tensor_parallel.layers.ColumnParallelLinear", *_DUPLICATED),
        spec_fields=("LatentAttentionSpec.linear_kv_down_proj",),
    ),
    Slot(
        "MLASelfAttentionSubmodules",
        "linear_kv_up_proj",
        latent.LinearUpProjBuilder,
        _MLA,
        _COLUMN,
        spec_fields=("LatentAttentionSpec.linear_kv_up_proj",),
    ),
    Slot(
        "MLASelfAttentionSubmodules",
        "linear_qkv_down_proj",
        latent.LinearDownProjBuilder,
        "multi_latent_attention.py, FusedMLASelfAttention.__init__",
        ("tensor_parallel.layers.ColumnParallelLinear", *_DUPLICATED),
    ),
    Slot(
        "MLASelfAttentionSubmodules",
        "core_attention",
        latent.LatentCoreAttentionBuilder,
        "multi_latent_attention.py, MultiLatentAttention.__init__",
        ("extensions.transformer_engine.TEDotProductAttention",),
        spec_fields=("LatentAttentionSpec.core_attention",),
    ),
    Slot("AbsorbedMLASelfAttentionSubmodules", "linear_q_proj", latent.LinearQProjBuilder, _ABSORBED, _COLUMN),
    Slot(
        "AbsorbedMLASelfAttentionSubmodules",
        "linear_q_down_proj",
        latent.LinearDownProjBuilder,
        _ABSORBED,
        ("tensor_parallel.layers.ColumnParallelLinear", *_DUPLICATED),
    ),
    Slot("AbsorbedMLASelfAttentionSubmodules", "linear_q_up_proj", latent.LinearUpProjBuilder, _ABSORBED, _COLUMN),
    Slot(
        "AbsorbedMLASelfAttentionSubmodules",
        "linear_kv_down_proj",
        latent.LinearDownProjBuilder,
        _ABSORBED,
        ("tensor_parallel.layers.ColumnParallelLinear", *_DUPLICATED),
    ),
    Slot("AbsorbedMLASelfAttentionSubmodules", "linear_kv_up_proj", latent.LinearUpProjBuilder, _ABSORBED, _COLUMN),
    Slot(
        "AbsorbedMLASelfAttentionSubmodules",
        "core_attention",
        sparse.SparseCoreAttentionBuilder,
        _ABSORBED,
        ("transformer.experimental_attention_variant.dsa.DSAttention",),
    ),
    Slot("AbsorbedMLASelfAttentionSubmodules", "linear_proj", linear.LinearProjBuilder, _ABSORBED, _ROW),
    Slot("AbsorbedMLASelfAttentionSubmodules", "q_layernorm", NormBuilder, _ABSORBED, _NORMS),
    Slot("AbsorbedMLASelfAttentionSubmodules", "kv_layernorm", NormBuilder, _ABSORBED, _NORMS),
    Slot(
        "MultiLatentAttention",
        "rotary_pos_emb",
        latent.LatentRotaryEmbeddingBuilder,
        "multi_latent_attention.py, MultiLatentAttention.__init__",
        ("models.common.embeddings.rotary_pos_embedding.RotaryEmbedding",),
    ),
    # Sparse attention.
    Slot(
        "DSAttentionSubmodules",
        "indexer",
        sparse.SparseIndexerBuilder,
        "dsa.py, DSAttention.__init__",
        ("transformer.experimental_attention_variant.dsa.DSAIndexer",),
    ),
    Slot("DSAIndexerSubmodules", "linear_wq_b", sparse.DuplicatedLinearBuilder, _INDEXER, _DUPLICATED),
    Slot("DSAIndexerSubmodules", "linear_wk", sparse.DuplicatedLinearBuilder, _INDEXER, _DUPLICATED),
    Slot("DSAIndexerSubmodules", "k_norm", NormBuilder, _INDEXER, _NORMS),
    Slot("DSAIndexerSubmodules", "linear_weights_proj", sparse.DuplicatedLinearBuilder, _INDEXER, _DUPLICATED),
    # MLP and MoE layer.
    Slot(
        "MLPSubmodules",
        "linear_fc1",
        linear.LinearFc1Builder,
        "mlp.py, MLP.__init__",
        _COLUMN,
        spec_fields=(
            "MlpSpec.linear_fc1",
            "SequentialExpertsSpec.linear_fc1",
            "SharedExpertsSpec.linear_fc1",
        ),
    ),
    Slot(
        "MLPSubmodules",
        "linear_fc2",
        linear.LinearFc2Builder,
        "mlp.py, MLP.__init__",
        _ROW,
        spec_fields=(
            "MlpSpec.linear_fc2",
            "SequentialExpertsSpec.linear_fc2",
            "SharedExpertsSpec.linear_fc2",
        ),
    ),
    Slot(
        "MLPSubmodules",
        "activation_func",
        ActivationFunctionBuilder,
        "mlp.py, MLP.__init__",
        ("extensions.transformer_engine.TEActivationOp",),
    ),
    Slot(
        "GroupedMLPSubmodules",
        "linear_fc1",
        moe.GroupedLinearFc1Builder,
        "experts.py, TEGroupedMLP.__init__",
        ("extensions.transformer_engine.TEColumnParallelGroupedLinear",),
        spec_fields=("GroupedExpertsSpec.linear_fc1",),
    ),
    Slot(
        "GroupedMLPSubmodules",
        "linear_fc2",
        moe.GroupedLinearFc2Builder,
        "experts.py, TEGroupedMLP.__init__",
        ("extensions.transformer_engine.TERowParallelGroupedLinear",),
        spec_fields=("GroupedExpertsSpec.linear_fc2",),
    ),
    Slot(
        "GroupedMLPSubmodules",
        "activation_func",
        ActivationFunctionBuilder,
        "experts.py, TEGroupedMLP.__init__",
        ("extensions.transformer_engine.TEActivationOp",),
    ),
    Slot(
        "MoESubmodules",
        "experts",
        moe.ExpertsBuilder,
        "moe_layer.py, MoELayer.__init__",
        ("transformer.moe.experts.SequentialMLP", "transformer.moe.experts.TEGroupedMLP"),
        spec_fields=("MoeSpec.experts",),
    ),
    Slot(
        "MoESubmodules",
        "shared_experts",
        moe.SharedExpertsBuilder,
        "moe_layer.py, MoELayer.__init__",
        ("transformer.moe.shared_experts.SharedExpertMLP",),
        spec_fields=("MoeSpec.shared_experts",),
    ),
    Slot(
        "MoESubmodules",
        "router",
        moe.RouterBuilder,
        "moe_layer.py, MoELayer.__init__",
        ("transformer.moe.router.TopKRouter", "transformer.moe.router.InferenceTopKRouter"),
        spec_fields=("MoeSpec.router",),
    ),
    Slot(
        "MoELayer",
        "token_dispatcher",
        moe.TokenDispatcherBuilder,
        "moe_layer.py, MoELayer.__init__",
        (
            "transformer.moe.token_dispatcher.MoEAllGatherTokenDispatcher",
            "transformer.moe.token_dispatcher.MoEAlltoAllTokenDispatcher",
            "transformer.moe.token_dispatcher.MoEFlexTokenDispatcher",
        ),
        spec_fields=("MoeSpec.token_dispatcher",),
    ),
    Slot("MoELayer", "fc1_latent_proj", moe.LatentProjBuilder, "moe_layer.py, MoELayer.__init__", _DUPLICATED),
    Slot("MoELayer", "fc2_latent_proj", moe.LatentProjBuilder, "moe_layer.py, MoELayer.__init__", _DUPLICATED),
    # Mamba and gated delta net.
    Slot(
        "MambaLayerSubmodules",
        "norm",
        NormBuilder,
        "mamba_layer.py, MambaLayer.__init__",
        _NORMS,
        spec_fields=("MambaLayerSpec.norm",),
    ),
    Slot(
        "MambaLayerSubmodules",
        "mixer",
        ssm.MambaMixerBuilder,
        "mamba_layer.py, MambaLayer.__init__",
        ("ssm.mamba_mixer.MambaMixer",),
        spec_fields=("MambaLayerSpec.mixer",),
    ),
    Slot(
        "MambaLayerSubmodules",
        "mamba_bda",
        bias_dropout_add.MambaBiasDropoutAddBuilder,
        "mamba_layer.py, MambaLayer.forward",
        ("fusions.fused_bias_dropout.get_bias_dropout_add",),
        spec_fields=("MambaLayerSpec.mamba_bda",),
    ),
    Slot(
        "MambaMixerSubmodules",
        "in_proj",
        linear.InProjBuilder,
        "mamba_mixer.py, MambaMixer.__init__",
        _COLUMN,
        spec_fields=("MambaMixerSpec.in_proj",),
    ),
    Slot(
        "MambaMixerSubmodules",
        "out_proj",
        linear.OutProjBuilder,
        "mamba_mixer.py, MambaMixer.__init__",
        _ROW,
        spec_fields=("MambaMixerSpec.out_proj",),
    ),
    Slot(
        "MambaMixer",
        "norm",
        ssm.GatedNormBuilder,
        "mamba_mixer.py, MambaMixer.__init__",
        ("ssm.mamba_mixer.ExtendedRMSNorm",),
        spec_fields=("MambaKernels.norm",),
    ),
    Slot(
        "MambaMixer",
        "mamba_chunk_scan_combined",
        ssm.ScanInterface,
        "mamba_mixer.py, MambaMixer._ssm_prefill",
        spec_fields=("MambaKernels.scan",),
    ),
    Slot(
        "MambaMixer",
        "mamba_split_conv1d_scan_combined",
        ssm.FusedScanInterface,
        "mamba_mixer.py, MambaMixer._ssm_training",
    ),
    Slot(
        "MambaMixer",
        "causal_conv1d_fn",
        ssm.CausalConvolutionInterface,
        "mamba_mixer.py, MambaMixer._ssm_prefill",
        spec_fields=("MambaKernels.convolution",),
    ),
    Slot(
        "GatedDeltaNetSubmodules",
        "in_proj",
        linear.InProjBuilder,
        "gated_delta_net/common.py, _GDNBase.__init__",
        _COLUMN,
    ),
    Slot("GatedDeltaNetSubmodules", "out_norm", NormBuilder, "gated_delta_net/common.py, _GDNBase.__init__", _NORMS),
    Slot(
        "GatedDeltaNetSubmodules",
        "out_proj",
        linear.OutProjBuilder,
        "gated_delta_net/common.py, _GDNBase.__init__",
        _ROW,
    ),
    Slot(
        "GatedDeltaNet",
        "gated_delta_rule",
        gated_delta.GatedDeltaRuleInterface,
        "gated_delta_net/gdn.py, GatedDeltaNet.forward",
        ("ssm.gated_delta_net.common.torch_chunk_gated_delta_rule",),
    ),
    # Stacks.
    Slot(
        "HybridStackSubmodules",
        "mamba_layer",
        layer.MambaLayerBuilder,
        _STACK,
        ("ssm.mamba_layer.MambaLayer",),
        spec_fields=("StackSpec.mamba",),
    ),
    Slot("HybridStackSubmodules", "gdn_layer", gated_delta.GatedDeltaLayerBuilder, _STACK, (_TRANSFORMER_LAYER,)),
    Slot(
        "HybridStackSubmodules",
        "attention_layer",
        layer.AttentionLayerBuilder,
        _STACK,
        (_TRANSFORMER_LAYER,),
        spec_fields=("StackSpec.attention",),
    ),
    Slot("HybridStackSubmodules", "dsa_layer", sparse.SparseAttentionLayerBuilder, _STACK, (_TRANSFORMER_LAYER,)),
    Slot(
        "HybridStackSubmodules",
        "mla_layer",
        layer.LatentAttentionLayerBuilder,
        _STACK,
        (_TRANSFORMER_LAYER,),
        spec_fields=("StackSpec.latent_attention",),
    ),
    Slot(
        "HybridStackSubmodules",
        "mlp_layer",
        layer.MlpLayerBuilder,
        _STACK,
        (_MLP_LAYER, _TRANSFORMER_LAYER),
        spec_fields=("StackSpec.mlp",),
    ),
    Slot(
        "HybridStackSubmodules",
        "moe_layer",
        layer.MoeLayerBuilder,
        _STACK,
        (_TRANSFORMER_LAYER,),
        spec_fields=("StackSpec.moe",),
    ),
    Slot(
        "HybridStackSubmodules",
        "mtp_block_spec",
        mtp.MtpBlockBuilder,
        _MODEL,
        ("transformer.multi_token_prediction.MultiTokenPredictionBlock",),
    ),
    Slot(
        "HybridStack",
        "final_norm",
        NormBuilder,
        _STACK,
        ("extensions.transformer_engine.TENorm",),
        spec_fields=("StackSpec.final_norm",),
    ),
    Slot(
        "TransformerBlockSubmodules",
        "layer_specs",
        transformer_block.TransformerLayerBuilder,
        "transformer_block.py, TransformerBlock._build_layers",
        (_TRANSFORMER_LAYER,),
    ),
    Slot(
        "TransformerBlockSubmodules",
        "layer_norm",
        NormBuilder,
        "transformer_block.py, TransformerBlock._build_layers",
        _NORMS,
    ),
    # Multi-token prediction.
    Slot(
        "MultiTokenPredictionBlockSubmodules",
        "layer_specs",
        mtp.MtpLayerBuilder,
        "multi_token_prediction.py, MultiTokenPredictionBlock._build_layers",
        ("transformer.multi_token_prediction.MultiTokenPredictionLayer",),
    ),
    Slot("MultiTokenPredictionLayerSubmodules", "enorm", NormBuilder, _MTP, _NORMS),
    Slot("MultiTokenPredictionLayerSubmodules", "hnorm", NormBuilder, _MTP, _NORMS),
    Slot("MultiTokenPredictionLayerSubmodules", "layer_norm", NormBuilder, _MTP, _NORMS),
    Slot("MultiTokenPredictionLayerSubmodules", "eh_proj", mtp.EhProjBuilder, _MTP, _COLUMN),
    Slot(
        "MultiTokenPredictionLayerSubmodules", "mtp_model_layer", mtp.MtpModelLayerBuilder, _MTP, (_TRANSFORMER_LAYER,)
    ),
    # Parts that the model builds itself.
    Slot(
        "HybridModel",
        "embedding",
        embedding.EmbeddingBuilder,
        _MODEL,
        ("models.common.embeddings.language_model_embedding.LanguageModelEmbedding",),
        spec_fields=("StackSpec.embedding",),
    ),
    Slot(
        "HybridModel",
        "rotary_pos_emb",
        rotary.RotaryEmbeddingBuilder,
        _MODEL,
        ("models.common.embeddings.rotary_pos_embedding.RotaryEmbedding",),
        spec_fields=("StackSpec.rotary_embedding",),
    ),
    Slot(
        "HybridModel",
        "rotary_pos_emb (yarn)",
        yarn_rotary.YarnRotaryEmbeddingBuilder,
        _MODEL,
        ("models.common.embeddings.yarn_rotary_pos_embedding.YarnRotaryEmbedding",),
    ),
    Slot(
        "HybridModel",
        "decoder",
        stack.StackBuilder,
        _MODEL,
        ("models.hybrid.hybrid_block.HybridStack",),
        spec_fields=("StackSpec",),
    ),
    Slot(
        "HybridModel",
        "output_layer",
        embedding.OutputLayerBuilder,
        _MODEL,
        ("tensor_parallel.layers.ColumnParallelLinear",),
        spec_fields=("StackSpec.output_layer",),
    ),
    Slot(
        "HybridModel",
        "compute_language_model_loss",
        embedding.LossInterface,
        "language_module.py, LanguageModule.compute_language_model_loss",
        ("tensor_parallel.cross_entropy.vocab_parallel_cross_entropy",),
    ),
)
"""Every slot, grouped by owner."""
