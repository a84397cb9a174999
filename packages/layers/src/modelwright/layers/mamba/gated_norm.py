"""Gated RMSNorm of Mamba-2 in PyTorch, for the gated-norm slot of a mixer.

Dao and Gu 2024, arXiv 2405.21060, section 7.1. Each group of channels is normalized separately. No group spans several
tensor ranks, so each rank normalizes its own channels and has its part of the weight.
"""

from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from modelwright.layers.mamba.cached_blocks import cached_blocks
from modelwright.protocols import ModelwrightError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class GatedRMSNorm(nn.Module):
    """RMSNorm over groups of channels, with a gate silu(z) before or after it; computed at least in float32.

    The signature is that of mamba-ssm's `RMSNormGated`, which the engine's mixer extends by a sharded state dict.

    Args:
        hidden_size: Number of channels on this tensor rank.
        eps: Added to the mean square.
        group_size: Number of channels that are normalized together.
        norm_before_gate: True to gate after the norm and its weight, False to gate before.
        device: Device of the weight.
        dtype: Dtype of the weight.

    Raises:
        ModelwrightError: The group size does not divide the hidden size.
    """

    def __init__(
        self,
        hidden_size: int,
        /,
        *,
        eps: float,
        group_size: int,
        norm_before_gate: bool,
        device: torch.device | int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        if hidden_size % group_size:
            raise ModelwrightError(
                f"`group_size` must divide the channels of the norm, but {group_size} does not divide {hidden_size}; "
                "use the channels of one group."
            )
        self.eps, self.group_size, self.norm_before_gate = eps, group_size, norm_before_gate
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        self.tp_group: ProcessGroup | None = None
        """Tensor-parallel group that splits the weight; set by the mixer."""

    def forward(self, hidden_SBH: Tensor, gate: Tensor | None = None, /) -> Tensor:
        """Gate and normalize.

        Args:
            hidden_SBH: Any shape with a last dim of `hidden_size`.
            gate: The same shape. None: no gate.

        Returns:
            Tensor with the shape and dtype of `hidden_SBH`.
        """
        normed: Tensor = _GatedNorm.apply(hidden_SBH, gate, self.weight, self)
        return normed

    def sharded_state_dict(
        self,
        prefix: str = "",
        sharded_offsets: tuple[tuple[int, int, int], ...] = (),
        metadata: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the sharded state dict, the same as that of the engine's `ExtendedRMSNorm`.

        Args:
            prefix: Prefix of the names.
            sharded_offsets: Offsets in dims before those of the weight.
            metadata: `dp_cp_group`, the group of the ranks with the same shard. Without it: the engine's own.

        Returns:
            The sharded weight by its name.

        Raises:
            ModelwrightError: `tp_group` was not set.
        """
        from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint

        if self.tp_group is None:
            raise ModelwrightError(
                "`tp_group` of a gated norm must be the tensor-parallel group when it is saved, but is None; "
                "set it where the norm is built."
            )
        make: Any = make_sharded_tensors_for_checkpoint  # not typed
        sharded: dict[str, Any] = make(
            self.state_dict(prefix="", keep_vars=True),
            prefix,
            {"weight": 0},
            sharded_offsets,
            tp_group=self.tp_group,
            dp_cp_group=(metadata or {}).get("dp_cp_group"),
        )
        return sharded


class _GatedNorm(torch.autograd.Function):
    """Gated norm of hidden `[s, ..., h]`, with a gate of that shape or None; saves only its arguments."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, gate: Tensor | None, weight: Tensor, module: GatedRMSNorm) -> Tensor:
        ctx.save_for_backward(hidden, gate, weight)
        ctx.eps, ctx.groups = module.eps, hidden.size(-1) // module.group_size
        ctx.norm_first = norm_first = module.norm_before_gate
        y = torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device)
        for block in cached_blocks(hidden, 0):
            made = _Normed.of(hidden[block], None if gate is None else gate[block], ctx)
            scaled = made.normed.flatten(-2).mul_(weight)
            y[block] = scaled.mul_(made.opened) if norm_first and made.opened is not None else scaled
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator forgets names
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Recompute each block and return the gradients.

        For a group with n = a r and r = (mean a^2 + eps)^-1/2, the gradient of a is r (g - n mean(n g)).
        """
        hidden, gate, weight = ctx.saved_tensors
        ghidden, gweight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=_work(hidden))
        ggate = None if gate is None else torch.empty_like(gate)
        for block in cached_blocks(hidden, 0):
            opening = None if gate is None else gate[block].to(gweight.dtype)
            made = _Normed.of(hidden[block], opening, ctx)
            outer, normed = gradients[0][block].to(gweight.dtype), made.normed.flatten(-2)
            gopened = None
            if ctx.norm_first and made.opened is not None:
                gopened = outer * normed * weight
                outer = outer * made.opened
            gweight += (outer * normed).flatten(0, -2).sum(0)
            ga = (outer * weight).unflatten(-1, (ctx.groups, -1))
            along = (ga * made.normed).mean(-1, keepdim=True)
            ga = ga.addcmul_(made.normed, along, value=-1).mul_(made.scale).flatten(-2)
            if made.opened is not None and not ctx.norm_first:
                gopened = ga * hidden[block]
                ga = ga.mul_(made.opened)
            ghidden[block] = ga
            if ggate is not None:
                ggate[block] = torch.ops.aten.silu_backward(gopened, opening)
        return ghidden, ggate, gweight.to(weight.dtype), None


class _Normed(NamedTuple):
    """Intermediate results for some rows."""

    opened: Tensor | None
    """silu of the gate, `[..., h]`; None without a gate."""
    scale: Tensor
    """Factor that makes the mean square 1, `[..., groups, 1]`."""
    normed: Tensor
    """Values times `scale`, `[..., groups, channels of a group]`."""

    @classmethod
    def of(cls, hidden: Tensor, gate: Tensor | None, options: Any) -> Self:
        """Normalize some rows, at least in float32."""
        values = hidden.to(_work(hidden))
        opened = None if gate is None else silu(gate.to(values.dtype))
        gated = values if opened is None or options.norm_first else values * opened
        gated = gated.reshape(*gated.shape[:-1], options.groups, -1)
        scale = (gated.square().mean(-1, keepdim=True) + options.eps).rsqrt()
        return cls(opened, scale, gated * scale)


def _work(hidden: Tensor) -> torch.dtype:
    return torch.promote_types(hidden.dtype, torch.float32)
