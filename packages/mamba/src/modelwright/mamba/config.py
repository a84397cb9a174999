"""`MambaModelConfig`: config of a stack of Mamba-2 layers, or of a hybrid with attention, MLP and MoE layers. No torch.

The stack pattern has one symbol for each layer: `M` Mamba-2 (arXiv:2405.21060), `*` attention, `-` MLP, `E` MoE layer,
and `|` between stages. Importing this module registers the kind `mamba`.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, override

from modelwright.config import (
    ATTENTION,
    MAMBA,
    MLP,
    MOE,
    STAGE_BOUNDARY,
    Count,
    ExpertsConfig,
    Parallelism,
    PositiveFloat,
    Problem,
    config_class,
    divides,
    multiple_of,
    register_config,
    register_preset_module,
    register_upstream_module,
    without_effect,
)
from modelwright.protocols import ModelwrightError

__all__ = ["MambaModelConfig", "hybrid_pattern"]

_SCAN_FIELDS = (
    "mamba_state_dim",
    "mamba_head_dim",
    "mamba_num_heads",
    "mamba_num_groups",
    "expand",
    "conv_width",
    "conv_bias",
    "conv_init",
    "mamba_bias",
    "chunk_size",
    "gated_norm",
    "norm_before_gate",
    "d_per_channel",
    "a_init_range",
    "dt_init_range",
    "dt_init_floor",
    "dt_limit",
    "kernels",
)
_KINDS = (MAMBA, ATTENTION, MLP, MOE)


@register_config
@config_class
class MambaModelConfig(ExpertsConfig):
    """Stack of Mamba-2 layers, or hybrid with attention, MLP and MoE layers between them."""

    kind: ClassVar[str] = "mamba"
    builder: ClassVar[str] = "modelwright.mamba.builder:MambaModelBuilder"

    num_layers: Count | None = None
    """Number of layers. `null`: given by `pattern`."""

    num_attention_heads: Count | None = None
    """Number of query heads in an attention layer. `null`: there is no attention layer."""

    num_experts: Count | None = None
    """Number of routed experts in an MoE layer. `null`: there is no MoE layer."""

    top_k: Count | None = None
    """Number of routed experts for each token. `null`: there is no MoE layer."""

    position_embedding: Literal["rope", "learned", "none"] = "none"
    """Position embedding: rotary in attention, a learned table, or none, because Mamba-2 layers depend on the order
    anyway."""

    pattern: str | None = None
    """Pattern of the stack: `M` Mamba-2, `*` attention, `-` MLP, `E` MoE layer, `|` between stages. `hybrid_pattern`
    makes one. `null`: `num_layers` times `M`."""

    mamba_state_dim: Count = 128
    """State size of each channel."""

    mamba_head_dim: Count = 64
    """Number of channels in one head of the scan."""

    mamba_num_heads: Count | None = None
    """Number of heads of the scan. `null`: `expand` × `hidden_size` / `mamba_head_dim`."""

    mamba_num_groups: Count = 1
    """Number of groups of heads. Each group has its own B and C."""

    expand: PositiveFloat = 2.0
    """Number of channels of the scan, as a multiple of `hidden_size`. Unused if `mamba_num_heads` is set."""

    conv_width: Count = 4
    """Width of the convolution before the scan, in positions, its own included."""

    conv_bias: bool = True
    """Use a bias in the convolution."""

    conv_init: PositiveFloat | None = None
    """Bound of the uniform initial values of the convolution. `null`: 1 / sqrt(`conv_width`)."""

    mamba_bias: bool = False
    """Use biases in the projections of the Mamba-2 layers."""

    chunk_size: Count = 128
    """Number of positions in a chunk of the scan. It affects speed and memory, not the result."""

    gated_norm: bool = True
    """Normalize the output of the scan. Otherwise only the gate is applied."""

    norm_before_gate: bool = False
    """Apply the gate after the norm. Otherwise before. No effect without `gated_norm`."""

    d_per_channel: bool = False
    """Use one skip coefficient `D` per channel. Otherwise one per head."""

    a_init_range: tuple[PositiveFloat, PositiveFloat] = (1.0, 16.0)
    """Bounds of the uniform initial values of -`A`, the decay rate."""

    dt_init_range: tuple[PositiveFloat, PositiveFloat] = (0.001, 0.1)
    """Bounds of the initial step sizes, which are uniform in the logarithm."""

    dt_init_floor: PositiveFloat = 1e-4
    """Smallest initial step size."""

    dt_limit: tuple[float, float] = (0.0, math.inf)
    """Bounds of the step sizes."""

    kernels: Literal["auto", "torch", "mamba_ssm"] = "auto"
    """Implementation of convolution and scan: `torch` is PyTorch, `mamba_ssm` the kernels of mamba-ssm and
    causal-conv1d, which need CUDA. `auto` uses `mamba_ssm` where it can be used."""

    @property
    @override
    def stack_pattern(self) -> str:
        """Stack pattern: `M` Mamba-2, `*` attention, `-` MLP, `E` MoE layer, `|` between stages."""
        return MAMBA.symbol * (self.num_layers or 0) if self.pattern is None else self.pattern

    @property
    @override
    def symbols(self) -> frozenset[str]:
        return frozenset(MAMBA.symbol if self.pattern is None else self.layers)

    @property
    @override
    def blocks(self) -> int:
        return len(self.layers) if self.num_layers is None else self.num_layers

    @property
    @override
    def heads(self) -> int:
        """`num_attention_heads`; without attention, a number that the tensor ranks divide, as the engine requires."""
        if self.has(ATTENTION):
            return super().heads
        return self.resolved_mamba_heads if self.has(MAMBA) else self.resolved_ffn_hidden_size

    @property
    @override
    def resolved_query_groups(self) -> int:
        return super().resolved_query_groups if self.has(ATTENTION) else self.heads

    @property
    @override
    def resolved_head_dim(self) -> int:
        return super().resolved_head_dim if self.has(ATTENTION) else self.mamba_head_dim

    @property
    def resolved_mamba_heads(self) -> int:
        """`mamba_num_heads` with its default resolved."""
        return self._channels // self.mamba_head_dim if self.mamba_num_heads is None else self.mamba_num_heads

    @property
    def _channels(self) -> int:
        """`expand` × `hidden_size`; 0 above 2**53, where a float is not exact."""
        channels = self.expand * self.hidden_size if self.hidden_size < 2**53 else math.inf
        return int(channels) if channels < 2**53 else 0

    @override
    def engine_fields(self) -> Mapping[str, Any]:
        return {
            **super().engine_fields(),
            "mamba_state_dim": self.mamba_state_dim,
            "mamba_head_dim": self.mamba_head_dim,
            "mamba_num_heads": self.resolved_mamba_heads,
            "mamba_num_groups": self.mamba_num_groups,
        }

    @override
    def problems(self) -> Iterator[Problem]:
        wrong = tuple(self._pattern_problems())
        yield from wrong
        if not wrong:
            yield from super().problems()
        if self.has(MAMBA):
            yield from self._scan_problems()
        elif not wrong:
            yield from without_effect(self, _SCAN_FIELDS, f"without {MAMBA.plural}")

    def _pattern_problems(self) -> Iterator[Problem]:
        """Rules of the pattern alone."""
        pattern = self.pattern
        if pattern is None:
            if self.num_layers is None:
                yield Problem("num_layers", "`num_layers` must be set if `pattern` is not; set one of them.")
            return
        allowed = {STAGE_BOUNDARY, *(kind.symbol for kind in _KINDS)}
        wrong = next((i for i, symbol in enumerate(pattern) if symbol not in allowed), None)
        if wrong is not None:
            known = ", ".join(f"`{kind.symbol}` ({kind.label})" for kind in _KINDS)
            message = f"`pattern` must be made of {known} and `|` (stage boundary), but contains `{pattern[wrong]}`."
            yield Problem("pattern", message, excerpt=(pattern, wrong))
            return
        empty = f"|{pattern}|".find("||")
        if empty >= 0:
            message = "`pattern` must have a layer in every stage, but one is empty; remove a `|`, or add a layer."
            yield Problem("pattern", message, excerpt=(pattern, min(empty, max(len(pattern) - 1, 0))))
        elif self.num_layers is not None and self.num_layers != len(self.layers):
            rule = f"`num_layers` must be the number of layers in `pattern`, but {self.num_layers} is not"
            yield Problem("num_layers", f"{rule} {len(self.layers)}; leave it out.")

    def _scan_problems(self) -> Iterator[Problem]:
        """Yield problems of the Mamba-2 layers."""
        if self.mamba_num_heads is None and (not self._channels or self._channels % self.mamba_head_dim):
            rule = "`expand` × `hidden_size` must be a multiple of `mamba_head_dim`"
            given = f"{self.expand} × {self.hidden_size} is not a multiple of {self.mamba_head_dim}"
            yield Problem("mamba_head_dim", f"{rule}, but {given}; change one of them, or set `mamba_num_heads`.")
        else:
            yield from divides("mamba_num_groups", self.mamba_num_groups, "mamba_num_heads", self.resolved_mamba_heads)
        for name in ("a_init_range", "dt_init_range", "dt_limit"):
            low, high = getattr(self, name)
            if not low <= high:
                given = f"{low} and {high} were given; put the lower one first."
                yield Problem(name, f"`{name}` must be a lower and an upper bound, but {given}")
        low, high = self.dt_limit
        if high <= 0 or low == math.inf:
            given = f"{low} and {high} allow none; the default is 0 and infinity."
            yield Problem("dt_limit", f"`dt_limit` must allow some positive step sizes, but {given}")

    @override
    def layout_problems(self, parallelism: Parallelism) -> Iterator[Problem]:
        yield from super().layout_problems(parallelism)
        if not self.has(MAMBA):
            return
        tensor, context = parallelism.tensor, parallelism.context
        of = "`tensor` × `context`" if context > 1 else "`tensor`"
        axis = "tensor" if context == 1 else None
        yield from multiple_of("mamba_num_heads", self.resolved_mamba_heads, tensor * context, of, axis=axis)
        yield from multiple_of("mamba_num_groups", self.mamba_num_groups, tensor, "`tensor`", axis="tensor")
        local = self.mamba_num_groups // tensor
        if local and local % context and context % local:
            rule = "`mamba_num_groups` / `tensor` must be a multiple or a divisor of `context`"
            yield Problem("mamba_num_groups", f"{rule}, but {local} is neither of {context}; change one of them.")


def hybrid_pattern(num_layers: int, *, attention: int = 0, mlp: int = 0, experts: int = 0) -> str:
    """Return a pattern in which layers of other kinds are evenly distributed among Mamba-2 layers.

    Args:
        num_layers: Total number of layers.
        attention: Number of attention layers.
        mlp: Number of MLP layers.
        experts: Number of MoE layers.

    Returns:
        The pattern, with exactly these numbers of layers.

    Raises:
        ModelwrightError: The numbers exceed `num_layers`, or one of them is negative.
    """
    mamba = num_layers - attention - mlp - experts
    counts = {MAMBA.symbol: mamba, ATTENTION.symbol: attention, MLP.symbol: mlp, MOE.symbol: experts}
    for name, count in (("attention", attention), ("mlp", mlp), ("experts", experts)):
        if count < 0:
            raise ModelwrightError(f"`{name}` must be at least 0, but {count} was given; leave it out for 0.")
    if mamba < 0:
        rule = "`attention` + `mlp` + `experts` must be at most `num_layers`"
        given = f"{attention} + {mlp} + {experts} is more than {num_layers}"
        raise ModelwrightError(f"{rule}, but {given}; use fewer of them.")
    pattern = ""
    for position in range(num_layers):
        # Shortfall of each kind against an even distribution, at the middle of this position. The largest comes next.
        behind = {kind: count * (position + 0.5) / num_layers - pattern.count(kind) for kind, count in counts.items()}
        left = [kind for kind, count in counts.items() if pattern.count(kind) < count]
        pattern += max(left, key=behind.__getitem__)
    return pattern


register_preset_module("modelwright.mamba.presets")
register_upstream_module("modelwright.mamba.from_megatron")
