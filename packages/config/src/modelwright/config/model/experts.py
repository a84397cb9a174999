"""Base config of families with MoE layers: the experts of a layer, and the routing of tokens to them.

These fields have no effect without an MoE layer in the pattern, so they must have their defaults then.
"""

import abc
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, override

from modelwright.config.model.decoder import DecoderConfig
from modelwright.config.model.layer_kinds import MOE, STAGE_BOUNDARY
from modelwright.config.problems.numbers import Count, NonNegativeFloat, NonNegativeInt, PositiveFloat
from modelwright.config.problems.problem import Problem
from modelwright.config.problems.rules import divides, multiple_of, without_effect
from modelwright.config.strict.config_class import config_class

if TYPE_CHECKING:
    from modelwright.config.run.dtypes import Precision
    from modelwright.config.run.parallelism import Parallelism

__all__ = ["ExpertsConfig"]

_EXPERT_FIELDS = (
    "num_experts",
    "top_k",
    "expert_ffn_hidden_size",
    "shared_experts",
    "shared_expert_ffn_hidden_size",
    "shared_expert_gate",
    "expert_latent_size",
    "router_score",
    "router_pre_softmax",
    "router_groups",
    "router_top_groups",
    "router_scaling",
    "router_dtype",
    "expert_bias",
    "expert_bias_rate",
    "load_balancing",
    "load_balancing_coefficient",
    "z_loss_coefficient",
    "capacity_factor",
    "drop_policy",
    "pad_to_capacity",
    "dispatcher",
)
_BALANCING = {"none": "none", "aux": "aux_loss", "seq_aux": "seq_aux_loss", "global_aux": "global_aux_loss"}
_ROUTER_DTYPES = {"params": None, "float32": "fp32", "float64": "fp64"}


