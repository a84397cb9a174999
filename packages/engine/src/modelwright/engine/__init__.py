"""Everything that modelwright does to Megatron-Core and torch: the CPU runtime, patches, adapters to `ModuleSpec`.

    from modelwright.engine import cpu_runtime

    with cpu_runtime():
        ...  # Megatron-Core, as installed, without a GPU

The README lists every place where this library changes or reaches into the engine. Importing this package changes
nothing and loads neither torch nor the engine: each name is imported when it is first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelwright.engine.cpu.runtime import CpuRuntimeError, cpu_runtime, device_runtime
    from modelwright.engine.local_job import LocalStore, on_one_machine, only_loopback, restore_interfaces
    from modelwright.engine.module_specs import as_engine, as_function_spec, as_module_spec, check_slots
    from modelwright.engine.patches.restricted_pickle import refuse_links, restricted_reading
    from modelwright.engine.patches.router_loss_tracker import track_losses_of_every_model
    from modelwright.engine.patches.torch_compile import load_engine
else:
    from modelwright.protocols import lazy_door

    __getattr__, __dir__ = lazy_door(__name__, __file__)

__all__ = [
    "CpuRuntimeError",
    "LocalStore",
    "as_engine",
    "as_function_spec",
    "as_module_spec",
    "check_slots",
    "cpu_runtime",
    "device_runtime",
    "load_engine",
    "on_one_machine",
    "only_loopback",
    "refuse_links",
    "restore_interfaces",
    "restricted_reading",
    "track_losses_of_every_model",
]
