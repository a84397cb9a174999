"""The linears: alone, after a norm, and of many experts at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from transformer_engine.pytorch.module.base import TransformerEngineBaseModule, mark_parallel
from transformer_engine.pytorch.module.norm import normalized
from transformer_engine.recorded import record

type Init = Callable[[Tensor], Any]


class _ParallelLinear(TransformerEngineBaseModule):
    """A product with a weight that tensor ranks may split, and the collectives before or after it."""

    weight: nn.Parameter

    def make_linear(
        self,
        in_features: int,
        out_features: int,
        init_method: Init,
        *,
        sequence_parallel: bool,
        tp_group: Any,
        tp_size: int,
        get_rng_state_tracker: Any,
        rng_tracker_name: str | None,
        bias: bool,
        return_bias: bool,
        params_dtype: torch.dtype | None,
        parallel_mode: str | None,
        device: Any,
    ) -> None:
        self.join(tp_group, tp_size)
        self.parallel_mode, self.use_bias, self.return_bias = parallel_mode, bias, return_bias
        self.in_features = in_features // self.tp_size if parallel_mode == "row" else in_features
        self.out_features = out_features // self.tp_size if parallel_mode == "column" else out_features
        self.sequence_parallel = self.tp_size > 1 and sequence_parallel
        empty: dict[str, Any] = {"dtype": params_dtype, "device": device}
        weight = torch.empty(self.out_features, self.in_features, **empty)
        self.make_parameter("weight", weight, init_method, get_rng_state_tracker, rng_tracker_name)
        mark_parallel(self.weight, dim=1 if parallel_mode == "row" else 0)
        if not bias:
            self.bias = torch.Tensor().to(**empty)
            return
        made: Any = self.make_parameter("bias", torch.empty(self.out_features, **empty), nn.init.zeros_)
        if parallel_mode == "row":
            made.sequence_parallel = self.sequence_parallel
        elif parallel_mode == "column":
            mark_parallel(made, dim=0)

    def product(self, inp: Tensor) -> Any:
        # Megatron-Core imports this package, so it is imported when it is there.
        from megatron.core.tensor_parallel import mappings as ranks

        split = self.tp_size > 1
        if split and self.parallel_mode == "column":
            if self.sequence_parallel:
                inp = ranks.gather_from_sequence_parallel_region(inp, group=self.tp_group)
            else:
                inp = ranks.copy_to_tensor_model_parallel_region(inp, group=self.tp_group)
        whole = not (split and self.parallel_mode == "row")
        added = self.bias if self.use_bias and not self.return_bias else None
        out = linear(self.rounded(inp, 0), self.rounded(self.weight, 1), added if whole else None)
        if not whole:
            if self.sequence_parallel:
                out = ranks.reduce_scatter_to_sequence_parallel_region(out, group=self.tp_group)
            else:
                out = ranks.reduce_from_tensor_model_parallel_region(out, group=self.tp_group)
            out = out if added is None else out + added
        return (out, self.bias) if self.return_bias else out


class Linear(_ParallelLinear):
    """A linear."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        sequence_parallel: bool = False,
        fuse_wgrad_accumulation: bool = False,
        tp_group: Any = None,
        tp_size: int = 1,
        get_rng_state_tracker: Any = None,
        rng_tracker_name: str | None = None,
        init_method: Init = nn.init.normal_,
        bias: bool = True,
        return_bias: bool = False,
        params_dtype: torch.dtype | None = None,
        parallel_mode: str | None = None,
        parameters_split: Any = None,
        device: Any = "cuda",
        ub_overlap_ag: bool = False,
        ub_overlap_rs: bool = False,
        ub_overlap_rs_dgrad: bool = False,
        ub_bulk_dgrad: bool = False,
        ub_bulk_wgrad: bool = False,
        ub_name: str | None = None,
        delay_wgrad_compute: bool = False,
        symmetric_ar_type: str | None = None,
        save_original_input: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        record(
            type(self).__name__, sizes=[in_features, out_features], bias=[bias, return_bias], mode=parallel_mode,
            group=tp_group, narrow=self.primary_weights_in_fp8, symmetric_ar_type=symmetric_ar_type,
            sequence_parallel=sequence_parallel, dtype=params_dtype,
        )  # fmt: skip
        self.symmetric_ar_type, self.save_original_input = symmetric_ar_type, save_original_input
        self.make_linear(
            in_features, out_features, init_method, sequence_parallel=sequence_parallel, tp_group=tp_group,
            tp_size=tp_size, get_rng_state_tracker=get_rng_state_tracker, rng_tracker_name=rng_tracker_name, bias=bias,
            return_bias=return_bias, params_dtype=params_dtype, parallel_mode=parallel_mode, device=device,
        )  # fmt: skip

    def forward(self, inp: Tensor, is_first_microbatch: bool | None = None, fp8_output: bool | None = False) -> Any:
        saved = self.save_original_input
        self.begin("forward", inp=inp, is_first_microbatch=is_first_microbatch, save_original_input=saved)
        return self.product(inp)


