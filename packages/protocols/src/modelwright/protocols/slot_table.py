"""Every slot of the engine, as data: where it is, which Protocol its call obeys, what of the engine fills it.

A slot is named `OWNER.FIELD`: a field of one of the engine's `…Submodules` dataclasses, or, where the engine fixes a
class or a function in its code, the attribute under which the built part is held. The page `docs/slots.md` is written
from this list, and a test compares it with the installed engine.
"""

from __future__ import annotations

from typing import NamedTuple

from modelwright.protocols.not_fillable_yet import gated_delta
from modelwright.protocols.not_fillable_yet import multi_token_prediction as mtp
from modelwright.protocols.not_fillable_yet import sparse_attention as sparse
from modelwright.protocols.slots import attention, embedding, layer, linear, loss, moe, rotary, stack
from modelwright.protocols.slots import latent_attention as latent
from modelwright.protocols.slots import mamba as ssm
from modelwright.protocols.slots import residual as bias_dropout_add
from modelwright.protocols.slots.activation import ActivationFunctionBuilder
from modelwright.protocols.slots.mlp import MlpBuilder
from modelwright.protocols.slots.norm import NormBuilder


class Slot(NamedTuple):
    """One slot of the engine."""

    owner: str
    """The engine's dataclass, or the class that fixes what fills the slot."""
    field: str
    """Its field, or the attribute that holds the part."""
    protocol: type[object]
    """A Builder; for a slot that holds a function, the Interface of the function."""
    caller: str
    """Who builds what fills the slot, or calls the function: file and function of the engine."""
    filled_by: tuple[str, ...] = ()
    """Classes and functions of the engine that fill it, dotted from `megatron.core`; `IdentityOp` means left out."""

    @property
    def name(self) -> str:
        """As `OWNER.FIELD`."""
        return f"{self.owner}.{self.field}"

    @property
    def is_function(self) -> bool:
        """Whether the slot holds the function that is called, and not what makes a part."""
        return self.protocol.__name__.endswith("Interface")


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
    Slot("TransformerLayerSubmodules", "input_layernorm", NormBuilder, _LAYER, _NORMS),
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
    ),
    Slot(
        "TransformerLayerSubmodules",
        "self_attn_bda",
        bias_dropout_add.BiasDropoutAddBuilder,
        _FORWARD_LAYER,
        _BIAS_DROPOUT_ADD,
    ),
    Slot("TransformerLayerSubmodules", "pre_cross_attn_layernorm", NormBuilder, _LAYER, _NORMS),
    Slot(
        "TransformerLayerSubmodules",
        "cross_attention",
        attention.CrossAttentionBuilder,
        _LAYER,
        ("transformer.attention.CrossAttention", "transformer.identity_op.IdentityOp"),
    ),
    Slot(
        "TransformerLayerSubmodules",
        "cross_attn_bda",
        bias_dropout_add.CrossBiasDropoutAddBuilder,
        _FORWARD_LAYER,
        _BIAS_DROPOUT_ADD,
    ),
    Slot("TransformerLayerSubmodules", "pre_mlp_layernorm", NormBuilder, _LAYER, _NORMS),
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
    ),
    Slot(
        "TransformerLayerSubmodules",
        "mlp_bda",
        bias_dropout_add.BiasDropoutAddBuilder,
        "transformer_layer.py, TransformerLayer._forward_post_mlp",
        _BIAS_DROPOUT_ADD,
    ),
    # Attention.
    Slot(
        "SelfAttentionSubmodules",
        "linear_qkv",
        linear.LinearQkvBuilder,
        "attention.py, SelfAttention.__init__",
        _COLUMN,
    ),
    Slot(
        "SelfAttentionSubmodules",
        "core_attention",
        attention.CoreAttentionBuilder,
        "attention.py, Attention.__init__",
        _DOT_PRODUCT,
    ),
    Slot("SelfAttentionSubmodules", "linear_proj", linear.LinearProjBuilder, "attention.py, Attention.__init__", _ROW),
    Slot(
        "SelfAttentionSubmodules",
        "q_layernorm",
        NormBuilder,
        "attention.py, SelfAttention.__init__",
        (*_NORMS, "transformer.torch_norm.L2Norm"),
    ),
    Slot(
        "SelfAttentionSubmodules",
        "k_layernorm",
        NormBuilder,
        "attention.py, SelfAttention.__init__",
        (*_NORMS, "transformer.torch_norm.L2Norm"),
    ),
    Slot(
        "CrossAttentionSubmodules",
        "linear_q",
        linear.LinearLayerBuilder,
        "attention.py, CrossAttention.__init__",
        _COLUMN,
    ),
    Slot(
        "CrossAttentionSubmodules",
        "linear_kv",
        linear.LinearLayerBuilder,
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
    # Latent attention.
    Slot(
        "MLASelfAttentionSubmodules",
        "linear_proj",
        linear.LinearProjBuilder,
        "multi_latent_attention.py, MultiLatentAttention.__init__",
        _ROW,
    ),
    Slot("MLASelfAttentionSubmodules", "q_layernorm", NormBuilder, _MLA, _NORMS),
    Slot("MLASelfAttentionSubmodules", "kv_layernorm", NormBuilder, _MLA, _NORMS),
    Slot("MLASelfAttentionSubmodules", "linear_q_proj", latent.LinearQProjBuilder, _MLA, _COLUMN),
    Slot(
        "MLASelfAttentionSubmodules",
        "linear_q_down_proj",
        latent.LinearDownProjBuilder,
        _MLA,
        ("tensor_parallel.layers.ColumnParallelLinear", *_DUPLICATED),
    ),
    Slot("MLASelfAttentionSubmodules", "linear_q_up_proj", latent.LinearUpProjBuilder, _MLA, _COLUMN),
    Slot(
        "MLASelfAttentionSubmodules",
        "linear_kv_down_proj",
        latent.LinearDownProjBuilder,
        _MLA,
        ("tensor_parallel.layers.ColumnParallelLinear", *_DUPLICATED),
    ),
    Slot("MLASelfAttentionSubmodules", "linear_kv_up_proj", latent.LinearUpProjBuilder, _MLA, _COLUMN),
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
    # MLP and mixture of experts.
    Slot("MLPSubmodules", "linear_fc1", linear.LinearFc1Builder, "mlp.py, MLP.__init__", _COLUMN),
    Slot("MLPSubmodules", "linear_fc2", linear.LinearFc2Builder, "mlp.py, MLP.__init__", _ROW),
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
    ),
    Slot(
        "GroupedMLPSubmodules",
        "linear_fc2",
        moe.GroupedLinearFc2Builder,
        "experts.py, TEGroupedMLP.__init__",
        ("extensions.transformer_engine.TERowParallelGroupedLinear",),
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
    ),
    Slot(
        "MoESubmodules",
        "shared_experts",
        moe.SharedExpertsBuilder,
        "moe_layer.py, MoELayer.__init__",
        ("transformer.moe.shared_experts.SharedExpertMLP",),
    ),
    Slot(
        "MoESubmodules",
        "router",
        moe.RouterBuilder,
        "moe_layer.py, MoELayer.__init__",
        ("transformer.moe.router.TopKRouter", "transformer.moe.router.InferenceTopKRouter"),
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
    ),
    Slot("MoELayer", "fc1_latent_proj", moe.LatentProjBuilder, "moe_layer.py, MoELayer.__init__", _DUPLICATED),
    Slot("MoELayer", "fc2_latent_proj", moe.LatentProjBuilder, "moe_layer.py, MoELayer.__init__", _DUPLICATED),
    # Mamba and gated delta net.
    Slot("MambaLayerSubmodules", "norm", NormBuilder, "mamba_layer.py, MambaLayer.__init__", _NORMS),
    Slot(
        "MambaLayerSubmodules",
        "mixer",
        ssm.MambaMixerBuilder,
        "mamba_layer.py, MambaLayer.__init__",
        ("ssm.mamba_mixer.MambaMixer",),
    ),
    Slot(
        "MambaLayerSubmodules",
        "mamba_bda",
        bias_dropout_add.MambaBiasDropoutAddBuilder,
        "mamba_layer.py, MambaLayer.forward",
        ("fusions.fused_bias_dropout.get_bias_dropout_add",),
    ),
    Slot("MambaMixerSubmodules", "in_proj", linear.InProjBuilder, "mamba_mixer.py, MambaMixer.__init__", _COLUMN),
    Slot("MambaMixerSubmodules", "out_proj", linear.OutProjBuilder, "mamba_mixer.py, MambaMixer.__init__", _ROW),
    Slot(
        "MambaMixer",
        "norm",
        ssm.GatedNormBuilder,
        "mamba_mixer.py, MambaMixer.__init__",
        ("ssm.mamba_mixer.ExtendedRMSNorm",),
    ),
    Slot("MambaMixer", "mamba_chunk_scan_combined", ssm.ScanInterface, "mamba_mixer.py, MambaMixer._ssm_prefill"),
    Slot(
        "MambaMixer",
        "mamba_split_conv1d_scan_combined",
        ssm.FusedScanInterface,
        "mamba_mixer.py, MambaMixer._ssm_training",
    ),
    Slot("MambaMixer", "causal_conv1d_fn", ssm.CausalConvolutionInterface, "mamba_mixer.py, MambaMixer._ssm_prefill"),
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
    Slot("HybridStackSubmodules", "mamba_layer", layer.MambaLayerBuilder, _STACK, ("ssm.mamba_layer.MambaLayer",)),
    Slot("HybridStackSubmodules", "gdn_layer", layer.GatedDeltaLayerBuilder, _STACK, (_TRANSFORMER_LAYER,)),
    Slot("HybridStackSubmodules", "attention_layer", layer.AttentionLayerBuilder, _STACK, (_TRANSFORMER_LAYER,)),
    Slot("HybridStackSubmodules", "dsa_layer", layer.SparseAttentionLayerBuilder, _STACK, (_TRANSFORMER_LAYER,)),
    Slot("HybridStackSubmodules", "mla_layer", layer.LatentAttentionLayerBuilder, _STACK, (_TRANSFORMER_LAYER,)),
    Slot("HybridStackSubmodules", "mlp_layer", layer.MlpLayerBuilder, _STACK, (_MLP_LAYER, _TRANSFORMER_LAYER)),
    Slot("HybridStackSubmodules", "moe_layer", layer.MoeLayerBuilder, _STACK, (_TRANSFORMER_LAYER,)),
    Slot(
        "HybridStackSubmodules",
        "mtp_block_spec",
        mtp.MtpBlockBuilder,
        _MODEL,
        ("transformer.multi_token_prediction.MultiTokenPredictionBlock",),
    ),
    Slot("HybridStack", "final_norm", NormBuilder, _STACK, ("extensions.transformer_engine.TENorm",)),
    Slot(
        "TransformerBlockSubmodules",
        "layer_specs",
        layer.TransformerLayerBuilder,
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
    # What the model builds itself.
    Slot(
        "HybridModel",
        "embedding",
        embedding.EmbeddingBuilder,
        _MODEL,
        ("models.common.embeddings.language_model_embedding.LanguageModelEmbedding",),
    ),
    Slot(
        "HybridModel",
        "rotary_pos_emb",
        rotary.RotaryEmbeddingBuilder,
        _MODEL,
        ("models.common.embeddings.rotary_pos_embedding.RotaryEmbedding",),
    ),
    Slot(
        "HybridModel",
        "rotary_pos_emb (yarn)",
        rotary.YarnRotaryEmbeddingBuilder,
        _MODEL,
        ("models.common.embeddings.yarn_rotary_pos_embedding.YarnRotaryEmbedding",),
    ),
    Slot("HybridModel", "decoder", stack.StackBuilder, _MODEL, ("models.hybrid.hybrid_block.HybridStack",)),
    Slot(
        "HybridModel",
        "output_layer",
        embedding.OutputLayerBuilder,
        _MODEL,
        ("tensor_parallel.layers.ColumnParallelLinear",),
    ),
    Slot(
        "HybridModel",
        "compute_language_model_loss",
        loss.LossInterface,
        "language_module.py, LanguageModule.compute_language_model_loss",
        ("tensor_parallel.cross_entropy.vocab_parallel_cross_entropy",),
    ),
)
"""Every slot, owner by owner."""