@config_class
class ExpertsConfig(DecoderConfig, abc.ABC):
    """Decoder that may have MoE layers. Base of the families' configs."""

    pattern: str | None = None
    """Pattern of the stack: a symbol for each layer, `|` between stages. `null`: given by `num_layers`."""

    num_experts: Count | None
    """Number of routed experts in an MoE layer. `null`: there is no MoE layer."""

    top_k: Count | None
    """Number of routed experts for each token. `null`: there is no MoE layer."""

    expert_ffn_hidden_size: Count | None = None
    """Width of a routed expert. `null`: `ffn_hidden_size`."""

    shared_experts: NonNegativeInt = 0
    """Number of shared experts, which process every token (DeepSeekMoE, arXiv:2401.06066). They are built as one
    expert of their total width."""

    shared_expert_ffn_hidden_size: Count | None = None
    """Width of one shared expert. `null`: the width of a routed expert."""

    shared_expert_gate: bool = False
    """Multiply the output of the shared experts by a learned gate for each token, as Qwen2-MoE does."""

    expert_latent_size: Count | None = None
    """Size to which tokens are projected before the routed experts. `null`: `hidden_size`, without projection. The
    engine's projections need Transformer Engine."""

    router_score: Literal["softmax", "sigmoid"] = "softmax"
    """Function from the router's logits to its probabilities."""

    router_pre_softmax: bool = False
    """Apply the softmax to all experts before the top k are selected, so that the weights of a token need not add up
    to 1. Otherwise the softmax is over the selected experts."""

    router_groups: Count | None = None
    """Number of equal groups of experts, of which each token uses `router_top_groups`. `null`: no groups."""

    router_top_groups: Count | None = None
    """Number of groups that each token may use. `null`: no groups."""

    router_scaling: PositiveFloat | None = None
    """Factor on the weights of the selected experts. `null`: 1."""

    router_dtype: Literal["params", "float32", "float64"] = "float32"
    """Dtype of the router's computation. `params`: the dtype of the parameters."""

    expert_bias: bool = False
    """Balance the load without an auxiliary loss: a bias on each expert's score, updated after every step, affects the
    selection of experts but not their weights (arXiv:2408.15664)."""

    expert_bias_rate: PositiveFloat = 1e-3
    """Change of `expert_bias` in one step."""

    load_balancing: Literal["none", "aux", "seq_aux", "global_aux"] = "aux"
    """Auxiliary loss for load balancing (Switch Transformer, arXiv:2101.03961), computed over a micro-batch (`aux`),
    over each sequence (`seq_aux`), or over all ranks and the micro-batches of a step so far (`global_aux`)."""

    load_balancing_coefficient: NonNegativeFloat = 1e-2
    """Factor on the load-balancing loss."""

    z_loss_coefficient: NonNegativeFloat = 0.0
    """Factor on the z-loss, which keeps the router's logits small (ST-MoE, arXiv:2202.08906)."""

    capacity_factor: PositiveFloat | None = None
    """Expert capacity in a micro-batch, as a multiple of tokens × `top_k` / `num_experts`. Tokens over the capacity are
    dropped. Inference drops none, because the capacity depends on the number of tokens in a call. `null`: unlimited."""

    drop_policy: Literal["probs", "position"] = "probs"
    """Tokens that are dropped over the expert capacity: those with the lowest router probability (`probs`), or those
    at the latest positions (`position`)."""

    pad_to_capacity: bool = False
    """Pad the input of every expert to the expert capacity, so that all shapes are static."""

    dispatcher: Literal["allgather", "alltoall"] = "alltoall"
    """Communication of tokens: gather all tokens on every rank (`allgather`), or send each token to the ranks of its
    experts (`alltoall`)."""

    @property
    def resolved_expert_ffn_hidden_size(self) -> int:
        """`expert_ffn_hidden_size` with its default resolved."""
        return self.resolved_ffn_hidden_size if self.expert_ffn_hidden_size is None else self.expert_ffn_hidden_size

    @property
    def shared_ffn_hidden_size(self) -> int:
        """Total width of the shared experts; 0 if there are none."""
        width = self.shared_expert_ffn_hidden_size or self.resolved_expert_ffn_hidden_size
        return self.shared_experts * width

    @override
    def engine_fields(self) -> Mapping[str, Any]:
        return {**super().engine_fields(), **(self._routed_fields() if self.has(MOE) else {})}

    def _routed_fields(self) -> dict[str, Any]:
        """Return the engine's `moe_*` fields."""
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
        if not self.has(MOE):
            yield from without_effect(self, _EXPERT_FIELDS, f"without {MOE.plural}")
            return
        if self.num_experts is None or self.top_k is None:
            for name in MOE.config_fields:
                if getattr(self, name) is None:
                    message = f"`{name}` must be given for a model with {MOE.plural}, but is null; set it."
                    yield Problem(name, message)
            return
        yield from self._expert_problems(self.num_experts, self.top_k)
        yield from self._router_problems(self.num_experts, self.top_k)
        yield from self._capacity_problems()

    def _expert_problems(self, experts: int, top_k: int) -> Iterator[Problem]:
        """Check the rules of routed and shared experts."""
        if top_k > experts:
            message = f"`top_k` must be at most `num_experts`, but {top_k} is above {experts}; lower it."
            yield Problem("top_k", message)
        if self.shared_experts:
            if self.linear_bias:
                rule = "`linear_bias` must be false with `shared_experts`, which the engine builds without biases"
                yield Problem("linear_bias", f"{rule}, but is true; change one of them.")
            return
        for name in ("shared_expert_gate", "shared_expert_ffn_hidden_size"):
            if getattr(self, name):
                message = f"`{name}` needs `shared_experts` above 0, but there are none; set both or neither."
                yield Problem(name, message)

    def _router_problems(self, experts: int, top_k: int) -> Iterator[Problem]:
        """Check the rules of the router."""
        softmax = self.router_score == "softmax"
        if softmax and top_k == 1 and not self.router_pre_softmax:
            message = (
                "`router_pre_softmax` must be true with `top_k` 1, because the softmax over one selected expert is"
                " always 1 and gives the router no gradient, but is false; set it."
            )
            yield Problem("router_pre_softmax", message)
        if self.router_pre_softmax and not softmax:
            message = "`router_pre_softmax` needs `router_score: softmax`, but `sigmoid` was given; change one of them."
            yield Problem("router_pre_softmax", message)
        if self.expert_bias and softmax:
            message = "`expert_bias` needs `router_score: sigmoid`, but `softmax` was given; change one of them."
            yield Problem("expert_bias", message)
        if not self.expert_bias:
            yield from without_effect(self, ("expert_bias_rate",), "without `expert_bias`")
        if self.load_balancing == "none":
            yield from without_effect(self, ("load_balancing_coefficient",), "with `load_balancing: none`")
        yield from self._group_problems(experts, top_k)

    def _group_problems(self, experts: int, top_k: int) -> Iterator[Problem]:
        """Check the rules of group-limited routing."""
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
                f"`router_top_groups` must leave at least `top_k` experts, but {top} groups of {size} have"
                f" {top * size}, fewer than {top_k}; use {-(-top_k // size)} or more."
            )
            yield Problem("router_top_groups", message)

    def _capacity_problems(self) -> Iterator[Problem]:
        """Check the rules of the expert capacity."""
        if self.capacity_factor is None:
            yield from without_effect(self, ("drop_policy",), "without `capacity_factor`")
            if self.pad_to_capacity:
                message = "`pad_to_capacity` needs a `capacity_factor`, but that is null; set both or neither."
                yield Problem("pad_to_capacity", message)
        elif self.dispatcher == "allgather":
            message = (
                f"`capacity_factor` must be null with `dispatcher: allgather`, which drops no tokens, but"
                f" {self.capacity_factor} was given; use `alltoall`, or leave it out."
            )
            yield Problem("capacity_factor", message)
        elif self.pad_to_capacity and self.num_experts and self.capacity_factor * (self.top_k or 1) > self.num_experts:
            rule = (
                "`capacity_factor` × `top_k` must be at most `num_experts` with `pad_to_capacity`, because the capacity"
            )
            given = f"{self.capacity_factor} × {self.top_k} is above {self.num_experts}"
            message = f"{rule} cannot exceed the number of tokens, but {given}; lower it, or do not pad."
            yield Problem("capacity_factor", message)

    @override
    def layout_problems(self, parallelism: "Parallelism") -> Iterator[Problem]:
        yield from super().layout_problems(parallelism)
        if not self.has(MOE):
            return
        yield from multiple_of("num_experts", self.num_experts or 1, parallelism.expert, "`expert`", axis="expert")
        cut = parallelism.expert_tensor_size
        yield from multiple_of("expert_ffn_hidden_size", self.resolved_expert_ffn_hidden_size, cut, "`expert_tensor`")
        if self.shared_experts:
            width, of = self.shared_ffn_hidden_size, "`tensor`, all shared experts together"
            yield from multiple_of("shared_expert_ffn_hidden_size", width, parallelism.tensor, of)
        if self.linear_bias and cut > 1:
            rule = (
                "`linear_bias` must be false with `expert_tensor` above 1, because the engine's experts cannot split it"
            )
            yield Problem("linear_bias", f"{rule}, but is true and `expert_tensor` is {cut}; change one of them.")

    @override
    def training_problems(self, parallelism: "Parallelism") -> Iterator[Problem]:
        if self.has(MOE) and parallelism.tensor > 1 and not parallelism.sequence:
            message = (
                f"`parallelism.sequence` must be true to train {MOE.plural} with `tensor` above 1, because the engine"
                f" would route every token on each of the {parallelism.tensor} ranks, but is false; set it."
            )
            yield Problem("", message)

    @override
    def precision_problems(self, precision: "Precision") -> Iterator[Problem]:
        if precision.params == "float32" or not self.shared_expert_gate:
            return
        indices = [i for i, symbol in enumerate(self.layers) if symbol == MOE.symbol]
        names = [f"decoder.layers.{i}.mlp.shared_experts.gate_weight" for i in indices]
        for pattern in precision.keep_float32:
            found = [name for name in names if fnmatchcase(name, pattern)]
            if found:
                message = (
                    f"`precision.keep_float32` must not match `{found[0]}`, because the engine multiplies it by"
                    f" inputs in {precision.params}, but {pattern!r} does; use patterns without it."
                )
                yield Problem("keep_float32", message)

    @override
    def stage_problems(self, parallelism: "Parallelism") -> Iterator[Problem]:
        if self.pattern is None or STAGE_BOUNDARY not in self.pattern:
            yield from super().stage_problems(parallelism)
            return
        stages, count = self.pattern.count(STAGE_BOUNDARY) + 1, parallelism.pipeline * parallelism.virtual_pipeline
        # One stage ignores the boundaries, so that a model trained on a pipeline can be loaded by one process.
        if stages != count > 1:
            rule = f"`pattern` must have `pipeline` × `virtual_pipeline` = {count} stages, but has {stages}"
            yield Problem("pattern", f"{rule}; change the boundaries `{STAGE_BOUNDARY}` or the parallelism.")
        elif parallelism.stages is not None:
            message = "`parallelism.stages` must be null where `pattern` has stage boundaries; leave one of them out."
            yield Problem("pattern", message)
