"""What a Mamba model is: the inputs of a stack of Mamba-2 layers, alone or with attention, MLPs and experts. No torch.

A stack is a pattern of one symbol per layer: `M` Mamba-2 (arXiv:2405.21060), `*` attention, `-` MLP, `E` mixture of
experts, and `|` where a stage ends. Importing this module registers the kind `mamba`.
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
)
from modelwright.protocols import ModelwrightError

__all__ = ["MambaModelConfig", "hybrid_pattern"]

_KINDS = (MAMBA, ATTENTION, MLP, MOE)


@register_config
@config_class
class MambaModelConfig(ExpertsConfig):
    """A stack of Mamba-2 layers, alone or with layers of attention, MLP and experts between them."""

    kind: ClassVar[str] = "mamba"
    builder: ClassVar[str] = "modelwright.mamba.builder:MambaModelBuilder"

    num_layers: Count | None = None
    """Layers; with `pattern` it may be left out."""

    num_attention_heads: Count | None = None
    """Query heads of the attention layers; needed where the pattern has some."""

    num_experts: Count | None = None
    """Routed experts of a layer; needed where the pattern has experts."""

    top_k: Count | None = None
    """Experts that each token is sent to; needed where the pattern has experts."""

    position_embedding: Literal["rope", "learned", "none"] = "none"
    """How positions enter: not at all, since Mamba layers know the order; rotary in attention; or a learned table."""

    pattern: str | None = None
    """The layers one by one: `M` Mamba-2, `*` attention, `-` MLP, `E` experts, `|` where a stage ends;
    None: `num_layers` times `M`. `hybrid_pattern` makes one."""

    mamba_state_dim: Count = 128
    """Size of the state that each channel keeps."""

    mamba_head_dim: Count = 64
    """Channels of one head of the scan."""

    mamba_num_heads: Count | None = None
    """Heads of the scan; None: `expand` × `hidden_size` / `mamba_head_dim`."""

    mamba_num_groups: Count = 1
    """Groups of heads, each with its own B and C."""

    expand: PositiveFloat = 2.0
    """Channels of the scan, in multiples of `hidden_size`; without effect where `mamba_num_heads` is given."""

    conv_width: Count = 4
    """Positions that the convolution before the scan sees, its own included."""

    conv_bias: bool = True
    """A bias after that convolution."""

    conv_init: PositiveFloat | None = None
    """Bound of its uniform initial values; None: 1 / sqrt(`conv_width`)."""

    mamba_bias: bool = False
    """Biases in the projections of the Mamba layers."""

    chunk_size: Count = 128
    """Positions that the scan computes at once; decides on speed and memory, not on the result."""

    gated_norm: bool = True
    """Normalize what the scan gives; without it there is the gate alone."""

    norm_before_gate: bool = False
    """Whether the gate comes after that norm."""

    d_per_channel: bool = False
    """`D`, what passes the scan by, for each channel instead of each head."""

    a_init_range: tuple[PositiveFloat, PositiveFloat] = (1.0, 16.0)
    """Between which the negative of `A`, the decay, is drawn."""

    dt_init_range: tuple[PositiveFloat, PositiveFloat] = (0.001, 0.1)
    """Between which the initial step sizes are drawn, their logarithms uniformly."""

    dt_init_floor: PositiveFloat = 1e-4
    """The least initial step size."""

    dt_limit: tuple[float, float] = (0.0, math.inf)
    """Between which step sizes are kept."""

    kernels: Literal["auto", "torch", "mamba_ssm"] = "auto"
    """What computes convolution and scan: PyTorch, or the kernels of mamba-ssm and causal-conv1d, which need CUDA;
    `auto` takes those where they can be used."""

    @property
    @override
    def stack_pattern(self) -> str:
        """One symbol for each layer: `M` Mamba-2, `*` attention, `-` MLP, `E` experts; `|` where a stage ends."""
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
        """`num_attention_heads`; without attention, a number that the tensor ranks divide, as the engine wants it."""
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
        """`mamba_num_heads`, or what stands for it."""
        return self._channels // self.mamba_head_dim if self.mamba_num_heads is None else self.mamba_num_heads

    @property
    def _channels(self) -> int:
        """`expand` × `hidden_size` as floats have it, which hold whole numbers up to 2**53; 0 beyond."""
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

    def _pattern_problems(self) -> Iterator[Problem]:
        """Rules of the pattern alone."""
        pattern = self.pattern
        if pattern is None:
            if self.num_layers is None:
                yield Problem("num_layers", "`num_layers` must be given where `pattern` is not; set one of them.")
            return
        allowed = {STAGE_BOUNDARY, *(kind.symbol for kind in _KINDS)}
        wrong = next((i for i, symbol in enumerate(pattern) if symbol not in allowed), None)
        if wrong is not None:
            known = ", ".join(f"`{kind.symbol}` ({kind.label})" for kind in _KINDS)
            message = f"`pattern` must be made of {known} and `|` (end of a stage), but holds `{pattern[wrong]}`."
            yield Problem("pattern", message, excerpt=(pattern, wrong))
            return
        empty = f"|{pattern}|".find("||")
        if empty >= 0:
            message = "`pattern` must have a layer in every stage, but one is empty; take a `|` out, or add a layer."
            yield Problem("pattern", message, excerpt=(pattern, min(empty, max(len(pattern) - 1, 0))))
        elif self.num_layers is not None and self.num_layers != len(self.layers):
            rule = f"`num_layers` must be the number of layers in `pattern`, but {self.num_layers} is not"
            yield Problem("num_layers", f"{rule} {len(self.layers)}; leave it out.")

    def _scan_problems(self) -> Iterator[Problem]:
        """Rules of the Mamba layers."""
        if self.mamba_num_heads is None and (not self._channels or self._channels % self.mamba_head_dim):
            rule = "`expand` × `hidden_size` must be a multiple of `mamba_head_dim`"
            given = f"{self.expand} × {self.hidden_size} is not a multiple of {self.mamba_head_dim}"
            yield Problem("mamba_head_dim", f"{rule}, but {given}; change one of them, or say `mamba_num_heads`.")
        else:
            yield from divides("mamba_num_groups", self.mamba_num_groups, "mamba_num_heads", self.resolved_mamba_heads)
        for name in ("a_init_range", "dt_init_range", "dt_limit"):
            low, high = getattr(self, name)
            if not low <= high:
                given = f"{low} and {high} were given; give the lower one first."
                yield Problem(name, f"`{name}` must be a lower and an upper bound, but {given}")
        low, high = self.dt_limit
        if high <= 0 or low == math.inf:
            given = f"{low} and {high} leave none; the default is 0 and infinity."
            yield Problem("dt_limit", f"`dt_limit` must leave some step sizes, which are above 0, but {given}")

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
    """Spread layers of other kinds evenly among Mamba layers.

    Args:
        num_layers: Layers in all.
        attention: How many of them are attention.
        mlp: How many of them are MLPs.
        experts: How many of them are mixtures of experts.

    Returns:
        A pattern with exactly so many of each.

    Raises:
        ModelwrightError: There are more layers of other kinds than layers, or fewer than none.
    """
    mamba = num_layers - attention - mlp - experts
    counts = {MAMBA.symbol: mamba, ATTENTION.symbol: attention, MLP.symbol: mlp, MOE.symbol: experts}
    for name, count in (("attention", attention), ("mlp", mlp), ("experts", experts)):
        if count < 0:
            raise ModelwrightError(f"`{name}` must be at least 0, but {count} was given; leave it out for none.")
    if mamba < 0:
        rule = "`attention` + `mlp` + `experts` must be at most `num_layers`"
        given = f"{attention} + {mlp} + {experts} is more than {num_layers}"
        raise ModelwrightError(f"{rule}, but {given}; take fewer of them.")
    pattern = ""
    for position in range(num_layers):
        # How far each kind lags behind its even share at the middle of this position; the furthest comes next.
        behind = {kind: count * (position + 0.5) / num_layers - pattern.count(kind) for kind, count in counts.items()}
        left = [kind for kind, count in counts.items() if pattern.count(kind) < count]
        pattern += max(left, key=behind.__getitem__)
    return pattern


register_preset_module("modelwright.mamba.presets")
