"""One gloo device for all groups of a process.

- **Changes**: `torch.distributed.distributed_c10d.ProcessGroupGloo`, the class that torch makes gloo groups from.
- **Why**: torch makes a device for each group. A device has a listening socket and a thread that wakes up 100 times a
  second for as long as the group lives. An idle rank with 60 groups had 6,140 context switches a second and 319 open
  descriptors; with one device it has 199 and 79.
- **Versions**: torch 2.15.
- **Undone**: by `restore_gloo_devices`, which restores torch's class. The device ends with the last group that uses it.
- **Entered**: by `modelwright.distributed.join`, undone by `finalize`.
- **Threads**: the class is process-wide, as in torch. Groups made by any thread share the device.
- **Test that fails when it is no longer needed**: `tests/patches/test_gloo_device.py`.
"""

import os
from typing import Any, Final

import torch.distributed.distributed_c10d as c10d

_module: Any = c10d
_original: Final[Any] = getattr(_module, "ProcessGroupGloo", None)


def share_gloo_device() -> None:
    """Let gloo groups made from now on use one device, unless that is done already.

    The device listens on the interfaces in `GLOO_SOCKET_IFNAME`, as torch's own do. Nothing happens in a torch that was
    built without gloo.
    """
    if _original is not None and _module.ProcessGroupGloo is _original:
        _module.ProcessGroupGloo = _group_class(_devices())


def restore_gloo_devices() -> None:
    """Let gloo groups made from now on have devices of their own again."""
    if _original is not None:
        _module.ProcessGroupGloo = _original


def _devices() -> list[Any]:
    """Return one device for each interface that the environment names, or the default device."""
    interfaces = [name for name in os.environ.get("GLOO_SOCKET_IFNAME", "").split(",") if name]
    if not interfaces:
        return [_original.create_default_device()]
    return [_original.create_device(interface=name) for name in interfaces]


def _group_class(devices: list[Any]) -> type[Any]:
    """Return a class whose groups use the given devices."""

    class SharedDeviceGroup(_original):  # type: ignore[misc, valid-type, name-defined, unused-ignore]
        """A gloo group on a shared device. The arguments are those of torch's class."""

        def __init__(
            self, store: Any, rank: int, size: int, timeout: Any = c10d.default_pg_timeout, **rest: Any
        ) -> None:
            if any(rest.values()):
                # Options that torch hands over for a group of another kind, which makes its own device.
                super().__init__(store, rank, size, timeout=timeout, **rest)
                return
            options = _original._Options()
            options._devices, options._timeout, options._threads = devices, timeout, 2
            super().__init__(store, rank, size, options)

    return SharedDeviceGroup
