"""Layers: typed specs, the backends whose parts fill them, and the way to the engine.

A `StackSpec` says what fills every slot; `resolve` makes the engine's config from ours; `build_stage` builds the
engine's `HybridModel` from the two.
"""

from modelwright.layers._activations import Activation, ActivationFunction, activation, register_activation
from modelwright.layers._backends import (
    TORCH,
    Backend,
    ColumnLinearBuilder,
    find_backend,
    mamba_layer_spec,
    missing_for_te,
    stack_spec,
)
from modelwright.layers._causal_conv import causal_conv, causal_conv_step
from modelwright.layers._core_attention import SdpaCoreAttention
from modelwright.layers._decoder_builder import DecoderModelBuilder, decoder_stack
from modelwright.layers._gated_norm import GatedRMSNorm
from modelwright.layers._grouped_experts import GroupedExperts
from modelwright.layers._latent_attention import DuplicatedLinear, LatentAttentionLayerSpec, LatentAttentionSpec
from modelwright.layers._lora import ColumnLora, LinearSlot, LoraLinear, RowLora, with_lora
from modelwright.layers._mamba_kernels import TORCH_KERNELS, MambaKernels, find_kernels, missing_for_kernels
from modelwright.layers._mamba_mixer import MambaMixer, MambaOptions
from modelwright.layers._mamba_spec import MambaLayerSpec, MambaMixerSpec
from modelwright.layers._model import LanguageModelShape, build_stage
from modelwright.layers._moe_spec import (
    GroupedExpertsSpec,
    MoeLayerSpec,
    MoeSpec,
    SequentialExpertsSpec,
    SharedExpertsSpec,
)
from modelwright.layers._norm import TorchNorm
from modelwright.layers._resolve import EngineFieldError, resolve
from modelwright.layers._rotary import ScaledRotaryEmbedding
from modelwright.layers._routing import LayerRouting, RoutingRecorder
from modelwright.layers._slots import as_engine, as_function_spec, as_module_spec, check_slots
from modelwright.layers._specs import (
    FUSED_NAMES,
    AttentionLayerSpec,
    MlpLayerSpec,
    MlpSpec,
    SelfAttentionSpec,
    StackSpec,
)
from modelwright.layers._ssd import ssd_scan, ssd_step
from modelwright.layers._stack_builder import StackModelBuilder
from modelwright.layers._stack_registry import StackFunction, register_stack, registered_stack
from modelwright.layers._token_dispatcher import LocalTokenDispatcher, token_dispatcher
from modelwright.layers._weight_map import Entry, Heads, State, WeightMap, WeightMapError, check_mapped

__all__ = [
    "FUSED_NAMES",
    "TORCH",
    "TORCH_KERNELS",
    "Activation",
    "ActivationFunction",
    "AttentionLayerSpec",
    "Backend",
    "ColumnLinearBuilder",
    "ColumnLora",
    "DecoderModelBuilder",
    "DuplicatedLinear",
    "EngineFieldError",
    "Entry",
    "GatedRMSNorm",
    "GroupedExperts",
    "GroupedExpertsSpec",
    "Heads",
    "LanguageModelShape",
    "LatentAttentionLayerSpec",
    "LatentAttentionSpec",
    "LayerRouting",
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
    "as_engine",
    "as_function_spec",
    "as_module_spec",
    "build_stage",
    "causal_conv",
    "causal_conv_step",
    "check_mapped",
    "check_slots",
    "decoder_stack",
    "find_backend",
    "find_kernels",
    "mamba_layer_spec",
    "missing_for_kernels",
    "missing_for_te",
    "register_activation",
    "register_stack",
    "registered_stack",
    "resolve",
    "ssd_scan",
    "ssd_step",
    "stack_spec",
    "token_dispatcher",
    "with_lora",
]
