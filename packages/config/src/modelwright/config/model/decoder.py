"""Base config of all decoder families: the inputs of a language model that is a stack of layers.

A family adds its own fields, and defines in `stack_pattern` which layers the stack has. The defaults are a Llama-style
model: RMSNorm, SwiGLU, rotary position embedding, no biases. Fields of a layer kind that the pattern does not contain
must have their defaults, because they would have no effect.
"""

import abc
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, override

from modelwright.config.model.activations import activation_is_gated, activation_problem
from modelwright.config.model.base import ModelConfig
from modelwright.config.model.layer_kinds import ATTENTION, LAYER_KINDS, MLA, MLP, MOE, STAGE_BOUNDARY, LayerKind
from modelwright.config.model.rope import Llama3RopeScaling, RopeScaling, YarnRopeScaling
from modelwright.config.problems.numbers import Count, Fraction, NonNegativeFloat, PositiveFloat, UnitFraction
from modelwright.config.problems.problem import Problem
from modelwright.config.problems.rules import divides, multiple_of, without_effect
from modelwright.config.strict.by_kind import OneOf
from modelwright.config.strict.config_class import AddedLater, config_class

if TYPE_CHECKING:
    from modelwright.config.run.parallelism import Parallelism

__all__ = ["DecoderConfig"]

_ATTENTION_SYMBOLS = ATTENTION.symbol + MLA.symbol
_ATTENTION_FIELDS = (
    "num_attention_heads",
    "num_query_groups",
    "head_dim",
    "qkv_bias",
    "qk_norm",
    "attention_dropout",
    "softmax_scale",
    "attention_softcap",
    "attention_sinks",
    "sliding_window",
    "full_attention_every",
    "no_rope_every",
    "rope_scaling",
)
_ROPE_FIELDS = ("rotary_base", "rotary_percent")


