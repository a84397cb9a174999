"""The gated RMSNorm of Mamba-2 in PyTorch, for the gated-norm slot of a mixer.

Dao and Gu 2024, arXiv 2405.21060, section 7.1. The channels of each group are normalised by themselves. Groups never
cross tensor ranks, so a rank normalises its channels alone and holds its part of the weight.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu

from modelwright.layers._recomputed import recomputed
from modelwright.layers._slots import as_engine
from modelwright.protocols import ModelwrightError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class GatedRMSNorm(nn.Module):
    """RMSNorm within groups of channels, and a gate silu(z) before or after it; computed in float32 at least.

    In the arguments of mamba-ssm's `RMSNormGated`, which the engine's mixer extends by a sharded state dictionary.

    Args:
        hidden_size: Channels of this tensor rank.
        eps: Added to the mean square.
        group_size: Channels that are normalised together.
        norm_before_gate: Whether the gate comes after the norm and its weight.
        device: Where the weight goes.
        dtype: Type of the weight.

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
        """The group over which the weight is split; the mixer sets it."""

    def forward(self, hidden_SBH: Tensor, gate: Tensor | None = None, /) -> Tensor:
        """Gate and normalise.

        Args:
            hidden_SBH: Any shape whose last dim is `hidden_size`.
            gate: The same shape; None leaves it out.

        Returns:
            The shape and dtype of `hidden_SBH`.
        """
        return recomputed(self._normed, hidden_SBH, gate)

    def _normed(self, hidden_SBH: Tensor, gate: Tensor | None) -> Tensor:
        work = torch.promote_types(hidden_SBH.dtype, torch.float32)
        values = hidden_SBH.to(work)
        opened = None if gate is None else silu(gate.to(work))
        if opened is not None and not self.norm_before_gate:
            values = values * opened
        grouped = values.reshape(*values.shape[:-1], -1, self.group_size)
        normed = rms_norm(grouped, (self.group_size,), eps=self.eps).reshape(values.shape) * self.weight.to(work)
        if opened is not None and self.norm_before_gate:
            normed = normed * opened
        return normed.to(hidden_SBH.dtype)

    def sharded_state_dict(
        self,
        prefix: str = "",
        sharded_offsets: tuple[tuple[int, int, int], ...] = (),
        metadata: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The weight as a shard of the whole norm's, as the engine's `ExtendedRMSNorm` gives it.

        Args:
            prefix: What its name begins with.
            sharded_offsets: Offsets in dims before those of the weight.
            metadata: `dp_cp_group`, the group of the ranks that hold the same shard; the engine's own when missing.

        Returns:
            The sharded tensor by its name.

        Raises:
            ModelwrightError: `tp_group` was not set.
        """
        from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint

        if self.tp_group is None:
            raise ModelwrightError(
                "`tp_group` of a gated norm must be the tensor-parallel group before it is saved, but is None; "
                "set it where the norm is built."
            )
        sharded: dict[str, Any] = as_engine(
            make_sharded_tensors_for_checkpoint(
                self.state_dict(prefix="", keep_vars=True),
                prefix,
                {"weight": 0},
                sharded_offsets,
                tp_group=self.tp_group,
                dp_cp_group=(metadata or {}).get("dp_cp_group"),
            )
        )
        return sharded
