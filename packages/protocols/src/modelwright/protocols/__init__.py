"""Typed interfaces of every slot of a Megatron-Core model; no dependencies.

For each slot there is an `...Interface`, what the built part can do, and an `...Builder`, what makes one. The
parameters are those that the engine's own calls pass. A type checker then tells whether a part fits, and
`check_conformance` tells the same at run time, before anything is built.

    from modelwright.protocols import MlpBuilder, check_conformance

    check_conformance(MlpBuilder, MyMlp)
"""

from modelwright.protocols._attention import (
    CoreAttentionBuilder,
    CoreAttentionInterface,
    SelfAttentionBuilder,
    SelfAttentionInterface,
)
from modelwright.protocols._bias_dropout_add import BiasDropoutAddBuilder, BiasDropoutAddInterface
from modelwright.protocols._conformance import ConformanceError, check_conformance
from modelwright.protocols._embedding import (
    EmbeddingBuilder,
    EmbeddingInterface,
    OutputLayerBuilder,
    OutputLayerInterface,
    RotaryEmbeddingBuilder,
    RotaryEmbeddingInterface,
)
from modelwright.protocols._errors import ModelwrightError, did_you_mean
from modelwright.protocols._groups import ProcessGroups
from modelwright.protocols._layer import (
    AttentionLayerBuilder,
    AttentionLayerInterface,
    MlpLayerBuilder,
    MlpLayerInterface,
    TransformerLayerInterface,
)
from modelwright.protocols._linear import (
    LinearFc1Builder,
    LinearFc1Interface,
    LinearFc2Builder,
    LinearFc2Interface,
    LinearProjBuilder,
    LinearProjInterface,
    LinearQkvBuilder,
    LinearQkvInterface,
)
from modelwright.protocols._mlp import MlpBuilder, MlpInterface
from modelwright.protocols._norm import NormBuilder, NormInterface
from modelwright.protocols._stack import StackBuilder, StackInterface
from modelwright.protocols._supports import (
    SupportsBackwardDw,
    SupportsClipQk,
    SupportsLayerNormWeight,
    SupportsMaxAttnLogits,
    SupportsScatterToSequenceParallel,
    SupportsSequenceParallel,
    SupportsSetForRecomputeInputLayernorm,
    SupportsSetInputTensor,
    SupportsSetLayerNumber,
    SupportsShardedStateDict,
    SupportsWeight,
)

__all__ = [
    "AttentionLayerBuilder",
    "AttentionLayerInterface",
    "BiasDropoutAddBuilder",
    "BiasDropoutAddInterface",
    "ConformanceError",
    "CoreAttentionBuilder",
    "CoreAttentionInterface",
    "EmbeddingBuilder",
    "EmbeddingInterface",
    "LinearFc1Builder",
    "LinearFc1Interface",
    "LinearFc2Builder",
    "LinearFc2Interface",
    "LinearProjBuilder",
    "LinearProjInterface",
    "LinearQkvBuilder",
    "LinearQkvInterface",
    "MlpBuilder",
    "MlpInterface",
    "MlpLayerBuilder",
    "MlpLayerInterface",
    "ModelwrightError",
    "NormBuilder",
    "NormInterface",
    "OutputLayerBuilder",
    "OutputLayerInterface",
    "ProcessGroups",
    "RotaryEmbeddingBuilder",
    "RotaryEmbeddingInterface",
    "SelfAttentionBuilder",
    "SelfAttentionInterface",
    "StackBuilder",
    "StackInterface",
    "SupportsBackwardDw",
    "SupportsClipQk",
    "SupportsLayerNormWeight",
    "SupportsMaxAttnLogits",
    "SupportsScatterToSequenceParallel",
    "SupportsSequenceParallel",
    "SupportsSetForRecomputeInputLayernorm",
    "SupportsSetInputTensor",
    "SupportsSetLayerNumber",
    "SupportsShardedStateDict",
    "SupportsWeight",
    "TransformerLayerInterface",
    "check_conformance",
    "did_you_mean",
]
