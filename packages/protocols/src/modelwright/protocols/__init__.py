"""Typed Protocols for every slot of a Megatron-Core model, without dependencies.

Each slot has an `...Interface`, which declares the members of the built part, and a `...Builder`, which declares the
call that builds it. The parameters are those that the engine's own calls pass. Type checkers use these Protocols to
check a part, and `check_conformance` checks the same at run time, before anything is built. `adapt` fits a constructor
that differs, `explain` reports the source of each of its arguments, and `SLOTS` lists every slot as data.

    from modelwright.protocols import MlpBuilder, check_conformance

    check_conformance(MlpBuilder, MyMlp)

Importing the package loads nothing else. Each name is loaded with its file at its first use (PEP 562).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelwright.protocols.conformance.adaptation import adapt
    from modelwright.protocols.conformance.check import check_conformance
    from modelwright.protocols.conformance.explanation import Argument, Part, explain, parts_of
    from modelwright.protocols.conformance.legacy_specs import LegacySpec, from_module_spec
    from modelwright.protocols.door import lazy_door
    from modelwright.protocols.engine_config import EngineConfig
    from modelwright.protocols.errors import ConformanceError, ModelwrightError, ModelwrightWarning
    from modelwright.protocols.not_fillable_yet.cross_attention import (
        CrossAttentionBuilder,
        CrossAttentionInterface,
        CrossBiasDropoutAddBuilder,
        LinearLayerBuilder,
        LinearLayerInterface,
    )
    from modelwright.protocols.not_fillable_yet.gated_delta import (
        GatedDeltaLayerBuilder,
        GatedDeltaLayerInterface,
        GatedDeltaNetBuilder,
        GatedDeltaNetInterface,
        GatedDeltaRuleInterface,
    )
    from modelwright.protocols.not_fillable_yet.multi_token_prediction import (
        EhProjBuilder,
        EhProjInterface,
        MtpBlockBuilder,
        MtpBlockInterface,
        MtpLayerBuilder,
        MtpLayerInterface,
        MtpModelLayerBuilder,
        MtpModelLayerInterface,
    )
    from modelwright.protocols.not_fillable_yet.sparse_attention import (
        DuplicatedLinearBuilder,
        DuplicatedLinearInterface,
        SparseAttentionLayerBuilder,
        SparseAttentionLayerInterface,
        SparseCoreAttentionBuilder,
        SparseCoreAttentionInterface,
        SparseIndexerBuilder,
        SparseIndexerInterface,
    )
    from modelwright.protocols.not_fillable_yet.transformer_block import BlockLayerInterface, TransformerLayerBuilder
    from modelwright.protocols.not_fillable_yet.yarn_rotary import (
        YarnRotaryEmbeddingBuilder,
        YarnRotaryEmbeddingInterface,
    )
    from modelwright.protocols.optional_members import (
        SupportsAbsorbedUpProjection,
        SupportsBackwardDw,
        SupportsClipQk,
        SupportsDsaInputs,
        SupportsGatherOutput,
        SupportsLayerNormWeight,
        SupportsMambaStateShapes,
        SupportsMaxAttnLogits,
        SupportsRoutingMap,
        SupportsScatterToSequenceParallel,
        SupportsSequenceParallel,
        SupportsSetForRecomputeInputLayernorm,
        SupportsSetForRecomputePreMlpLayernorm,
        SupportsSetInputTensor,
        SupportsSetLayerNumber,
        SupportsShardedStateDict,
        SupportsSharedExperts,
        SupportsWeight,
        SupportsZeroCopyBuffers,
    )
    from modelwright.protocols.process_groups import ProcessGroups
    from modelwright.protocols.slot_table import SLOTS, Slot
    from modelwright.protocols.slots.attention import (
        CoreAttentionBuilder,
        CoreAttentionInterface,
        SelfAttentionBuilder,
        SelfAttentionInterface,
    )
    from modelwright.protocols.slots.embedding import (
        EmbeddingBuilder,
        EmbeddingInterface,
        LossInterface,
        OutputLayerBuilder,
        OutputLayerInterface,
    )
    from modelwright.protocols.slots.latent_attention import (
        LatentAttentionBuilder,
        LatentAttentionInterface,
        LatentCoreAttentionBuilder,
        LatentCoreAttentionInterface,
        LatentLinearInterface,
        LatentRotaryEmbeddingBuilder,
        LatentRotaryEmbeddingInterface,
        LinearDownProjBuilder,
        LinearQProjBuilder,
        LinearUpProjBuilder,
    )
    from modelwright.protocols.slots.layer import (
        AttentionLayerBuilder,
        AttentionLayerInterface,
        LatentAttentionLayerBuilder,
        LatentAttentionLayerInterface,
        MambaLayerBuilder,
        MambaLayerInterface,
        MlpLayerBuilder,
        MlpLayerInterface,
        MoeLayerBuilder,
        MoeLayerInterface,
        TransformerLayerInterface,
    )
    from modelwright.protocols.slots.linear import (
        InProjBuilder,
        InProjInterface,
        LinearFc1Builder,
        LinearFc1Interface,
        LinearFc2Builder,
        LinearFc2Interface,
        LinearProjBuilder,
        LinearProjInterface,
        LinearQkvBuilder,
        LinearQkvInterface,
        OutProjBuilder,
        OutProjInterface,
    )
    from modelwright.protocols.slots.mamba import (
        CausalConvolutionInterface,
        CausalConvolutionStepInterface,
        FusedScanInterface,
        GatedNormBuilder,
        GatedNormInterface,
        MambaMixerBuilder,
        MambaMixerInterface,
        ScanInterface,
        ScanStepInterface,
    )
    from modelwright.protocols.slots.mlp import (
        ActivationFunctionBuilder,
        ActivationFunctionInterface,
        MlpBuilder,
        MlpInterface,
    )
    from modelwright.protocols.slots.moe import (
        ExpertsBuilder,
        ExpertsInterface,
        GroupedLinearFc1Builder,
        GroupedLinearFc1Interface,
        GroupedLinearFc2Builder,
        GroupedLinearFc2Interface,
        GroupedLinearInterface,
        LatentProjBuilder,
        LatentProjInterface,
        MoeBuilder,
        MoeInterface,
        RouterBuilder,
        RouterInterface,
        SharedExpertsBuilder,
        SharedExpertsInterface,
        TokenDispatcherBuilder,
        TokenDispatcherInterface,
    )
    from modelwright.protocols.slots.norm import NormBuilder, NormInterface
    from modelwright.protocols.slots.residual import (
        BiasDropoutAddBuilder,
        BiasDropoutAddInterface,
        MambaBiasDropoutAddBuilder,
    )
    from modelwright.protocols.slots.rotary import RotaryEmbeddingBuilder, RotaryEmbeddingInterface
    from modelwright.protocols.slots.stack import StackBuilder, StackInterface
    from modelwright.protocols.suggestions import did_you_mean
else:
    from modelwright.protocols.door import lazy_door

    __getattr__, __dir__ = lazy_door(__name__, __file__)

__all__ = [
    "SLOTS",
    "ActivationFunctionBuilder",
    "ActivationFunctionInterface",
    "Argument",
    "AttentionLayerBuilder",
    "AttentionLayerInterface",
    "BiasDropoutAddBuilder",
    "BiasDropoutAddInterface",
    "BlockLayerInterface",
    "CausalConvolutionInterface",
    "CausalConvolutionStepInterface",
    "ConformanceError",
    "CoreAttentionBuilder",
    "CoreAttentionInterface",
    "CrossAttentionBuilder",
    "CrossAttentionInterface",
    "CrossBiasDropoutAddBuilder",
    "DuplicatedLinearBuilder",
    "DuplicatedLinearInterface",
    "EhProjBuilder",
    "EhProjInterface",
    "EmbeddingBuilder",
    "EmbeddingInterface",
    "EngineConfig",
    "ExpertsBuilder",
    "ExpertsInterface",
    "FusedScanInterface",
    "GatedDeltaLayerBuilder",
    "GatedDeltaLayerInterface",
    "GatedDeltaNetBuilder",
    "GatedDeltaNetInterface",
    "GatedDeltaRuleInterface",
    "GatedNormBuilder",
    "GatedNormInterface",
    "GroupedLinearFc1Builder",
    "GroupedLinearFc1Interface",
    "GroupedLinearFc2Builder",
    "GroupedLinearFc2Interface",
    "GroupedLinearInterface",
    "InProjBuilder",
    "InProjInterface",
    "LatentAttentionBuilder",
    "LatentAttentionInterface",
    "LatentAttentionLayerBuilder",
    "LatentAttentionLayerInterface",
    "LatentCoreAttentionBuilder",
    "LatentCoreAttentionInterface",
    "LatentLinearInterface",
    "LatentProjBuilder",
    "LatentProjInterface",
    "LatentRotaryEmbeddingBuilder",
    "LatentRotaryEmbeddingInterface",
    "LegacySpec",
    "LinearDownProjBuilder",
    "LinearFc1Builder",
    "LinearFc1Interface",
    "LinearFc2Builder",
    "LinearFc2Interface",
    "LinearLayerBuilder",
    "LinearLayerInterface",
    "LinearProjBuilder",
    "LinearProjInterface",
    "LinearQProjBuilder",
    "LinearQkvBuilder",
    "LinearQkvInterface",
    "LinearUpProjBuilder",
    "LossInterface",
    "MambaBiasDropoutAddBuilder",
    "MambaLayerBuilder",
    "MambaLayerInterface",
    "MambaMixerBuilder",
    "MambaMixerInterface",
    "MlpBuilder",
    "MlpInterface",
    "MlpLayerBuilder",
    "MlpLayerInterface",
    "ModelwrightError",
    "ModelwrightWarning",
    "MoeBuilder",
    "MoeInterface",
    "MoeLayerBuilder",
    "MoeLayerInterface",
    "MtpBlockBuilder",
    "MtpBlockInterface",
    "MtpLayerBuilder",
    "MtpLayerInterface",
    "MtpModelLayerBuilder",
    "MtpModelLayerInterface",
    "NormBuilder",
    "NormInterface",
    "OutProjBuilder",
    "OutProjInterface",
    "OutputLayerBuilder",
    "OutputLayerInterface",
    "Part",
    "ProcessGroups",
    "RotaryEmbeddingBuilder",
    "RotaryEmbeddingInterface",
    "RouterBuilder",
    "RouterInterface",
    "ScanInterface",
    "ScanStepInterface",
    "SelfAttentionBuilder",
    "SelfAttentionInterface",
    "SharedExpertsBuilder",
    "SharedExpertsInterface",
    "Slot",
    "SparseAttentionLayerBuilder",
    "SparseAttentionLayerInterface",
    "SparseCoreAttentionBuilder",
    "SparseCoreAttentionInterface",
    "SparseIndexerBuilder",
    "SparseIndexerInterface",
    "StackBuilder",
    "StackInterface",
    "SupportsAbsorbedUpProjection",
    "SupportsBackwardDw",
    "SupportsClipQk",
    "SupportsDsaInputs",
    "SupportsGatherOutput",
    "SupportsLayerNormWeight",
    "SupportsMambaStateShapes",
    "SupportsMaxAttnLogits",
    "SupportsRoutingMap",
    "SupportsScatterToSequenceParallel",
    "SupportsSequenceParallel",
    "SupportsSetForRecomputeInputLayernorm",
    "SupportsSetForRecomputePreMlpLayernorm",
    "SupportsSetInputTensor",
    "SupportsSetLayerNumber",
    "SupportsShardedStateDict",
    "SupportsSharedExperts",
    "SupportsWeight",
    "SupportsZeroCopyBuffers",
    "TokenDispatcherBuilder",
    "TokenDispatcherInterface",
    "TransformerLayerBuilder",
    "TransformerLayerInterface",
    "YarnRotaryEmbeddingBuilder",
    "YarnRotaryEmbeddingInterface",
    "adapt",
    "check_conformance",
    "did_you_mean",
    "explain",
    "from_module_spec",
    "lazy_door",
    "parts_of",
]
