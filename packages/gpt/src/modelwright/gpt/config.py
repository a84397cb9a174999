"""What a GPT is: the inputs of a decoder-only transformer, and what follows from them. No torch.

A GPT is the stack pattern `*-` (attention, dense MLP), once for each block. The defaults are a Llama-style model:
RMSNorm, SwiGLU, rotary position embedding, no biases. Importing this module registers the kind `gpt`.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, override

from modelwright.config import (
    Count,
    Fraction,
    Llama3RopeScaling,
    ModelConfig,
    NonNegativeFloat,
    OneOf,
    Parallelism,
    PositiveFloat,
    Problem,
    UnitFraction,
    activation_is_gated,
    activation_problem,
    config_class,
    divides,
    multiple_of,
    register_config,
    register_preset_module,
    register_upstream_module,
)

__all__ = ["GPTModelConfig"]


@register_config
@config_class
class GPTModelConfig(ModelConfig):
    """A decoder-only transformer."""

    kind: ClassVar[str] = "gpt"
    builder: ClassVar[str] = "modelwright.gpt.builder:GPTModelBuilder"

    num_layers: Count
    """Transformer blocks, each an attention layer and an MLP layer."""

    hidden_size: Count
    """Size of the residual stream."""

    num_attention_heads: Count
    """Query heads."""

    num_query_groups: Count | None = None
    """Key and value heads, each shared by a group of query heads (arXiv:2305.13245); None: one for each query head."""

    head_dim: Count | None = None
    """Size of one head; None: `hidden_size` / `num_attention_heads`."""

    ffn_hidden_size: Count | None = None
    """Width of the MLP. None: 4 × `hidden_size`, or, for a gated activation, 8/3 × `hidden_size` rounded up to a
    multiple of 64, which has about as many parameters."""

    activation: str = "swiglu"
    """Name of the MLP's activation; `modelwright.config.activation_names()` lists them."""

    normalization: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """Norm before each layer, and at the end."""

    norm_epsilon: PositiveFloat = 1e-5
    """Added to the variance in a norm."""

    position_embedding: Literal["rope", "learned", "none"] = "rope"
    """How positions enter: rotary in attention (arXiv:2104.09864), a learned table, or not at all."""

    rotary_base: PositiveFloat = 10000.0
    """Base of the rotary wavelengths."""

    rotary_percent: UnitFraction = 1.0
    """Share of each head that is rotated."""

    rope_scaling: Annotated[Llama3RopeScaling, OneOf(Llama3RopeScaling)] | None = None
    """Scaling of the rotary wavelengths for longer contexts; None: none."""

    vocab_size: Count
    """Tokens in the vocabulary."""

    vocab_multiple: Count = 128
    """The embedding is padded to a multiple of this, whatever the number of ranks."""

    seq_length: Count
    """Tokens in a sequence."""

    tie_embeddings: bool = False
    """Let the output layer share the embedding's weights."""

    linear_bias: bool = False
    """Biases in the linear layers of attention and MLP."""

    qkv_bias: bool = False
    """Biases in the query, key and value projection even without `linear_bias`."""

    qk_norm: bool = False
    """Normalise queries and keys of each head."""

    attention_dropout: Fraction = 0.0
    """Dropout of the attention weights."""

    hidden_dropout: Fraction = 0.0
    """Dropout before each addition to the residual stream."""

    init_std: NonNegativeFloat = 0.02
    """Standard deviation of initial weights."""

    @property
    def resolved_query_groups(self) -> int:
        """`num_query_groups`, or what stands for it."""
        return self.num_attention_heads if self.num_query_groups is None else self.num_query_groups

    @property
    def resolved_head_dim(self) -> int:
        """`head_dim`, or what stands for it."""
        return self.hidden_size // self.num_attention_heads if self.head_dim is None else self.head_dim

    @property
    def resolved_ffn_hidden_size(self) -> int:
        """`ffn_hidden_size`, or what stands for it."""
        if self.ffn_hidden_size is not None:
            return self.ffn_hidden_size
        if not activation_is_gated(self.activation):
            return 4 * self.hidden_size
        return _rounded_up(-(-8 * self.hidden_size // 3), 64)

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding. They do not depend on the number of ranks, so that checkpoints can be resharded."""
        return _rounded_up(self.vocab_size, self.vocab_multiple)

    @property
    def stack_pattern(self) -> str:
        """One symbol for each layer: `*` attention, `-` dense MLP."""
        return "*-" * self.num_layers

    @override
    def engine_fields(self) -> Mapping[str, Any]:
        return {
            "num_layers": len(self.stack_pattern),
            "hidden_size": self.hidden_size,
            "num_attention_heads": self.num_attention_heads,
            "num_query_groups": self.resolved_query_groups,
            "kv_channels": self.resolved_head_dim,
            "ffn_hidden_size": self.resolved_ffn_hidden_size,
            "activation": self.activation,
            "normalization": {"rmsnorm": "RMSNorm", "layernorm": "LayerNorm"}[self.normalization],
            "layernorm_epsilon": self.norm_epsilon,
            "add_bias_linear": self.linear_bias,
            "add_qkv_bias": self.qkv_bias,
            "qk_layernorm": self.qk_norm,
            "attention_dropout": self.attention_dropout,
            "hidden_dropout": self.hidden_dropout,
            "init_method_std": self.init_std,
        }

    @override
    def problems(self) -> Iterator[Problem]:
        heads = self.num_attention_heads
        yield from divides("num_query_groups", self.resolved_query_groups, "num_attention_heads", heads)
        if self.head_dim is None:
            yield from divides("num_attention_heads", heads, "hidden_size", self.hidden_size)
        unknown = activation_problem("activation", self.activation)
        if unknown is not None:
            yield unknown
        yield from self._rotary_problems()

    @override
    def layout_problems(self, parallelism: Parallelism) -> Iterator[Problem]:
        tensor = parallelism.tensor
        yield from multiple_of("num_attention_heads", self.num_attention_heads, tensor, "`tensor`")
        yield from multiple_of("num_query_groups", self.resolved_query_groups, tensor, "`tensor`")
        yield from multiple_of("ffn_hidden_size", self.resolved_ffn_hidden_size, tensor, "`tensor`")
        yield from self._vocabulary_problems(tensor)
        yield from self._sequence_problems(parallelism)
        yield from self._stage_problems(parallelism)
        if parallelism.expert > 1:
            message = (
                f"`expert` must be 1, but {parallelism.expert} was given: a `{self.kind}` has no experts to split."
            )
            yield Problem("", message)

    def _stage_problems(self, parallelism: Parallelism) -> Iterator[Problem]:
        """How the blocks are divided over the pipeline."""
        stages = parallelism.stages
        if stages is None:
            count = parallelism.pipeline * parallelism.virtual_pipeline
            yield from multiple_of("num_layers", self.num_layers, count, "`pipeline` × `virtual_pipeline`")
        elif sum(stages) != self.num_layers:
            rule = f"`num_layers` must be the sum of `parallelism.stages`, but {self.num_layers} is not {sum(stages)}"
            yield Problem("num_layers", f"{rule}; change one of them.")

    def _rotary_problems(self) -> Iterator[Problem]:
        """Rules of the rotary embedding."""
        if self.position_embedding != "rope":
            if self.rope_scaling is not None:
                rule = "`rope_scaling` needs `position_embedding: rope`"
                yield Problem("rope_scaling", f"{rule}, but `{self.position_embedding}` was given; set it to null.")
            return
        # In floats, as the engine counts, which hold whole numbers up to 2**53 exactly and overflow far beyond.
        rotated = int(min(self.resolved_head_dim, 2**53) * self.rotary_percent)
        if rotated % 2 or not rotated:
            rule = "`head_dim` × `rotary_percent` must be even and above 0, because rope turns pairs"
            yield Problem("head_dim", f"{rule}, but {self.resolved_head_dim} × {self.rotary_percent} is {rotated}.")

    def _vocabulary_problems(self, tensor: int) -> Iterator[Problem]:
        """The padded vocabulary is the same for every layout, so the padding must suit this one."""
        if self.padded_vocab_size % tensor:
            rule = f"`vocab_multiple` {self.vocab_multiple} pads the vocabulary to {self.padded_vocab_size}"
            message = f"{rule}, which must be a multiple of `tensor`, but is not a multiple of {tensor}"
            yield Problem("vocab_multiple", f"{message}; use a multiple of {tensor}.")

    def _sequence_problems(self, parallelism: Parallelism) -> Iterator[Problem]:
        """The axes that cut the sequence."""
        divisor, of = 1, ""
        if parallelism.context > 1:
            divisor, of = 2 * parallelism.context, "2 × `context`"
        if parallelism.sequence:
            cut = parallelism.tensor * parallelism.context
            divisor, of = (math.lcm(divisor, cut), f"{of} and of `tensor` × `context`") if of else (cut, "`tensor`")
        yield from multiple_of("seq_length", self.seq_length, divisor, of)


def _rounded_up(number: int, multiple: int) -> int:
    """The least multiple that is not below a number."""
    return -(-number // multiple) * multiple


register_preset_module("modelwright.gpt.presets")
register_upstream_module("modelwright.gpt.upstream")