class LayerNormLinear(_ParallelLinear):
    """A norm and a linear."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        eps: float = 1e-5,
        sequence_parallel: bool = False,
        fuse_wgrad_accumulation: bool = False,
        tp_group: Any = None,
        tp_size: int = 1,
        get_rng_state_tracker: Any = None,
        init_method: Init = nn.init.normal_,
        bias: bool = True,
        normalization: str = "LayerNorm",
        return_bias: bool = False,
        params_dtype: torch.dtype | None = None,
        parallel_mode: str | None = None,
        return_layernorm_output: bool = False,
        return_layernorm_output_gathered: bool = False,
        parameters_split: Any = None,
        zero_centered_gamma: bool = False,
        device: Any = "cuda",
        ub_overlap_ag: bool = False,
        ub_overlap_rs: bool = False,
        ub_overlap_rs_dgrad: bool = False,
        ub_bulk_wgrad: bool = False,
        ub_bulk_dgrad: bool = False,
        ub_name: str | None = None,
        delay_wgrad_compute: bool = False,
        symmetric_ar_type: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        record(
            type(self).__name__, sizes=[in_features, out_features], bias=[bias, return_bias], mode=parallel_mode,
            group=tp_group, narrow=self.primary_weights_in_fp8, symmetric_ar_type=symmetric_ar_type,
            sequence_parallel=sequence_parallel, dtype=params_dtype, norm=[normalization, eps, zero_centered_gamma],
        )  # fmt: skip
        self.symmetric_ar_type, self.eps, self.zero_centered_gamma = symmetric_ar_type, eps, zero_centered_gamma
        start = torch.full((in_features,), 0.0 if zero_centered_gamma else 1.0, dtype=params_dtype, device=device)
        self.layer_norm_weight = nn.Parameter(start)
        has_bias = normalization == "LayerNorm"
        self.layer_norm_bias = nn.Parameter(torch.zeros_like(start)) if has_bias else None
        self.make_linear(
            in_features, out_features, init_method, sequence_parallel=sequence_parallel, tp_group=tp_group,
            tp_size=tp_size, get_rng_state_tracker=get_rng_state_tracker, rng_tracker_name=None, bias=bias,
            return_bias=return_bias, params_dtype=params_dtype, parallel_mode=parallel_mode, device=device,
        )  # fmt: skip
        for parameter in (self.layer_norm_weight, self.layer_norm_bias):
            if parameter is not None:
                parameter.sequence_parallel = self.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, inp: Tensor, is_first_microbatch: bool | None = None, fp8_output: bool | None = False) -> Any:
        self.begin("forward", inp=inp, is_first_microbatch=is_first_microbatch)
        weight, bias = self.layer_norm_weight, self.layer_norm_bias
        return self.product(normalized(inp, weight, bias, self.eps, zero_centered=self.zero_centered_gamma))


class GroupedLinear(TransformerEngineBaseModule):
    """The linears of all experts of a rank, one after another."""

    def __init__(
        self,
        num_gemms: int,
        in_features: int,
        out_features: int,
        sequence_parallel: bool = False,
        fuse_wgrad_accumulation: bool = False,
        tp_group: Any = None,
        tp_size: int = 1,
        get_rng_state_tracker: Any = None,
        rng_tracker_name: str | None = None,
        init_method: Init = nn.init.normal_,
        bias: bool = True,
        return_bias: bool = False,
        params_dtype: torch.dtype | None = None,
        parallel_mode: str | None = None,
        device: Any = "cuda",
        ub_overlap_rs: bool = False,
        ub_overlap_ag: bool = False,
        ub_name: str | None = None,
        delay_wgrad_compute: bool = False,
        save_original_input: bool = False,
        single_grouped_weight: bool = False,
        single_grouped_bias: bool = False,
        name: str | None = None,
        use_grouped_tensor: bool | None = None,
    ) -> None:
        super().__init__(name)
        record(
            type(self).__name__, experts=num_gemms, sizes=[in_features, out_features], bias=[bias, return_bias],
            mode=parallel_mode, group=tp_group, narrow=self.primary_weights_in_fp8, dtype=params_dtype,
        )  # fmt: skip
        self.join(tp_group, tp_size)
        self.num_gemms, self.use_bias, self.return_bias, self.parallel_mode = (
            num_gemms,
            bias,
            return_bias,
            parallel_mode,
        )
        self.in_features = in_features // self.tp_size if parallel_mode == "row" else in_features
        self.out_features = out_features // self.tp_size if parallel_mode == "column" else out_features
        self.save_original_input, self.fuse_wgrad_accumulation = save_original_input, fuse_wgrad_accumulation
        self.single_grouped_weight, self.single_grouped_bias = single_grouped_weight, single_grouped_bias
        empty: dict[str, Any] = {"dtype": params_dtype, "device": device}
        for i in range(num_gemms):
            weight = torch.empty(self.out_features, self.in_features, **empty)
            made = self.make_parameter(f"weight{i}", weight, init_method, get_rng_state_tracker, rng_tracker_name)
            mark_parallel(made, dim=1 if parallel_mode == "row" else 0)
            if bias:
                self.make_parameter(f"bias{i}", torch.empty(self.out_features, **empty), nn.init.zeros_)

    def forward(self, inp: Tensor, m_splits: Any, is_first_microbatch: bool | None = None) -> Any:
        splits = m_splits.tolist() if isinstance(m_splits, Tensor) else m_splits
        saved = self.save_original_input
        self.begin("forward", rows=splits, is_first_microbatch=is_first_microbatch, save_original_input=saved)
        biases = [self.get_parameter(f"bias{i}") if self.use_bias else None for i in range(self.num_gemms)]
        out = torch.cat(
            [
                linear(self.rounded(part, 3 * i), self.rounded(self.get_parameter(f"weight{i}"), 3 * i + 1), bias)
                for i, (part, bias) in enumerate(
                    zip(inp.split(splits), [None] * len(biases) if self.return_bias else biases, strict=True)
                )
            ]
        )
        return (out, biases) if self.return_bias else out
