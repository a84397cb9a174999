"""The versions of torch and Megatron-Core that this library runs with, and what differs between them.

Upcoming difference: from megatron-core 0.20 on, the engine's stack is built from one config per layer
(`layer_config_list`) instead of a list of layer types. The code that builds it is in `modelwright.layers`.
"""

from modelwright.protocols import ModelwrightError

OLDEST_TORCH = (2, 11)
"""Oldest supported version of torch, as major and minor."""


def check_torch() -> None:
    """Refuse a torch that is too old.

    Package metadata states the same bound, but a container may bring its own torch.

    Raises:
        ModelwrightError: torch is older than `OLDEST_TORCH`.
    """
    import torch

    version = str(torch.__version__)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise ModelwrightError(
            f"`torch` must be {oldest} or newer, but is {version}; install one by `pip install 'torch>={oldest},<3'`."
        )
