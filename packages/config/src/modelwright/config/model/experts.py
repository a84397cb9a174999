"""What families with mixtures of experts have: the experts of a layer, and how tokens are routed to them.

Without a layer of experts in the pattern these fields have no effect, and the rules about them are not asked.
"""

import abc
from collections.abc import Iterator, Mapping
from typing import Any, Literal, override

from modelwright.config.model.decoder import DecoderConfig
from modelwright.config.problems.numbers import Count, NonNegativeFloat, NonNegativeInt, PositiveFloat
from modelwright.config.problems.problem import Problem
from modelwright.config.problems.rules import divides, multiple_of
from modelwright.config.run.parallelism import Parallelism
from modelwright.config.strict.config_class import config_class

__all__ = ["ExpertsConfig"]

_BALANCING = {"none": "none", "aux": "aux_loss", "seq_aux": "seq_aux_loss", "global_aux": "global_aux_loss"}
_ROUTER_DTYPES = {"params": None, "float32": "fp32", "float64": "fp64"}


@config_class
class ExpertsConfig(DecoderConfig, abc.ABC):
    """A decoder that may have layers of experts, symbol `E`; a family's config."""

    pattern: str | None = None
    """The layers one by one, a symbol for each, `|` where a stage ends; None where `num_layers` says them."""

    num_experts: Count | None
    """Routed experts of a layer; None where no layer has some."""

    top_k: Count | None
    """Experts that each token is sent to; None where no layer has some."""

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
    sequence, or over all ranks and the micro-batches of a step so far."""

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
        return {**super().engine_fields(), **(self._routed_fields() if "E" in self.symbols else {})}

    def _routed_fields(self) -> dict[str, Any]:
        return {
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

    @override
    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if "E" not in self.symbols:
            return
        if self.num_experts is None or self.top_k is None:
            for name in ("num_experts", "top_k"):
                if getattr(self, name) is None:
                    yield Problem(
                        name, f"`{name}` must be given for a model with layers of experts, but is null; set it."
                    )
            return
        yield from self._expert_problems(self.num_experts, self.top_k)
        yield from self._router_problems(self.num_experts, self.top_k)
        yield from self._capacity_problems()

    def _expert_problems(self, experts: int, top_k: int) -> Iterator[Problem]:
        """Rules of the experts and of those that every token sees."""
        if top_k > experts:
            message = f"`top_k` must be at most `num_experts`, but {top_k} is above {experts}; lower it."
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

    def _router_problems(self, experts: int, top_k: int) -> Iterator[Problem]:
        """Rules of how experts are chosen."""
        softmax = self.router_score == "softmax"
        if softmax and top_k == 1 and not self.router_pre_softmax:
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
        yield from self._group_problems(experts, top_k)

    def _group_problems(self, experts: int, top_k: int) -> Iterator[Problem]:
        """Rules of group-limited routing."""
        groups, top = self.router_groups, self.router_top_groups
        if groups is None or top is None:
            if (groups is None) != (top is None):
                name, other = ("router_top_groups", "router_groups")[:: 1 if groups is None else -1]
                yield Problem(name, f"`{name}` needs `{other}`, but that is null; set both or neither.")
            return
        uneven = tuple(divides("router_groups", groups, "num_experts", experts))
        yield from uneven
        for limit, bound in (("router_groups", groups), ("top_k", top_k)):
            if top > bound:
                message = f"`router_top_groups` must be at most `{limit}`, but {top} is above {bound}; lower it."
                yield Problem("router_top_groups", message)
        size = experts // groups
        if not uneven and top * size < top_k:
            message = (
                f"`router_top_groups` must leave at least `top_k` experts, but {top} groups of {size} hold"
                f" {top * size}, fewer than {top_k}; use {-(-top_k // size)} or more."
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
        elif self.pad_to_capacity and self.num_experts and self.capacity_factor * (self.top_k or 1) > self.num_experts:
            rule = "`capacity_factor` × `top_k` must be at most `num_experts` with `pad_to_capacity`, as no expert can"
            given = f"{self.capacity_factor} × {self.top_k} is above {self.num_experts}"
            message = f"{rule} be given more tokens than there are, but {given}; lower it, or do not pad."
            yield Problem("capacity_factor", message)

    @override
    def layout_problems(self, parallelism: Parallelism) -> Iterator[Problem]:
        yield from super().layout_problems(parallelism)
        if "E" not in self.symbols:
            return
        yield from multiple_of("num_experts", self.num_experts or 1, parallelism.expert, "`expert`", axis="expert")
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
        if "E" in self.symbols and parallelism.tensor > 1 and not parallelism.sequence:
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
        stages, count = self.pattern.count("|") + 1, parallelism.pipeline * parallelism.virtual_pipeline
        # On one stage boundaries mean nothing, so that what was trained on a pipeline can be read on one process.
        if stages != count > 1:
            rule = f"`pattern` must have `pipeline` × `virtual_pipeline` = {count} stages, but `|` makes {stages}"
            yield Problem("pattern", f"{rule}; change the boundaries or the parallelism.")
        elif parallelism.stages is not None:
            message = "`parallelism.stages` must be null where `pattern` has stage boundaries; leave one of them out."
            yield Problem("pattern", message)
