"""The process groups of one module of a composite model, over its range of ranks.

The ranks of a module form a grid of the engine (hyper_comm_grid.py), in the same order as those of a job with one
model: tensor ranks next to each other, then context, data, pipeline. The expert axes divide the same ranks in another
way. Making a group is a collective of the whole job, so every rank makes the groups of every module, in the same order.
"""

from dataclasses import dataclass
from typing import Any, final

import torch
from megatron.core import tensor_parallel
from megatron.core.hyper_comm_grid import HyperCommGrid
from megatron.core.process_groups_config import ProcessGroupCollection
from torch.distributed import ProcessGroup

from modelwright.config import Parallelism

_EXPERT = "expert"


@final
@dataclass(frozen=True, kw_only=True)
class ModuleGroups:
    """The ranks and process groups of one module."""

    grid: HyperCommGrid
    """Ranks along `tp`, `cp`, `dp` and `pp`, the same on every rank; the engine's communicators use it."""
    pg_collection: ProcessGroupCollection | None
    """The process groups of this rank. None: the module is not on this rank."""


def make_module_groups(ranks: range, parallelism: Parallelism) -> ModuleGroups:
    """Make the groups of one module; a collective of the whole job.

    Args:
        ranks: The ranks of the module.
        parallelism: Sizes of the axes.

    Returns:
        The grid of the module, and the groups of this rank in it.
    """
    grid = _grid(ranks, parallelism)
    groups = _groups(grid)
    member = torch.distributed.get_rank() in ranks
    return ModuleGroups(grid=grid, pg_collection=ProcessGroupCollection(**groups) if member else None)


def _grid(ranks: range, parallelism: Parallelism) -> HyperCommGrid:
    tensor, pipeline, context = parallelism.tensor, parallelism.pipeline, parallelism.context
    data = len(ranks) // parallelism.model_size
    grid = HyperCommGrid([tensor, context, data, pipeline], ["tp", "cp", "dp", "pp"], rank_offset=ranks.start)
    expert, expert_tensor = parallelism.expert, parallelism.expert_tensor_size
    expert_data = len(ranks) // parallelism.expert_model_size
    shape, axes = [expert_tensor, expert, expert_data, pipeline], ["tp", "ep", "dp", "pp"]
    grid.register_view(_EXPERT, shape, axes, shared_dims=["pp"])
    return grid


def _groups(grid: HyperCommGrid) -> dict[str, ProcessGroup | None]:
    """Return the groups of the engine's collection by field: the distinct ones, then those that equal one of them."""

    def expert(*axes: str) -> ProcessGroup | None:
        return grid.create_pg(list(axes), view=_EXPERT)

    pipelines = grid.get_rank_enum("pp")
    groups = {
        "tp": grid.create_pg("tp"),
        "cp": grid.create_pg("cp"),
        "dp": grid.create_pg("dp"),
        "pp": grid.create_pg("pp"),
        "mp": grid.create_pg(["tp", "pp"]),
        "tp_cp": grid.create_pg(["tp", "cp"]),
        "dp_cp": grid.create_pg(["cp", "dp"]),
        "tp_dp_cp": grid.create_pg(["tp", "cp", "dp"]),
        "intra_dist_opt": grid.create_pg(["tp", "cp", "dp", "pp"]),
        "ep": expert("ep"),
        "expt_tp": expert("tp"),
        "expt_dp": expert("dp"),
        "tp_ep": expert("tp", "ep"),
        "tp_ep_pp": expert("tp", "ep", "pp"),
        "embd": _member_of([sorted({ranks[0], ranks[-1]}) for ranks in pipelines]),
        "pos_embd": _member_of([ranks[:1] for ranks in pipelines]),
    }
    # With one instance of the distributed optimizer and no `gtp` axis, these groups equal others.
    return groups | {
        "intra_dp_cp": groups["dp_cp"],
        "dp_cp_gtp_remat": groups["dp_cp"],
        "intra_expt_dp": groups["expt_dp"],
        "expt_dp_gtp_remat": groups["expt_dp"],
        "tp_ep_pp_with_egtp_remat": groups["tp_ep_pp"],
    }


def _member_of(rank_lists: list[list[int]]) -> ProcessGroup | None:
    """Make a group of each list of ranks, and return the one of this rank. None: this rank is in no list."""
    make: Any = torch.distributed.new_subgroups_by_enumeration  # its annotation leaves out None
    group: ProcessGroup | None = make(rank_lists)[0]
    return group


def seed_random_states(pg_collection: ProcessGroupCollection, *, seed: int) -> None:
    """Seed the random states that dropout uses, for this rank of one module.

    The engine has one set of random states in a process. Where modules share ranks, call this before the forward pass
    of each. Otherwise its dropout uses the random states of the module that was built last.

    Args:
        pg_collection: The groups of this rank in the module.
        seed: Seed of the random states, the same on all ranks of the module.
    """
    tensor_parallel.model_parallel_cuda_manual_seed(
        seed,
        tp_rank=pg_collection.tp.rank(),
        ep_rank=pg_collection.ep.rank(),
        etp_rank=pg_collection.expt_tp.rank(),
        force_reset_rng=True,
    )
