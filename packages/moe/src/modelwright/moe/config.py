"""What a mixture-of-experts language model is: its experts, its router, and which layers have them. No torch.

A block is attention and then either an MLP or a mixture of experts: `*-` or `*E` of the stack pattern, with `+` in
place of `*` where the attention is latent. Importing this module registers the kind `moe`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, final, override

from modelwright.config import (
    Config,
    Count,
    DecoderConfig,
    NonNegativeFloat,
    NonNegativeInt,
    Parallelism,
    PositiveFloat,
    Problem,
    config_class,
    divides,
    multiple_of,
    register_config,
    register_preset_module,
)

__all__ = ["LatentAttention", "MoeModelConfig"]

_BLOCKS = re.compile(r"[*+][-E](\|?[*+][-E])*")
_BALANCING = {"none": "none", "aux": "aux_loss", "seq_aux": "seq_aux_loss", "global_aux": "global_aux_loss"}
_ROUTER_DTYPES = {"params": None, "float32": "fp32", "float64": "fp64"}


@final
@config_class
class LatentAttention(Config):
    """Attention whose queries, keys and values come out of small shared vectors (DeepSeek-V2, arXiv:2405.04434)."""

    query_rank: Count = 1536
    """Size of the vector that the queries come out of."""

    key_value_rank: Count = 512
    """Size of the vector that keys and values come out of."""

    head_dim: Count = 128
    """Part of a query or key head that knows no position."""

    rotary_head_dim: Count = 64
    """Part that is rotated; all key heads share one."""

    value_head_dim: Count = 128
    """Size of a value head."""

    @override
    def problems(self) -> Iterator[Problem]:
        if self.rotary_head_dim % 2:
            rule = "`rotary_head_dim` must be even, because rope turns pairs"
            yield Problem("rotary_head_dim", f"{rule}, but {self.rotary_head_dim} was given.")


@register_config
@config_class
class MoeModelConfig(DecoderConfig):
    """A decoder-only transformer with mixtures of experts (arXiv:1701.06538)."""

    kind: ClassVar[str] = "moe"
    builder: ClassVar[str] = "modelwright.moe.builder:MoeModelBuilder"
    block_size: ClassVar[int] = 2

    num_layers: Count | None = None
    """Transformer blocks, each attention and then an MLP or a mixture of experts; None where `pattern` says it."""

    num_attention_heads: Count
    """Query heads."""

    latent_attention: LatentAttention | None = None
    """Latent attention in every block; None: attention with heads of their own."""

    qk_norm_over: Literal["head", "heads"] = "head"
    """What `qk_norm` normalises over: each head alone, or all heads of a token together, as OLMoE does."""

    pattern: str | None = None
    """The layers one by one, in place of `num_layers` and the two fields below: `*` attention, `+` latent attention,
    `-` MLP, `E` mixture of experts, `|` where a stage ends."""

    first_dense_layers: NonNegativeInt = 0
    """Blocks at the beginning that have an MLP."""

    moe_every: Count = 1
    """Of the blocks after those, one in this many has a mixture of experts."""

    num_experts: Count
    """Routed experts of a layer."""

    top_k: Count
    """Experts that each token is sent to."""

    expert_ffn_hidden_size: Count | None = None
    """Width of an expert; None: `ffn_hidden_size`."""

    shared_experts: NonNegativeInt = 0
    """Experts that see every token (DeepSeekMoE, arXiv:2401.06066); they are built as one, as wide as all of them."""

    shared_expert_ffn_hidden_size: Count | None = None
    """Width of one shared expert; None: that of a routed one."""

    shared_expert_gate: bool = False
    """Weigh what the shared experts add by a learned gate, token by token, as Qwen2-MoE does."""

    expert_latent_size: Count | None = None
    """Size that tokens are projected to on their way through the experts; None: they stay `hidden_size`. The engine's
    projections need Transformer Engine."""

    router_score: Literal["softmax", "sigmoid"] = "softmax"
    """What makes scores of the router's logits."""

    router_pre_softmax: bool = False
    """Take the softmax over all experts, before the best are chosen, so that a token's weights need not add up to 1;
    otherwise over the chosen ones."""

    router_groups: Count | None = None
    """Equal groups that the experts stand in, of which each token may go to `router_top_groups`; None: no groups."""

    router_top_groups: Count | None = None
    """Groups with the best experts that each token may go to."""

    router_scaling: PositiveFloat | None = None
    """Factor on the weights of the chosen experts; None: none."""

    router_dtype: Literal["params", "float32", "float64"] = "float32"
    """Number format that the router computes in; `params`: that of the parameters."""

    expert_bias: bool = False
    """Balance the load without a loss: a bias on each expert's score, which decides who is chosen and nothing else,
    moves after every step (arXiv:2408.15664)."""

    expert_bias_rate: PositiveFloat = 1e-3
    """How far that bias moves in a step."""

    load_balancing: Literal["none", "aux", "seq_aux", "global_aux"] = "aux"
    """Auxiliary loss that balances the load (Switch Transformer, arXiv:2101.03961): over a micro-batch, over each
    sequence, or over all ranks and the steps so far."""

    load_balancing_coefficient: NonNegativeFloat = 1e-2
    """Factor on that loss."""

    z_loss_coefficient: NonNegativeFloat = 0.0
    """Factor on the loss that keeps the router's logits small (ST-MoE, arXiv:2202.08906)."""

    capacity_factor: PositiveFloat | None = None
    """Tokens that an expert takes of a micro-batch, in multiples of its fair share; None: all, nothing is dropped."""

    drop_policy: Literal["probs", "position"] = "probs"
    """Whose tokens an expert drops beyond that: the least weighty ones, or the last ones."""

    pad_to_capacity: bool = False
    """Give every expert as many tokens as it may take, so that all shapes are known."""

    dispatcher: Literal["allgather", "alltoall"] = "alltoall"
    """How tokens reach their experts: every rank gets all tokens, or each token is sent where it goes."""

    @property
    @override
    def stack_pattern(self) -> str:
        """One symbol for each layer: `*` or `+` attention, `-` MLP, `E` mixture of experts."""
        if self.pattern is not None:
            return self.pattern
        attention = "*" if self.latent_attention is None else "+"
        return "".join(attention + ("E" if self._is_moe(block) else "-") for block in range(self.num_layers or 0))

    def _is_moe(self, block: int) -> bool:
        return block >= self.first_dense_layers and (block - self.first_dense_layers + 1) % self.moe_every == 0

    @property
    @override
    def symbols(self) -> frozenset[str]:
        if self.pattern is not None:
            return frozenset(self.layers)
        layers, dense = self.num_layers or 0, self.first_dense_layers
        has_moe, has_dense = layers >= dense + self.moe_every, dense > 0 or self.moe_every > 1
        attention = "*" if self.latent_attention is None else "+"
        return frozenset(attention + "E" * has_moe + "-" * (has_dense or not has_moe))

    @property
    @override
    def blocks(self) -> int:
        return len(self.layers) // self.block_size if self.num_layers is None else self.num_layers

    @property
    def resolved_expert_ffn_hidden_size(self) -> int:
        """`expert_ffn_hidden_size`, or what stands for it."""
        return self.resolved_ffn_hidden_size if self.expert_ffn_hidden_size is None else self.expert_ffn_hidden_size

    @property
    def shared_ffn_hidden_size(self) -> int:
        """Width of all shared experts together; 0 without."""
        width = self.shared_expert_ffn_hidden_size or self.resolved_expert_ffn_hidden_size
        return self.shared_experts * width

    @override
    def engine_fields(self) -> Mapping[str, Any]:
        return {
            **super().engine_fields(),
            **self._latent_fields(),
            "num_moe_experts": self.num_experts,
            "moe_router_topk": self.top_k,
            "moe_ffn_hidden_size": self.resolved_expert_ffn_hidden_size,
            "moe_shared_expert_intermediate_size": self.shared_ffn_hidden_size or None,
            "moe_shared_expert_gate": self.shared_expert_gate,
            "moe_latent_size": self.expert_latent_size,
            "moe_router_score_function": self.router_score,
            "moe_router_pre_softmax": self.router_pre_softmax,
            "moe_router_num_groups": self.router_groups,
            "moe_router_group_topk": self.router_top_groups,
            "moe_router_topk_scaling_factor": self.router_scaling,
            "moe_router_dtype": _ROUTER_DTYPES[self.router_dtype],
            "moe_router_enable_expert_bias": self.expert_bias,
            "moe_router_bias_update_rate": self.expert_bias_rate,
            "moe_router_load_balancing_type": _BALANCING[self.load_balancing],
            "moe_aux_loss_coeff": self.load_balancing_coefficient,
            "moe_z_loss_coeff": self.z_loss_coefficient or None,
            "moe_expert_capacity_factor": self.capacity_factor,
            "moe_token_drop_policy": self.drop_policy,
            "moe_pad_expert_input_to_capacity": self.pad_to_capacity,
            "moe_token_dispatcher_type": self.dispatcher,
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
            "rope_type": "rope",
            "rotary_base": self.rotary_base,
            "rotary_percent": self.rotary_percent,
        }

    @override
    def problems(self) -> Iterator[Problem]:
        stack = tuple(self._stack_problems())
        yield from stack
        if not stack:
            yield from super().problems()
        yield from self._kind_of_attention_problems()
        yield from self._expert_problems()
        yield from self._router_problems()
        yield from self._capacity_problems()

    def _stack_problems(self) -> Iterator[Problem]:
        """Rules about which layers there are."""
        if self.num_layers is None and self.pattern is None:
            message = "`num_layers` must be given where `pattern` is not, but both are null; give one of them."
            yield Problem("num_layers", message)
        elif self.num_layers is not None and self.pattern is not None:
            rule = "`num_layers` must be left out with `pattern`, which says it"
            yield Problem("num_layers", f"{rule}, but {self.num_layers} was given; leave one of them out.")
        elif self.pattern is not None:
            yield from self._pattern_problems(self.pattern)
        elif "E" not in self.symbols:
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
            rule = "`pattern` must be blocks of attention (`*` or `+`) and then an MLP (`-`) or experts (`E`)"
            yield Problem("pattern", f"{rule}, with `|` between stages, but {pattern[:40]!r} is not; write `*-*E`.")
            return
        wanted, other = ("*", "+") if self.latent_attention is None else ("+", "*")
        if other in pattern:
            given = "null" if self.latent_attention is None else "given"
            message = (
                f"`pattern` must have the attention `{wanted}` where `latent_attention` is {given}, but has `{other}`;"
                " change one of them."
            )
            yield Problem("pattern", message)
        if "E" not in pattern:
            message = (
                f"`pattern` must have a mixture of experts, `E`, but {pattern[:40]!r} has none; add one, or use the"
                " family `gpt`."
            )
            yield Problem("pattern", message)

    def _kind_of_attention_problems(self) -> Iterator[Problem]:
        """Rules of latent attention, and of norms that span heads."""
        if self.latent_attention is None:
            if self.qk_norm_over == "heads" and not self.qk_norm:
                message = "`qk_norm_over: heads` needs `qk_norm: true`, but it is false; set it, or leave this one out."
                yield Problem("qk_norm_over", message)
            return
        for name, allowed in (
            ("position_embedding", "rope"),
            ("qk_norm_over", "head"),
            ("rope_scaling", None),
            ("num_query_groups", None),
            ("head_dim", None),
        ):
            value = getattr(self, name)
            if value != allowed:
                given = f"`{value}`" if isinstance(value, str) else "another value"
                say = "null" if allowed is None else f"`{allowed}`"
                message = (
                    f"`{name}` must be {say} with `latent_attention`, which does not use it, but {given} was given."
                )
                yield Problem(name, message)

    def _expert_problems(self) -> Iterator[Problem]:
        """Rules of the experts and of those that every token sees."""
        if self.top_k > self.num_experts:
            message = f"`top_k` must be at most `num_experts`, but {self.top_k} is above {self.num_experts}; lower it."
            yield Problem("top_k", message)
        if self.shared_experts:
            if self.linear_bias:
                rule = "`linear_bias` must be false with `shared_experts`, which the engine builds without biases"
                yield Problem("linear_bias", f"{rule}, but it is true; set one of them back.")
            return
        for name in ("shared_expert_gate", "shared_expert_ffn_hidden_size"):
            if getattr(self, name):
                message = f"`{name}` needs `shared_experts` above 0, but there are none; set both or neither."
                yield Problem(name, message)

    def _router_problems(self) -> Iterator[Problem]:
        """Rules of how experts are chosen."""
        softmax = self.router_score == "softmax"
        if softmax and self.top_k == 1 and not self.router_pre_softmax:
            message = (
                "`router_pre_softmax` must be true with `top_k` 1, because the softmax over one chosen expert is always"
                " 1 and teaches the router nothing, but it is false; set it."
            )
            yield Problem("router_pre_softmax", message)
        if self.router_pre_softmax and not softmax:
            message = "`router_pre_softmax` needs `router_score: softmax`, but `sigmoid` was given; change one of them."
            yield Problem("router_pre_softmax", message)
        if self.expert_bias and softmax:
            message = "`expert_bias` needs `router_score: sigmoid`, but `softmax` was given; change one of them."
            yield Problem("expert_bias", message)
        yield from self._group_problems()

    def _group_problems(self) -> Iterator[Problem]:
        """Rules of group-limited routing."""
        groups, top = self.router_groups, self.router_top_groups
        if groups is None or top is None:
            if (groups is None) != (top is None):
                name, other = ("router_top_groups", "router_groups")[:: 1 if groups is None else -1]
                yield Problem(name, f"`{name}` needs `{other}`, but that is null; set both or neither.")
            return
        uneven = tuple(divides("router_groups", groups, "num_experts", self.num_experts))
        yield from uneven
        for limit, bound in (("router_groups", groups), ("top_k", self.top_k)):
            if top > bound:
                message = f"`router_top_groups` must be at most `{limit}`, but {top} is above {bound}; lower it."
                yield Problem("router_top_groups", message)
        size = self.num_experts // groups
        if not uneven and top * size < self.top_k:
            message = (
                f"`router_top_groups` must leave at least `top_k` experts, but {top} groups of {size} hold"
                f" {top * size}, fewer than {self.top_k}; use {-(-self.top_k // size)} or more."
            )
            yield Problem("router_top_groups", message)

    def _capacity_problems(self) -> Iterator[Problem]:
        """Rules of dropped tokens."""
        if self.capacity_factor is None:
            if self.pad_to_capacity:
                message = "`pad_to_capacity` needs a `capacity_factor`, but that is null; set both or neither."
                yield Problem("pad_to_capacity", message)
        elif self.dispatcher == "allgather":
            message = (
                f"`capacity_factor` must be null with `dispatcher: allgather`, which drops nothing, but"
                f" {self.capacity_factor} was given; use `alltoall`, or leave it out."
            )
            yield Problem("capacity_factor", message)

    @override
    def layout_problems(self, parallelism: Parallelism) -> Iterator[Problem]:
        yield from super().layout_problems(parallelism)
        if self.latent_attention is not None:
            yield from multiple_of("num_attention_heads", self.heads, parallelism.tensor, "`tensor`")
        if self.qk_norm_over == "heads" and parallelism.tensor > 1:
            rule = "`qk_norm_over` must be `head` with `tensor` above 1, because the heads of a token are apart there"
            yield Problem("qk_norm_over", f"{rule}, but `heads` was given and `tensor` is {parallelism.tensor}.")
        yield from multiple_of("num_experts", self.num_experts, parallelism.expert, "`expert`")
        cut = parallelism.expert_tensor_size
        yield from multiple_of("expert_ffn_hidden_size", self.resolved_expert_ffn_hidden_size, cut, "`expert_tensor`")
        if self.shared_experts:
            width, of = self.shared_ffn_hidden_size, "`tensor`, all shared experts together"
            yield from multiple_of("shared_expert_ffn_hidden_size", width, parallelism.tensor, of)
        if self.linear_bias and cut > 1:
            rule = "`linear_bias` must be false with `expert_tensor` above 1, which the engine's experts cannot"
            yield Problem("linear_bias", f"{rule}, but it is true and `expert_tensor` is {cut}; set one of them back.")

    @override
    def training_problems(self, parallelism: Parallelism) -> Iterator[Problem]:
        if parallelism.tensor > 1 and not parallelism.sequence:
            message = (
                "`parallelism.sequence` must be true to train a mixture of experts with `tensor` above 1, because the"
                f" engine would route every token on each of the {parallelism.tensor} ranks, but it is false; set it."
            )
            yield Problem("", message)

    @override
    def stage_problems(self, parallelism: Parallelism) -> Iterator[Problem]:
        if self.pattern is None or "|" not in self.pattern:
            yield from super().stage_problems(parallelism)
            return
        stages, wanted = self.pattern.count("|") + 1, parallelism.pipeline * parallelism.virtual_pipeline
        if stages != wanted:
            message = (
                f"`pattern` must have `pipeline` × `virtual_pipeline` = {wanted} stages, but its `|` make {stages};"
                " change one of them."
            )
            yield Problem("pattern", message)


register_preset_module("modelwright.moe.presets")
