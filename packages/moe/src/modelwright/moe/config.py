"""`MoeModelConfig`: config of a decoder with MoE layers, their experts and their router. No torch.

A block is attention and then an MLP or an MoE layer: `*-` or `*E` in the stack pattern, or `+-` and `+E` with MLA.
Importing this module registers the kind `moe`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, final, override

from modelwright.config import (
    ATTENTION,
    MLA,
    MLP,
    MOE,
    STAGE_BOUNDARY,
    Config,
    Count,
    ExpertsConfig,
    Llama3RopeScaling,
    NonNegativeInt,
    Parallelism,
    Problem,
    YarnRopeScaling,
    config_class,
    multiple_of,
    register_config,
    register_preset_module,
    register_upstream_module,
)

__all__ = ["LatentAttention", "MoeModelConfig"]

_MIXERS = ATTENTION.symbol + MLA.symbol
_FEED_FORWARD = MLP.symbol + MOE.symbol
_BLOCK = f"[{re.escape(_MIXERS)}][{re.escape(_FEED_FORWARD)}]"
_BLOCKS = re.compile(f"{_BLOCK}({re.escape(STAGE_BOUNDARY)}?{_BLOCK})*")


def _first_wrong(pattern: str) -> int:
    """Return the index of the first symbol that breaks the blocks of a pattern; its length if it ends too early."""
    wanted, before = _MIXERS, ""
    for index, symbol in enumerate(pattern):
        if symbol not in (wanted + STAGE_BOUNDARY if before and before in _FEED_FORWARD else wanted):
            return index
        wanted, before = _FEED_FORWARD if symbol in _MIXERS else _MIXERS, symbol
    return len(pattern)


@final
@config_class
class LatentAttention(Config):
    """Multi-head latent attention (MLA): queries, keys and values from low-rank vectors (arXiv:2405.04434)."""

    query_rank: Count = 1536
    """Size of the low-rank vector of the queries."""

    key_value_rank: Count = 512
    """Size of the low-rank vector of keys and values."""

    head_dim: Count = 128
    """Size of the part of a query or key head that is not rotated."""

    rotary_head_dim: Count = 64
    """Size of the part of a query or key head that is rotated. All key heads share it."""

    value_head_dim: Count = 128
    """Size of a value head."""

    @override
    def problems(self) -> Iterator[Problem]:
        if self.rotary_head_dim % 2:
            rule = "`rotary_head_dim` must be even, because rope rotates pairs"
            yield Problem("rotary_head_dim", f"{rule}, but {self.rotary_head_dim} was given.")


@register_config
@config_class
class MoeModelConfig(ExpertsConfig):
    """Decoder-only transformer with MoE layers (arXiv:1701.06538)."""

    kind: ClassVar[str] = "moe"
    builder: ClassVar[str] = "modelwright.moe.builder:MoeModelBuilder"
    block_size: ClassVar[int] = 2

    num_layers: Count | None = None
    """Number of transformer blocks, each attention and then an MLP or MoE layer. `null`: given by `pattern`."""

    num_attention_heads: Count
    """Number of query heads."""

    latent_attention: LatentAttention | None = None
    """Multi-head latent attention (MLA) in every block. `null`: ordinary attention."""

    qk_norm_over: Literal["head", "heads"] = "head"
    """Range of `qk_norm`: each head separately (`head`), or all heads of a token together (`heads`), as in OLMoE."""

    pattern: str | None = None
    """Pattern of the stack, in place of `num_layers` and the next two fields: `*` attention, `+` MLA, `-` MLP, `E` MoE
    layer, `|` between stages. `null`: given by those fields."""

    first_dense_layers: NonNegativeInt = 0
    """Number of blocks at the beginning with an MLP."""

    moe_every: Count = 1
    """Interval of MoE layers: every N-th block after the first dense ones has one, the others an MLP."""

    num_experts: Count
    """Number of routed experts in an MoE layer."""

    top_k: Count
    """Number of routed experts for each token."""

    @property
    @override
    def stack_pattern(self) -> str:
        """Stack pattern: `*` attention or `+` MLA, then `-` MLP or `E` MoE layer, for each block."""
        if self.pattern is not None:
            return self.pattern
        attention = (ATTENTION if self.latent_attention is None else MLA).symbol
        return "".join(
            attention + (MOE if self._is_moe(block) else MLP).symbol for block in range(self.num_layers or 0)
        )

    def _is_moe(self, block: int) -> bool:
        return block >= self.first_dense_layers and (block - self.first_dense_layers + 1) % self.moe_every == 0

    @property
    @override
    def symbols(self) -> frozenset[str]:
        if self.pattern is not None:
            return frozenset(self.layers)
        layers, dense = self.num_layers or 0, self.first_dense_layers
        has_moe, has_dense = layers >= dense + self.moe_every, dense > 0 or self.moe_every > 1
        attention = (ATTENTION if self.latent_attention is None else MLA).symbol
        return frozenset(attention + MOE.symbol * has_moe + MLP.symbol * (has_dense or not has_moe))

    @property
    @override
    def blocks(self) -> int:
        return len(self.layers) // self.block_size if self.num_layers is None else self.num_layers

    @override
    def engine_fields(self) -> Mapping[str, Any]:
        return {
            **super().engine_fields(),
            **self._latent_fields(),
        }

    def _latent_fields(self) -> dict[str, Any]:
        latent = self.latent_attention
        if latent is None:
            return {}
        return {
            "multi_latent_attention": True,
            "q_lora_rank": latent.query_rank,
            "kv_lora_rank": latent.key_value_rank,
            "qk_head_dim": latent.head_dim,
            "qk_pos_emb_head_dim": latent.rotary_head_dim,
            "v_head_dim": latent.value_head_dim,
            **self._latent_rope_fields(),
            "rotary_base": self.rotary_base,
            "rotary_percent": self.rotary_percent,
        }

    def _latent_rope_fields(self) -> dict[str, Any]:
        """Return the fields of the rope of MLA, which the engine builds in each layer."""
        scaling = self.rope_scaling
        if not isinstance(scaling, YarnRopeScaling):
            return {"rope_type": "rope"}
        return {
            "rope_type": "yarn",
            "rotary_scaling_factor": scaling.factor,
            "original_max_position_embeddings": scaling.original_seq_length,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "mscale": scaling.mscale,
            "mscale_all_dim": scaling.mscale_all_dim,
        }

    @override
    def _yarn_fields(self) -> dict[str, Any]:
        return super()._yarn_fields() if self.latent_attention is None else {}

    @override
    def problems(self) -> Iterator[Problem]:
        stack = tuple(self._stack_problems())
        yield from stack
        if not stack:
            yield from super().problems()
        yield from self._kind_of_attention_problems()

    def _stack_problems(self) -> Iterator[Problem]:
        """Yield problems of the fields that define the layers."""
        if self.num_layers is None and self.pattern is None:
            message = "`num_layers` must be set if `pattern` is not, but both are null; set one of them."
            yield Problem("num_layers", message)
        elif self.num_layers is not None and self.pattern is not None:
            rule = "`num_layers` must be left out with `pattern`, which defines it"
            yield Problem("num_layers", f"{rule}, but {self.num_layers} was given; leave one of them out.")
        elif self.pattern is not None:
            yield from self._pattern_problems(self.pattern)
        elif not self.has(MOE):
            least = self.first_dense_layers + self.moe_every
            message = (
                f"`num_layers` must be at least `first_dense_layers` + `moe_every` = {least} for a block to have"
                f" experts, but {self.num_layers} was given; use {least} or more, or the family `gpt`."
            )
            yield Problem("num_layers", message)

    def _pattern_problems(self, pattern: str) -> Iterator[Problem]:
        for name, default in (("first_dense_layers", 0), ("moe_every", 1)):
            if getattr(self, name) != default:
                message = (
                    f"`{name}` must be left out with `pattern`, but {getattr(self, name)} was given; leave it out."
                )
                yield Problem(name, message)
        if not _BLOCKS.fullmatch(pattern):
            rule = "`pattern` must be blocks of attention (`*` or `+`) and then an MLP (`-`) or MoE layer (`E`)"
            index = _first_wrong(pattern)
            advice = "use the family `mamba` for `M`" if pattern[index : index + 1] == "M" else "an example is `*-*E`"
            message = f"{rule}, with `|` between stages, but {pattern[:40]!r} is not; {advice}."
            yield Problem("pattern", message, excerpt=(pattern, index))
            return
        own, foreign = (ATTENTION, MLA) if self.latent_attention is None else (MLA, ATTENTION)
        wanted, other = own.symbol, foreign.symbol
        if other in pattern:
            given = "null" if self.latent_attention is None else "given"
            message = (
                f"`pattern` must contain the attention `{wanted}` if `latent_attention` is {given}, but contains"
                f" `{other}`; change one of them."
            )
            yield Problem("pattern", message)
        if MOE.symbol not in pattern:
            message = (
                f"`pattern` must contain an MoE layer, `E`, but {pattern[:40]!r} has none; add one, or use the"
                " family `gpt`."
            )
            yield Problem("pattern", message)

    def _kind_of_attention_problems(self) -> Iterator[Problem]:
        """Yield problems of MLA, and of norms over all heads."""
        if self.latent_attention is None:
            if self.qk_norm_over == "heads" and not self.qk_norm:
                message = "`qk_norm_over: heads` needs `qk_norm: true`, but it is false; set it, or leave this one out."
                yield Problem("qk_norm_over", message)
            return
        for name, allowed in (
            ("position_embedding", "rope"),
            ("qk_norm_over", "head"),
            ("num_query_groups", None),
            ("head_dim", None),
            ("softmax_scale", None),
            ("no_rope_every", None),
            ("qkv_bias", False),
        ):
            value = getattr(self, name)
            if value != allowed:
                given = f"`{value}`" if isinstance(value, str) else "another value"
                say = f"`{allowed}`" if isinstance(allowed, str) else "null" if allowed is None else "false"
                message = (
                    f"`{name}` must be {say} with `latent_attention`, which does not use it, but {given} was given."
                )
                yield Problem(name, message)
        yield from self._latent_rope_problems()

    def _latent_rope_problems(self) -> Iterator[Problem]:
        """Yield problems of the scaling of rope, of which MLA supports a part."""
        scaling = self.rope_scaling
        if isinstance(scaling, Llama3RopeScaling):
            message = "`rope_scaling` must be of kind `yarn` with `latent_attention`, but `llama3` was given."
            yield Problem("rope_scaling", message)
        elif isinstance(scaling, YarnRopeScaling) and not scaling.truncate:
            message = "`truncate` must be true with `latent_attention`, but is false; leave it out."
            yield Problem("rope_scaling.truncate", message)
        if isinstance(scaling, YarnRopeScaling) and self.rotary_percent != 1.0:
            rule = "`rotary_percent` must be 1 with `latent_attention` and `rope_scaling`"
            yield Problem("rotary_percent", f"{rule}, but {self.rotary_percent} was given; leave it out.")

    @override
    def layout_problems(self, parallelism: Parallelism) -> Iterator[Problem]:
        yield from super().layout_problems(parallelism)
        if self.latent_attention is not None:
            yield from multiple_of("num_attention_heads", self.heads, parallelism.tensor, "`tensor`", axis="tensor")
        if self.qk_norm_over == "heads" and parallelism.tensor > 1:
            rule = "`qk_norm_over` must be `head` with `tensor` above 1, because it separates the heads of a token"
            yield Problem("qk_norm_over", f"{rule}, but `heads` was given and `tensor` is {parallelism.tensor}.")


register_preset_module("modelwright.moe.presets")
register_upstream_module("modelwright.moe.from_megatron")
