"""Layers: typed specs, backends with the parts that fill them, and the builders of Megatron-Core's models.

A `StackSpec` names the builder of every slot. `resolve` makes the engine's config from ours. `build_stage` builds the
engine's `HybridModel` from both.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelwright.layers.activations import Activation, ActivationFunction, activation, register_activation
    from modelwright.layers.attention.attention_layer import AttentionLayerSpec, SelfAttentionSpec
    from modelwright.layers.attention.heads_norm import HeadsNorm
    from modelwright.layers.attention.mla import (
        DuplicatedLinear,
        LatentAttentionLayerSpec,
        LatentAttentionSpec,
    )
    from modelwright.layers.attention.sdpa import SdpaCoreAttention
    from modelwright.layers.dropout import clear_dropout_draw, set_dropout_draw
    from modelwright.layers.layer_spec import FUSED_NAMES, LayerSpec
    from modelwright.layers.lora import ColumnLora, LinearSlot, LoraLinear, RowLora, with_lora
    from modelwright.layers.mamba.causal_convolution import causal_conv, causal_conv_step
    from modelwright.layers.mamba.gated_norm import GatedRMSNorm
    from modelwright.layers.mamba.kernels import MambaKernels, find_kernels, missing_for_kernels, torch_kernels
    from modelwright.layers.mamba.mamba_layer import MambaLayerSpec, MambaMixerSpec
    from modelwright.layers.mamba.mixer import MambaMixer
    from modelwright.layers.mamba.mixer_options import MambaOptions
    from modelwright.layers.mamba.scan import ssd_scan, ssd_step
    from modelwright.layers.mlp.mlp_layer import MlpLayerSpec, MlpSpec
    from modelwright.layers.moe.grouped_experts import GroupedExperts
    from modelwright.layers.moe.moe_layer import (
        GroupedExpertsSpec,
        MoeLayerSpec,
        MoeSpec,
        SequentialExpertsSpec,
        SharedExpertsSpec,
    )
    from modelwright.layers.moe.routing_recorder import LayerRouting, RoutingRecorder
    from modelwright.layers.moe.token_dispatcher import LocalTokenDispatcher, token_dispatcher
    from modelwright.layers.norm import TorchNorm
    from modelwright.layers.parameter_marks import mark_sequence_parallel
    from modelwright.layers.rotary import ScaledRotaryEmbedding
    from modelwright.layers.slot_check import check_slots
    from modelwright.layers.stack.assembly import LanguageModelShape, build_stage
    from modelwright.layers.stack.backends import (
        TORCH,
        Backend,
        ColumnLinearBuilder,
        find_backend,
        mamba_layer_spec,
        missing_for_te,
        stack_spec,
    )
    from modelwright.layers.stack.decoder_builder import DecoderModelBuilder, decoder_stack
    from modelwright.layers.stack.resolution import EngineFieldError, EngineFieldWarning, resolve
    from modelwright.layers.stack.spec import StackSpec
    from modelwright.layers.stack.stack_builder import StackModelBuilder
    from modelwright.layers.stack.stack_registry import StackFunction, register_stack, registered_stack
    from modelwright.layers.weight_map import Entry, Heads, State, WeightMap, WeightMapError, check_mapped
else:
    from modelwright.engine import load_engine
    from modelwright.protocols import lazy_door

    __getattr__, __dir__ = lazy_door(__name__, __file__, before=load_engine)

__all__ = [
    "FUSED_NAMES",
    "TORCH",
    "Activation",
    "ActivationFunction",
    "AttentionLayerSpec",
    "Backend",
    "ColumnLinearBuilder",
    "ColumnLora",
    "DecoderModelBuilder",
    "DuplicatedLinear",
    "EngineFieldError",
    "EngineFieldWarning",
    "Entry",
    "GatedRMSNorm",
    "GroupedExperts",
    "GroupedExpertsSpec",
    "Heads",
    "HeadsNorm",
    "LanguageModelShape",
    "LatentAttentionLayerSpec",
    "LatentAttentionSpec",
    "LayerRouting",
    "LayerSpec",
    "LinearSlot",
    "LocalTokenDispatcher",
    "LoraLinear",
    "MambaKernels",
    "MambaLayerSpec",
    "MambaMixer",
    "MambaMixerSpec",
    "MambaOptions",
    "MlpLayerSpec",
    "MlpSpec",
    "MoeLayerSpec",
    "MoeSpec",
    "RoutingRecorder",
    "RowLora",
    "ScaledRotaryEmbedding",
    "SdpaCoreAttention",
    "SelfAttentionSpec",
    "SequentialExpertsSpec",
    "SharedExpertsSpec",
    "StackFunction",
    "StackModelBuilder",
    "StackSpec",
    "State",
    "TorchNorm",
    "WeightMap",
    "WeightMapError",
    "activation",
    "build_stage",
    "causal_conv",
    "causal_conv_step",
    "check_mapped",
    "check_slots",
    "clear_dropout_draw",
    "decoder_stack",
    "find_backend",
    "find_kernels",
    "mamba_layer_spec",
    "mark_sequence_parallel",
    "missing_for_kernels",
    "missing_for_te",
    "register_activation",
    "register_stack",
    "registered_stack",
    "resolve",
    "set_dropout_draw",
    "ssd_scan",
    "ssd_step",
    "stack_spec",
    "token_dispatcher",
    "torch_kernels",
    "with_lora",
]
