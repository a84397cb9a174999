"""Everything that modelwright does to Megatron-Core and torch: the CPU runtime, patches, adapters to `ModuleSpec`.

    from modelwright.engine import cpu_runtime

    with cpu_runtime():
        ...  # Megatron-Core, as installed, without a GPU

The README lists every place where this library changes or reaches into the engine. Importing this package changes
nothing and loads neither torch nor the engine: each name is imported when it is first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelwright.engine.attention_choice import forget_attention_choice, remember_attention_choice
    from modelwright.engine.cpu.runtime import CpuRuntimeError, cpu_runtime, device_runtime
    from modelwright.engine.engine_caches import release_caches
    from modelwright.engine.fork_server import (
        StartMethod,
        can_fork,
        environment_variables,
        hold_interrupts,
        rank_environment,
        start_fork_server,
    )
    from modelwright.engine.local_job import (
        LOOPBACK,
        LocalStore,
        is_launched,
        job_size,
        on_one_machine,
        only_loopback,
        restore_interfaces,
        without_name_service,
    )
    from modelwright.engine.module_specs import as_function_spec, as_module_spec
    from modelwright.engine.optional_packages import OPTIONAL_PACKAGES, OptionalPackage
    from modelwright.engine.patches.gloo_device import restore_gloo_devices, share_gloo_device
    from modelwright.engine.patches.optimizer_gather import gathering_over
    from modelwright.engine.patches.restricted_pickle import refuse_links, restricted_reading
    from modelwright.engine.patches.router_loss_tracker import (
        restore_router_loss_tracker,
        track_losses_of_every_model,
    )
    from modelwright.engine.patches.torch_compile import load_engine
    from modelwright.engine.thread_patch import Change, ThreadPatch
    from modelwright.engine.torch_import import guard_torch_import
else:
    from modelwright.protocols import lazy_door

    __getattr__, __dir__ = lazy_door(__name__, __file__)

__all__ = [
    "LOOPBACK",
    "OPTIONAL_PACKAGES",
    "Change",
    "CpuRuntimeError",
    "LocalStore",
    "OptionalPackage",
    "StartMethod",
    "ThreadPatch",
    "as_function_spec",
    "as_module_spec",
    "can_fork",
    "cpu_runtime",
    "device_runtime",
    "environment_variables",
    "forget_attention_choice",
    "gathering_over",
    "guard_torch_import",
    "hold_interrupts",
    "is_launched",
    "job_size",
    "load_engine",
    "on_one_machine",
    "only_loopback",
    "rank_environment",
    "refuse_links",
    "release_caches",
    "remember_attention_choice",
    "restore_gloo_devices",
    "restore_interfaces",
    "restore_router_loss_tracker",
    "restricted_reading",
    "share_gloo_device",
    "start_fork_server",
    "track_losses_of_every_model",
    "without_name_service",
]
