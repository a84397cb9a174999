"""Jitter of a router's input that is a function of the seed, the step and the element, as dropout is.

`engine: {moe_input_jitter_eps: 0.01}` multiplies each channel of the tokens that a router reads by a random number
(Fedus et al. 2021, Switch Transformers, section 2.4). The engine draws from the default generator of a rank, also
outside of training. Here a number depends on the global indices alone, and there is no jitter outside of training.

Seam: `Router.apply_input_jitter` calls the attribute `input_jitter`, which the engine sets at the first call unless it
is set. `tests/integration/test_dropout_parity.py` fails when the engine draws by itself.
"""

from typing import TYPE_CHECKING, Any, cast, final

import torch
from megatron.core.transformer.moe.router import Router
from torch import Tensor, nn

from modelwright.layers.dropout import HiddenPlace

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection


@final
class RouterJitter(nn.Module):
    """Factors near 1 for the tokens that a router reads.

    Args:
        place: The place in the model.
        epsilon: Largest distance of a factor from 1.
        dtype: Dtype of the factors.
    """

    def __init__(self, place: HiddenPlace, epsilon: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.place = place
        self.epsilon = epsilon
        self.dtype = dtype

    def forward(self, shape: torch.Size) -> Tensor:
        """Return the factors: uniform in [1 - epsilon, 1 + epsilon] in training mode, 1 otherwise.

        Args:
            shape: Shape of the hidden states of this rank: [s, b, h].

        Returns:
            The factors in that shape.
        """
        device = torch.device(torch.cuda.current_device())
        if not self.training:
            return torch.ones((), dtype=self.dtype, device=device)
        uniform = (self.place.hashes(shape, device).double() + 0.5) / 2**31 - 1
        return (1 + self.epsilon * uniform).to(self.dtype)


def place_jitters(stage: Any, groups: "ProcessGroupCollection") -> None:
    """Give the routers in a stage their places, if the config asks for jitter.

    Args:
        stage: The engine's `HybridModel`.
        groups: Process groups of this rank.
    """
    config = stage.config
    if config.moe_input_jitter_eps is None:
        return
    layers: list[nn.Module] = list(stage.decoder.layers)
    for layer in layers:
        number = cast("int", layer.layer_number)
        modules: list[tuple[str, nn.Module]] = list(cast("Any", layer).named_modules())
        for name, module in modules:
            if isinstance(module, Router):
                place = HiddenPlace(
                    f"decoder.layers.{number - 1}.{name}.input_jitter",
                    groups,
                    sequence_parallel=bool(config.sequence_parallel),
                )
                module.input_jitter = RouterJitter(place, config.moe_input_jitter_eps, config.params_dtype)
