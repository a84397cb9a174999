"""The process groups that the engine hands to every builder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class ProcessGroups(Protocol):
    """The groups of one model, by the engine's names; its `ProcessGroupCollection` satisfies this.

    A part that annotates `pg_collection: ProcessGroups` fits every slot, and needs no engine to be tested.

    Trap: the engine's collection returns `None` for a group that was never set, whatever its annotations say, and
    `hasattr` is true all the same. Compare with `None` before using a group that not every layout has.
    """

    @property
    def tp(self) -> ProcessGroup:
        """Tensor parallel."""
        ...

    @property
    def pp(self) -> ProcessGroup:
        """Pipeline parallel."""
        ...

    @property
    def mp(self) -> ProcessGroup:
        """Tensor and pipeline parallel: the ranks that hold one copy of the model."""
        ...

    @property
    def embd(self) -> ProcessGroup:
        """The stages that hold the embedding table: first and last."""
        ...

    @property
    def pos_embd(self) -> ProcessGroup:
        """The stages that hold a learned position table."""
        ...

    @property
    def cp(self) -> ProcessGroup:
        """Context parallel."""
        ...

    @property
    def tp_cp(self) -> ProcessGroup:
        """Tensor and context parallel."""
        ...

    @property
    def ep(self) -> ProcessGroup:
        """Expert parallel."""
        ...

    @property
    def expt_tp(self) -> ProcessGroup:
        """Tensor parallel within an expert."""
        ...

    @property
    def tp_ep(self) -> ProcessGroup:
        """Expert tensor and expert parallel."""
        ...

    @property
    def tp_ep_pp(self) -> ProcessGroup:
        """Expert tensor, expert and pipeline parallel."""
        ...

    @property
    def dp(self) -> ProcessGroup:
        """Data parallel."""
        ...

    @property
    def dp_cp(self) -> ProcessGroup:
        """Data and context parallel: gradients of dense weights are summed over it."""
        ...

    @property
    def tp_dp_cp(self) -> ProcessGroup:
        """Tensor, data and context parallel."""
        ...

    @property
    def expt_dp(self) -> ProcessGroup:
        """Data parallel of expert weights."""
        ...

    @property
    def intra_dp_cp(self) -> ProcessGroup:
        """The part of `dp_cp` over which one distributed optimizer is sharded."""
        ...

    @property
    def intra_expt_dp(self) -> ProcessGroup:
        """The part of `expt_dp` over which one distributed optimizer is sharded."""
        ...
