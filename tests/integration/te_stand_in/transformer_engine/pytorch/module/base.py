"""What all parts with parameters have in common: their scales, and how they make their parameters."""

import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from transformer_engine.pytorch.quantization import FP8GlobalStateManager
from transformer_engine.recorded import record

_LARGEST = 448.0  # of e4m3


class Scaling(NamedTuple):
    """Scales and history of maxima of the tensors of a part."""

    scale: Tensor
    amax_history: Tensor


class TransformerEngineBaseModule(nn.Module):
    """A part whose products may be in narrow dtypes."""

    tp_size = 1
    tp_group: Any = None
    num_gemms = 1
    fp8_calibration = False

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        self.name = name
        self.fp8 = False
        self.primary_weights_in_fp8 = FP8GlobalStateManager.with_fp8_parameters()
        self.fp8_meta: dict[str, Any] = {"fp8_checkpoint": False, "recipe": FP8GlobalStateManager.get_fp8_recipe()}

    def set_tensor_parallel_group(self, tp_group: Any) -> None:
        self.tp_group = tp_group

    def join(self, tp_group: Any, tp_size: int) -> None:
        """Set group and size as the parts do: a group decides, else the number."""
        self.tp_size = tp_size if tp_group is None else tp_group.size()
        self.set_tensor_parallel_group(tp_group)

    def make_parameter(
        self, name: str, value: Tensor, init: Callable[[Tensor], Any], tracker: Any = None, tracked: str | None = None
    ) -> nn.Parameter:
        """Register a parameter and initialize it, then wrap its memory anew, as the parts do after that."""
        parameter = nn.Parameter(value)
        if tracker is None:
            init(parameter)
        else:
            with tracker().fork(tracked) if tracked else tracker().fork():
                init(parameter)
        # A narrow parameter has memory of its own.
        parameter = nn.Parameter(parameter.detach().clone() if self.primary_weights_in_fp8 else parameter.detach())
        self.register_parameter(name, parameter)
        return parameter

    def begin(self, event: str, **arguments: Any) -> None:
        """Record a call and note whether it is in a narrow dtype."""
        self.fp8 = FP8GlobalStateManager.is_fp8_enabled()
        if self.fp8:
            self.fp8_meta["recipe"] = FP8GlobalStateManager.get_fp8_recipe()
            self.init_fp8_metadata(self.num_gemms)
        record(f"{event} of {type(self).__name__}", narrow=self.fp8, **arguments)

    def init_fp8_metadata(self, num_gemms: int = 1) -> None:
        """Make the scales and the history of maxima that a recipe with delayed scales needs."""
        self.fp8_meta["num_gemms"] = num_gemms
        recipe = self.fp8_meta["recipe"]
        for direction, tensors in (("scaling_fwd", 3), ("scaling_bwd", 2)):
            if recipe.delayed() and direction not in self.fp8_meta:
                history = torch.zeros(recipe.amax_history_len, tensors * num_gemms)
                self.fp8_meta[direction] = Scaling(torch.ones(tensors * num_gemms), history)

    def rounded(self, tensor: Tensor, slot: int) -> Tensor:
        """Round to eight bits in a narrow context, with the gradient of the identity.

        With delayed scales, the scale comes from the maxima of earlier calls: that is a state beside the weights.
        """
        if not self.fp8 or tensor.numel() == 0:
            return tensor
        recipe, amax = self.fp8_meta["recipe"], tensor.detach().abs().max().float().clamp(min=1e-12)
        scale = _LARGEST / amax
        if recipe.delayed():
            scaling: Scaling = self.fp8_meta["scaling_fwd"]
            scale = scaling.scale[slot].clone()
            scaling.amax_history[:, slot] = scaling.amax_history[:, slot].roll(1).index_fill(0, torch.tensor(0), amax)
            seen = scaling.amax_history[:1, slot] if recipe.amax_compute_algo == "most_recent" else None
            newest = (scaling.amax_history[:, slot] if seen is None else seen).max()
            scaling.scale[slot] = _LARGEST / newest / 2**recipe.margin
        narrow = (tensor.detach().float() * scale).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn).float() / scale
        return tensor + (narrow.to(tensor.dtype) - tensor.detach())

    def get_extra_state(self) -> Tensor:
        if not (self.fp8 and self.fp8_meta["recipe"].delayed()):
            return torch.empty(0, dtype=torch.uint8)
        plain = {name: value for name, value in self.fp8_meta.items() if isinstance(value, bool | int)}
        state: dict[str, Any] = {"recipe": self.fp8_meta["recipe"], "extra_fp8_variables": plain}
        for direction in ("fwd", "bwd"):
            scaling: Scaling = self.fp8_meta[f"scaling_{direction}"]
            state |= {f"scale_{direction}": scaling.scale, f"amax_history_{direction}": scaling.amax_history}
        return torch.frombuffer(bytearray(pickle.dumps(state)), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        if state is None or state.numel() == 0:
            return
        found = pickle.loads(state.numpy().tobytes())  # noqa: S301 - what Transformer Engine does
        self.fp8_meta |= {"recipe": found["recipe"], **found["extra_fp8_variables"]}
        for direction in ("fwd", "bwd"):
            scaling = Scaling(found[f"scale_{direction}"], found[f"amax_history_{direction}"])
            self.fp8_meta[f"scaling_{direction}"] = scaling


def get_dummy_wgrad(shape: list[int], dtype: torch.dtype, zero: bool = False) -> Tensor:
    """Return a gradient that stands for one that was added elsewhere."""
    return torch.zeros(shape, dtype=dtype)


def mark_parallel(parameter: nn.Parameter, dim: int) -> None:
    """Set what the optimizer of Megatron-Core reads."""
    held: Any = parameter
    held.tensor_model_parallel, held.partition_dim, held.partition_stride = True, dim, 1
