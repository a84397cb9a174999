"""AdamW, with the number of steps in its group as Transformer Engine has it, and functions over lists of tensors."""

from typing import Any

import torch
from torch import Tensor


class FusedAdam(torch.optim.Optimizer):
    """AdamW."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        bias_correction: bool = True,
        adam_w_mode: bool = True,
        capturable: bool = False,
        master_weights: bool = False,
        master_weight_dtype: torch.dtype = torch.float32,
        exp_avg_dtype: torch.dtype = torch.float32,
        exp_avg_sq_dtype: torch.dtype = torch.float32,
        use_decoupled_grad: bool = False,
        store_param_remainders: bool = False,
        set_grad_none: bool | None = None,
    ) -> None:
        defaults = {"lr": lr, "bias_correction": bias_correction, "betas": betas, "eps": eps}
        super().__init__(params, defaults | {"weight_decay": weight_decay})

    def initialize_state(self, param: Tensor, store_param_remainders: bool = False) -> None:
        for name in ("exp_avg", "exp_avg_sq"):
            self.state[param][name] = torch.zeros_like(param, dtype=torch.float32)

    @torch.no_grad()
    def step(self, closure: Any = None, grad_scaler: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            beta1, beta2 = group["betas"]
            for param in (param for param in group["params"] if param.grad is not None):
                if not self.state[param]:
                    self.initialize_state(param)
                grad, state = param.grad.float(), self.state[param]
                mean, square = state["exp_avg"].lerp_(grad, 1 - beta1), state["exp_avg_sq"]
                square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
                root = (square / (1 - beta2 ** group["step"])).sqrt_().add_(group["eps"])
                param.mul_(1 - group["lr"] * group["weight_decay"])
                param.addcdiv_(mean, root, value=-group["lr"] / (1 - beta1 ** group["step"]))


class FusedSGD(torch.optim.SGD):
    """Gradient descent."""


def multi_tensor_applier(op: Any, noop_flag: Tensor, tensor_lists: Any, *args: Any) -> Any:
    return op(2048 * 32, noop_flag, tensor_lists, *args)


def multi_tensor_l2norm(chunk_size: int, noop_flag: Tensor, tensor_lists: Any, per_parameter: bool = False) -> Any:
    norms = torch.stack([torch.linalg.vector_norm(tensor.float()) for tensor in tensor_lists[0]])
    return torch.linalg.vector_norm(norms)[None], norms if per_parameter else None


def multi_tensor_scale(chunk_size: int, noop_flag: Tensor, tensor_lists: Any, scale: float) -> None:
    for source, target in zip(*tensor_lists, strict=True):
        target.copy_(source * scale)


def multi_tensor_scale_tensor(chunk_size: int, noop_flag: Tensor, tensor_lists: Any, scale: Tensor) -> None:
    for source, target in zip(*tensor_lists, strict=True):
        target.copy_(source * scale)
