"""Protocol of the process groups that Megatron-Core passes to every builder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class ProcessGroups(Protocol):
    """Process groups of one model, under the engine's names; its `ProcessGroupCollection` satisfies this Protocol.

    A part that annotates `pg_collection: ProcessGroups` fits every slot and can be tested without the engine.

    Trap: the engine's collection returns `None` for a group that was never set, contrary to its annotations, and
    `hasattr` is true nevertheless. Compare a group with `None` before use if not every layout has it.
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
        """Tensor and pipeline parallel: the ranks that store one copy of the model."""
        ...

    @property
    def embd(self) -> ProcessGroup:
        """Stages that store the embedding table: first and last."""
        ...

    @property
    def pos_embd(self) -> ProcessGroup:
        """Stages that store a learned position table."""
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
        """Data and context parallel: the group of the all-reduce of dense gradients."""
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
        """Part of `dp_cp` over which one distributed optimizer is sharded."""
        ...

    @property
    def intra_expt_dp(self) -> ProcessGroup:
        """Part of `expt_dp` over which one distributed optimizer is sharded."""
        ...