@config_class
class DecoderConfig(ModelConfig, abc.ABC):
    """Language model: a stack of layers between an embedding and an output layer. Base of the families' configs."""

    block_size: ClassVar[int] = 1
    """Layers of one block: the unit of `parallelism.stages`, which a stage boundary never splits."""

    num_layers: Count | None
    """Number of blocks, of `block_size` layers each. `null`: given by a pattern."""

    hidden_size: Count
    """Size of the residual stream."""

    num_attention_heads: Count | None
    """Number of query heads. `null`: no layer is attention."""

    num_query_groups: Count | None = None
    """Number of key and value heads, each shared by a group of query heads (arXiv:2305.13245). `null`: one for each
    query head."""

    head_dim: Count | None = None
    """Size of one attention head. `null`: `hidden_size` / `num_attention_heads`."""

    ffn_hidden_size: Count | None = None
    """Width of the MLP. `null`: 4 × `hidden_size`, or, for a gated activation, 8/3 × `hidden_size` rounded up to a
    multiple of 64, which has about as many parameters."""

    activation: str = "swiglu"
    """Name of the MLP's activation; `modelwright.config.activation_names()` lists them."""

    normalization: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """Norm before each layer and after the last layer."""

    norm_epsilon: PositiveFloat = 1e-5
    """Constant added to the variance in a norm, for numerical stability."""

    position_embedding: Literal["rope", "learned", "none"] = "rope"
    """Position embedding: rotary in attention (arXiv:2104.09864), a learned table, or none."""

    rotary_base: PositiveFloat = 10000.0
    """Base of the rotary wavelengths."""

    rotary_percent: UnitFraction = 1.0
    """Fraction of each head that is rotated."""

    rope_scaling: Annotated[RopeScaling, OneOf(Llama3RopeScaling, YarnRopeScaling)] | None = None
    """Scaling of the rotary wavelengths for longer contexts. `null`: no scaling."""

    vocab_size: Count
    """Number of tokens in the vocabulary."""

    vocab_multiple: Count = 128
    """Divisor of the padded vocabulary size. The padding does not depend on the number of ranks."""

    seq_length: Count
    """Sequence length in tokens."""

    tie_embeddings: bool = False
    """Share the weight of the embedding with the output layer."""

    linear_bias: bool = False
    """Use biases in the linear layers of attention and MLP."""

    qkv_bias: bool = False
    """Use biases in the query, key and value projection, even without `linear_bias`. No effect with it."""

    qk_norm: bool = False
    """Normalize the queries and keys of each head."""

    attention_dropout: Fraction = 0.0
    """Dropout probability of the attention weights."""

    hidden_dropout: Fraction = 0.0
    """Dropout probability before each addition to the residual stream."""

    init_std: NonNegativeFloat = 0.02
    """Standard deviation of the initial weights."""

    zero_centered_norm: Annotated[bool, AddedLater()] = False
    """Store the weights of norms around 0 and multiply by 1 + weight, as Gemma does. Not in the gated norm of a Mamba-2
    layer."""

    softmax_scale: Annotated[PositiveFloat | None, AddedLater()] = None
    """Factor on the attention scores. `null`: 1 / sqrt(`head_dim`)."""

    attention_softcap: Annotated[PositiveFloat | None, AddedLater()] = None
    """Bound of the attention scores: they become cap × tanh(score / cap), as in Gemma 2 (arXiv:2408.00118). `null`: no
    bound."""

    logits_softcap: Annotated[PositiveFloat | None, AddedLater()] = None
    """Bound of the logits, by the same formula. `null`: no bound."""

    attention_sinks: Annotated[Literal["none", "off_by_one", "learned"], AddedLater()] = "none"
    """Logit beside the scores in the softmax of each head, which takes attention from all tokens: 0 (`off_by_one`), or
    a parameter of the head (`learned`), as in gpt-oss (arXiv:2508.10925)."""

    sliding_window: Annotated[Count | None, AddedLater()] = None
    """Number of positions that a token attends to, its own included, as in Mistral (arXiv:2310.06825). No effect if it
    is at least `seq_length`. `null`: all earlier positions."""

    full_attention_every: Annotated[Count | None, AddedLater()] = None
    """Interval of attention layers without the window: every N-th one attends to all earlier positions. 2 alternates,
    and a window comes first. `null`: every layer has the window."""

    no_rope_every: Annotated[Count | None, AddedLater()] = None
    """Interval of attention layers without rope: every N-th one has no position embedding, as in SmolLM3. `null`: every
    layer has rope."""

    @property
    @abc.abstractmethod
    def stack_pattern(self) -> str:
        """Pattern of the stack: a symbol of `LAYER_KINDS` for each layer, and optional stage boundaries."""

    @property
    def layers(self) -> str:
        """Pattern of the stack without stage boundaries."""
        return self.stack_pattern.replace(STAGE_BOUNDARY, "")

    @property
    def symbols(self) -> frozenset[str]:
        """Symbols in the pattern. A family with repeated blocks overrides this, because the count may be huge."""
        return frozenset(self.layers)

    def has(self, kind: LayerKind) -> bool:
        """Return True if a layer of the stack is of a kind.

        Args:
            kind: A layer kind, such as `ATTENTION`.
        """
        return kind.symbol in self.symbols

    @property
    def blocks(self) -> int:
        """Number of blocks of `block_size` layers."""
        return len(self.layers) // self.block_size

    @property
    def heads(self) -> int:
        """`num_attention_heads`, or the number that the engine needs if no layer is attention."""
        return self.num_attention_heads or 1

    @property
    def resolved_query_groups(self) -> int:
        """`num_query_groups` with its default resolved."""
        return self.heads if self.num_query_groups is None else self.num_query_groups

    @property
    def resolved_head_dim(self) -> int:
        """`head_dim` with its default resolved."""
        return self.hidden_size // self.heads if self.head_dim is None else self.head_dim

    @property
    def resolved_ffn_hidden_size(self) -> int:
        """`ffn_hidden_size` with its default resolved."""
        if self.ffn_hidden_size is not None:
            return self.ffn_hidden_size
        if not activation_is_gated(self.activation):
            return 4 * self.hidden_size
        return _rounded_up(-(-8 * self.hidden_size // 3), 64)

    @property
    def context_limit(self) -> int | None:
        """Maximum context in tokens. None: no layer limits it."""
        limited = any(LAYER_KINDS[symbol].keeps_every_token for symbol in self.symbols & LAYER_KINDS.keys())
        return self.seq_length if limited or self.position_embedding == "learned" else None

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding, independent of the number of ranks, so that checkpoints can be resharded."""
        return _rounded_up(self.vocab_size, self.vocab_multiple)

    @override
    def engine_fields(self) -> Mapping[str, Any]:
        return {
            "num_layers": len(self.layers),
            "hidden_size": self.hidden_size,
            "num_attention_heads": self.heads,
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
            **self._attention_variants(),
        }

    def _attention_variants(self) -> dict[str, Any]:
        """Return the engine's fields of windows, sinks, caps, scales and norms, only those that are used.

        `attention_softcap`, `logits_softcap` and `yarn_…` are fields that `modelwright.layers` adds to the engine's.
        """
        windowed = self.sliding_window is not None
        fields = {
            "softmax_scale": self.softmax_scale,
            "attention_softcap": self.attention_softcap,
            "logits_softcap": self.logits_softcap,
            "softmax_type": {"none": None, "off_by_one": "off-by-one", "learned": "learnable"}[self.attention_sinks],
            "layernorm_zero_centered_gamma": self.zero_centered_norm or None,
            "window_size": (self.sliding_window - 1, 0) if self.sliding_window is not None else None,
            "window_attn_skip_freq": self._attention_flags(self.full_attention_every, hit=0) if windowed else None,
            "no_rope_freq": self._attention_flags(self.no_rope_every, hit=1),
            **self._yarn_fields(),
        }
        return {name: value for name, value in fields.items() if value is not None}

    def _yarn_fields(self) -> dict[str, Any]:
        """Return the engine's fields of YaRN. A family with MLA overrides it, because MLA has other ones."""
        if not isinstance(self.rope_scaling, YarnRopeScaling):
            return {}
        return {
            "yarn_rotary_scaling_factor": self.rope_scaling.factor,
            "yarn_mscale": self.rope_scaling.mscale,
            "yarn_mscale_all_dim": self.rope_scaling.mscale_all_dim,
        }

    def _attention_flags(self, every: int | None, *, hit: int) -> list[int] | None:
        """Return one number for each layer: `hit` in every N-th attention layer, 1 - `hit` in the others."""
        if every is None:
            return None
        flags, count = list[int](), 0
        for symbol in self.layers:
            count += symbol in _ATTENTION_SYMBOLS
            flags.append(hit if symbol in _ATTENTION_SYMBOLS and count % every == 0 else 1 - hit)
        return flags

    @override
    def problems(self) -> Iterator[Problem]:
        unknown = activation_problem("activation", self.activation)
        if unknown is not None:
            yield unknown
            return
        if self.has(ATTENTION):
            yield from self._attention_problems()
        if self.has(ATTENTION) or self.has(MLA):
            yield from self._interval_problems()
        yield from self._fields_without_effect()

    def _fields_without_effect(self) -> Iterator[Problem]:
        """Refuse fields of layers that the pattern does not contain, and of a position embedding that is not used."""
        rotates = self.position_embedding == "rope"
        if not self.has(ATTENTION) and not self.has(MLA):
            yield from without_effect(self, _ATTENTION_FIELDS, "without attention layers")
            if rotates:
                message = "`position_embedding` must be `learned` or `none` without attention layers, but is `rope`."
                yield Problem("position_embedding", message, code="without_effect")
            rotates = False
        if not rotates:
            yield from without_effect(self, _ROPE_FIELDS, "without `position_embedding: rope` in attention layers")
        if not self.has(MLP) and not self.has(MOE):
            yield from without_effect(self, ("ffn_hidden_size", "activation"), "without MLP or MoE layers")
            if not self.has(ATTENTION) and not self.has(MLA):
                yield from without_effect(self, ("linear_bias",), "without attention, MLP or MoE layers")

    @override
    def layout_problems(self, parallelism: "Parallelism") -> Iterator[Problem]:
        tensor = parallelism.tensor
        if self.has(ATTENTION):
            yield from multiple_of("num_attention_heads", self.heads, tensor, "`tensor`", axis="tensor")
            yield from multiple_of("num_query_groups", self.resolved_query_groups, tensor, "`tensor`", axis="tensor")
        if self.has(MLP):
            yield from multiple_of("ffn_hidden_size", self.resolved_ffn_hidden_size, tensor, "`tensor`", axis="tensor")
        yield from self._vocabulary_problems(tensor)
        yield from self._sequence_problems(parallelism)
        yield from self.stage_problems(parallelism)
        if parallelism.expert > 1 and not self.has(MOE):
            message = (
                f"`expert` must be 1 for a `{self.kind}` without {MOE.plural}, but {parallelism.expert} was given."
            )
            yield Problem("", message)

    def stage_problems(self, parallelism: "Parallelism") -> Iterator[Problem]:
        """Check that the blocks can be split over the pipeline; a family with stage boundaries overrides it.

        Args:
            parallelism: Sizes of the axes.

        Yields:
            Problems with paths relative to this config.
        """
        stages, blocks = parallelism.stages, self.blocks
        if stages is None:
            count = parallelism.pipeline * parallelism.virtual_pipeline
            axis = "pipeline" if parallelism.virtual_pipeline == 1 else None
            yield from multiple_of("num_layers", blocks, count, "`pipeline` × `virtual_pipeline`", axis=axis)
        elif sum(stages) != blocks:
            rule = f"`num_layers` must be the sum of `parallelism.stages`, but {blocks} is not {sum(stages)}"
            yield Problem("num_layers", f"{rule}; change one of them.")

    def _attention_problems(self) -> Iterator[Problem]:
        """Check the rules of attention and of its position embedding."""
        if self.num_attention_heads is None:
            message = f"`num_attention_heads` must be given for a model with {ATTENTION.plural}, but is null; set it."
            yield Problem("num_attention_heads", message)
            return
        yield from divides("num_query_groups", self.resolved_query_groups, "num_attention_heads", self.heads)
        if self.head_dim is None:
            yield from divides("num_attention_heads", self.heads, "hidden_size", self.hidden_size)
        if self.position_embedding != "rope":
            if self.rope_scaling is not None:
                rule = "`rope_scaling` needs `position_embedding: rope`"
                yield Problem("rope_scaling", f"{rule}, but `{self.position_embedding}` was given; set it to null.")
            return
        # The engine computes this in floats, which are exact up to 2**53 and overflow far beyond.
        rotated = int(min(self.resolved_head_dim, 2**53) * self.rotary_percent)
        if rotated % 2 or not rotated:
            rule = "`head_dim` × `rotary_percent` must be even and above 0, because rope rotates pairs"
            yield Problem("head_dim", f"{rule}, but {self.resolved_head_dim} × {self.rotary_percent} is {rotated}.")

    def _interval_problems(self) -> Iterator[Problem]:
        """Check the rules of windows and of layers without rope."""
        if self.full_attention_every is not None and self.sliding_window is None:
            message = "`full_attention_every` needs `sliding_window`, but that is null; set both or neither."
            yield Problem("full_attention_every", message)
        if self.full_attention_every == 1:
            message = "`full_attention_every` must be at least 2, because with 1 no layer has the window; leave it out."
            yield Problem("full_attention_every", message)
        if self.no_rope_every is not None and self.position_embedding != "rope":
            rule = "`no_rope_every` needs `position_embedding: rope`"
            yield Problem("no_rope_every", f"{rule}, but `{self.position_embedding}` was given; set it to null.")
        # A block of two layers has one attention layer, and the count of blocks may be huge.
        is_block = self.block_size > 1
        count = self.blocks if is_block else sum(symbol in _ATTENTION_SYMBOLS for symbol in self.layers)
        for name in ("full_attention_every", "no_rope_every"):
            every = getattr(self, name)
            if every is not None and every > count:
                message = f"`{name}` must be at most the number of attention layers, but {every} is above {count}."
                yield Problem(name, message)

    def _vocabulary_problems(self, tensor: int) -> Iterator[Problem]:
        """Check that the tensor ranks divide the padded vocabulary, which is the same for every layout."""
        if self.padded_vocab_size % tensor:
            rule = f"`vocab_multiple` {self.vocab_multiple} pads the vocabulary to {self.padded_vocab_size}"
            message = f"{rule}, which must be a multiple of `tensor`, but is not a multiple of {tensor}"
            yield Problem("vocab_multiple", f"{message}; use a multiple of {tensor}.")

    def _sequence_problems(self, parallelism: "Parallelism") -> Iterator[Problem]:
        """Check the axes that split the sequence."""
        divisor, of = 1, ""
        if parallelism.context > 1:
            divisor, of = 2 * parallelism.context, "2 × `context`"
        if parallelism.sequence:
            cut = parallelism.tensor * parallelism.context
            divisor, of = (math.lcm(divisor, cut), f"{of} and of `tensor` × `context`") if of else (cut, "`tensor`")
        yield from multiple_of("seq_length", self.seq_length, divisor, of)


def _rounded_up(number: int, multiple: int) -> int:
    """Return the smallest multiple that is not below a number."""
    return -(-number // multiple) * multiple
