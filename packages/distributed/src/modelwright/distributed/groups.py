"""Process groups: joining the job, and making the engine's collection of groups from the sizes of the axes.

The engine stores groups in module globals. Some of its code reads them even when a collection is passed, so
`initialize` fills both from one description and `finalize` empties both.
"""

import datetime
import gc
import os
from typing import Any

import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.pipeline_parallel.bridge_communicator import BridgeCommunicator
from megatron.core.process_groups_config import ProcessGroupCollection

from modelwright.config import Parallelism
from modelwright.distributed.phase_barrier import DEFAULT_TIMEOUT
from modelwright.engine import (
    LOOPBACK,
    forget_attention_choice,
    job_size,
    on_one_machine,
    only_loopback,
    release_caches,
    remember_attention_choice,
    restore_gloo_devices,
    restore_interfaces,
    restore_router_loss_tracker,
    share_gloo_device,
    track_losses_of_every_model,
    without_name_service,
)


def initialize(
    parallelism: Parallelism, *, seed: int = 1234, timeout: datetime.timedelta = DEFAULT_TIMEOUT
) -> ProcessGroupCollection:
    """Join the job and make this rank's process groups.

    Reads `RANK`, `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT` as torch's launcher sets them. Without them the job is
    this one process. Uses NCCL where CUDA is usable. Elsewhere it uses gloo, and the caller must be inside
    `cpu_runtime()`.

    Args:
        parallelism: Sizes of the axes.
        seed: Seed of the random states that dropout uses.
        timeout: Time after which a collective that waits for a dead rank fails.

    Returns:
        The process groups of this rank.

    Raises:
        ConfigError: The number of processes is not a multiple of what the parallelism needs.
    """
    parallelism.check_world_size(job_size())
    join(timeout)
    parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallelism.tensor,
        pipeline_model_parallel_size=parallelism.pipeline,
        virtual_pipeline_model_parallel_size=virtual_stages(parallelism),
        context_parallel_size=parallelism.context,
        expert_model_parallel_size=parallelism.expert,
        expert_tensor_parallel_size=parallelism.expert_tensor,
        create_gloo_process_groups=torch.cuda.is_available(),
    )
    tensor_parallel.model_parallel_cuda_manual_seed(seed, force_reset_rng=True)
    groups: ProcessGroupCollection = ProcessGroupCollection.use_mpu_process_groups()
    return groups


def finalize() -> None:
    """Leave the job: destroy the groups of the engine and torch, and undo what `initialize` changed in the process.

    A gloo group has threads and sockets until the last reference to the group is gone. The engine's caches refer to
    groups, and models and optimizers do in cycles. So the caches are emptied and Python's garbage collector runs here.
    Without groups there is nothing to destroy. A model that the caller still refers to keeps its groups alive.
    """
    parallel_state.destroy_model_parallel()
    parallel_state.destroy_global_memory_buffer()
    if torch.distributed.is_initialized():
        # The engine caches the groups of its bridges by their ranks, and would use those of this job in the next one.
        BridgeCommunicator.destroy_broadcast_pgs()
        BridgeCommunicator.destroy_bridge_pgs()
        torch.distributed.destroy_process_group()
        release_caches()
        gc.collect()
    restore_router_loss_tracker()
    restore_gloo_devices()
    restore_interfaces()
    forget_attention_choice()


def virtual_stages(parallelism: Parallelism) -> int | None:
    """Return the number of virtual stages as the engine expects it: None instead of 1."""
    return parallelism.virtual_pipeline if parallelism.virtual_pipeline > 1 else None


def join(timeout: datetime.timedelta) -> None:
    """Join the job that this process was started in, else a job of this one process.

    Nothing happens when the process has joined a job already.

    Args:
        timeout: Time after which a collective that waits for a dead rank fails.
    """
    track_losses_of_every_model()
    remember_attention_choice()
    if torch.distributed.is_initialized():
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "nccl" if cuda else "gloo"
    if on_one_machine():
        only_loopback()
    share_gloo_device()
    store, rank, size = _meeting_place(timeout)
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)


def _meeting_place(timeout: datetime.timedelta) -> tuple[Any, int, int]:
    """Return the store through which the ranks find each other, the rank of this process, and the number of ranks.

    A launcher keeps one store for the life of the job. Groups that are made after `finalize` have the names of those
    before it, so each time that the job is joined has a part of the store to itself. Otherwise a rank may read the
    address that another rank had before.
    """
    dist: Any = torch.distributed  # re-exports the stores without saying so
    if "RANK" not in os.environ:
        return dist.HashStore(), 0, 1
    if os.environ.get("MASTER_ADDR") == LOOPBACK:
        store, rank, size = without_name_service(lambda: next(dist.rendezvous("env://", timeout=timeout)))
    else:
        store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
    store.set_timeout(timeout)
    joined = store.add(f"modelwright/joined/{rank}", 1)
    return dist.PrefixStore(f"modelwright/{joined}", store), rank, size
