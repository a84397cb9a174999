"""Fields of Megatron-Core's config that `engine:` may set, with what each changes, in which layers and backends.

`tests/integration/test_engine_fields.py` sets each of them for a model with such layers, and compares a step of
training with one without the field. `test_te_engine_fields.py` does this for the backend `te` on a stand-in for
Transformer Engine, and so shows what reaches Transformer Engine. What that does with it follows from its source, such
as which scales are reduced over which ranks.
"""

import os
from typing import Final

from torch.nn.functional import silu

from modelwright.config import ATTENTION, MLA, MLP, MOE
from modelwright.layers.engine_fields.verdict import Condition, FieldValues, Honored, Verdict, Verdicts, setting

_ATTENTION, _MLA, _MLP, _MOE = ATTENTION.symbol, MLA.symbol, MLP.symbol, MOE.symbol
_OFFLOADING = _ATTENTION + _MLA + _MOE  # the other layers of `te` contain no module that could be offloaded
_TE = ("te",)

_OFFLOADED_IN = {
    **dict.fromkeys(("qkv_linear", "core_attn", "attn_proj"), _ATTENTION + _MLA),
    "attn_norm": _MLA,
    **dict.fromkeys(("mlp_norm", "expert_fc1", "moe_act", "fused_group_mlp"), _MOE),
}
"""Layers of `te` in which a module can be offloaded, by the module."""


def _offloads_in_each_stage(of: FieldValues) -> bool:
    """Return True if each offloaded module is in enough layers.

    The engine never offloads the last one of a stage. Where that is the first one too, its second step fails.
    """
    layers: str | None = of("layers")
    modules: list[str] = of("offload_modules") if isinstance(of("offload_modules"), list) else []
    if layers is None:  # unknown: a custom config
        return True
    stages: int = of("pipeline_model_parallel_size") * (of("virtual_pipeline_model_parallel_size") or 1)
    # The engine itself refuses a module that it does not know.
    kinds = [_OFFLOADED_IN.get(module, layers) for module in modules]
    return bool(kinds) and all(sum(layers.count(symbol) for symbol in set(kind)) >= 2 * stages for kind in kinds)


_PIPELINE = Condition("with `parallelism.pipeline` above 1", lambda of: of("pipeline_model_parallel_size") > 1)
_BATCHED = Condition(
    "with `parallelism.pipeline` above 1 and `virtual_pipeline: 1`",
    lambda of: of("pipeline_model_parallel_size") > 1 and of("batch_p2p_comm"),
)
_INTERLEAVED = Condition(
    "with `parallelism.virtual_pipeline` above 1",
    lambda of: (of("virtual_pipeline_model_parallel_size") or 1) > 1,
)
_SEQUENCE = Condition("with `parallelism.sequence: true`", lambda of: of("sequence_parallel"))
_GATED = Condition("with a gated `activation`", lambda of: of("gated_linear_unit"))
_SHARED_EXPERTS = Condition("with `shared_experts`", lambda of: of("moe_shared_expert_intermediate_size") is not None)
ROTATED = Condition("with `position_embedding: rope`", lambda of: of("position_embedding") in ("rope", None))
_NOT_NORMALIZED = Condition("with `qk_norm: false`", lambda of: not of("qk_layernorm"))
_SELECTIVE, _FULL = setting("recompute_granularity", "selective"), setting("recompute_granularity", "full")
_FULL_OVER_TENSOR = Condition(
    "with `engine.recompute_granularity: full` and `parallelism.tensor` above 1",
    lambda of: of("recompute_granularity") == "full" and of("tensor_model_parallel_size") > 1,
)
_FUSED_LOSS = setting("cross_entropy_loss_fusion", True)  # noqa: FBT003  # the value of the field
_OFFLOADED = setting("fine_grained_activation_offloading", True)  # noqa: FBT003  # the value of the field
_SOME_OFFLOADED = Condition(
    "with `engine.fine_grained_activation_offloading: true` and a value above 0",
    lambda of: _OFFLOADED.holds(of) and of("activation_offload_fraction") > 0,
)
_OFFLOADABLE = Condition(
    "with `engine.offload_modules`, each of them in at least two layers for every pipeline stage",
    _offloads_in_each_stage,
)
_FLASH = Condition(
    "with `engine.attention_backend: auto` or `flash`", lambda of: of("attention_backend").name in ("auto", "flash")
)
_FP8 = Condition("with `engine.fp8`", lambda of: of("fp8") is not None)
_FP4 = Condition("with `engine.fp4`", lambda of: of("fp4") is not None)
_NARROW = Condition("with `engine.fp8` or `engine.fp4`", lambda of: _FP8.holds(of) or _FP4.holds(of))
_DELAYED = Condition(
    "with `engine.fp8` and `engine.fp8_recipe: delayed`",
    lambda of: _FP8.holds(of) and of("fp8_recipe") == "delayed",
)
_NARROW_ATTENTION = Condition(
    "with `engine.fp8` and another `engine.fp8_recipe` than `blockwise`, or with `engine.fp4`",
    lambda of: _FP4.holds(of) or (_FP8.holds(of) and of("fp8_recipe") != "blockwise"),
)
_BY_LAYER = Condition(
    "with `engine.fp8` and another `engine.fp8_recipe` than `delayed`, or with `engine.fp4`",
    lambda of: _FP4.holds(of) or (_FP8.holds(of) and of("fp8_recipe") != "delayed"),
)
_ENDS_IN_BF16 = setting("first_last_layers_bf16", True)  # noqa: FBT003  # the value of the field
_ALL_REDUCED = Condition(
    "with `parallelism.tensor` above 1 and `parallelism.sequence: false`",
    lambda of: of("tensor_model_parallel_size") > 1 and not of("sequence_parallel"),
)
# Without the groups that this value needs, Transformer Engine would attend within each rank alone.
_CONTEXT_GROUP = Condition(
    "with `parallelism.context` above 1 and without the value `a2a+p2p`, whose groups modelwright does not make",
    lambda of: of("context_parallel_size") > 1 and "a2a+p2p" not in _listed(of("cp_comm_type")),
)
_FUSED_EXPERTS = Condition(
    "with `activation: swiglu`, one expert-tensor rank, and `NVTE_CUTEDSL_FUSED_GROUPED_MLP=1` in the environment",
    lambda of: (
        of("gated_linear_unit")
        and of("activation_func") is silu
        and (of("expert_tensor_parallel_size") or of("tensor_model_parallel_size")) == 1
        and os.environ.get("NVTE_CUTEDSL_FUSED_GROUPED_MLP") == "1"
    ),
)
_ONE_EXPERT = Condition(
    "with `top_k: 1` where the backend is `te`", lambda of: of("backend") != "te" or of("moe_router_topk") == 1
)


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


_VALUES: Verdicts = {
    "rotary_interleaved": Honored("values", _ATTENTION, when=ROTATED),
    "qk_l2_norm": Honored("values", _ATTENTION, when=_NOT_NORMALIZED),
    "glu_linear_offset": Honored("values", _MLP + _MOE, when=_GATED),
    "activation_func_clamp_value": Honored("values", _MLP + _MOE, when=_GATED),
    "embedding_init_method_std": Honored("values"),
    # The engine rounds the gradient of the logits to bfloat16 (`fusions/fused_cross_entropy.py`), for every dtype.
    "cross_entropy_loss_fusion": Honored("values"),
    "moe_input_jitter_eps": Honored("values", _MOE),
    "moe_apply_probs_on_input": Honored("values", _MOE, when=_ONE_EXPERT),
    "moe_router_force_load_balancing": Honored("values", _MOE),
    "moe_router_force_biased": Honored("values", _MOE),
}
_SHAPES: Verdicts = {
    "attention_output_gate": Honored("shapes", _ATTENTION),
}
_KERNELS: Verdicts = {
    "calculate_per_token_loss": Honored("kernels"),
    "deterministic_mode": Honored("kernels"),
    "recompute_granularity": Honored("kernels"),
    "recompute_modules": Honored("kernels", when=_SELECTIVE),
    "recompute_method": Honored("kernels", when=_FULL),
    "recompute_num_layers": Honored("kernels", when=_FULL),
    "mlp_chunks_for_training": Honored("kernels", _MLP + _MOE),
    "moe_shared_expert_overlap": Honored("kernels", _MOE, when=_SHARED_EXPERTS),
    "deallocate_pipeline_outputs": Honored("kernels", when=_PIPELINE),
    "clone_scatter_output_in_embedding": Honored("kernels", when=_SEQUENCE),
}
_COMMUNICATION: Verdicts = {
    "variable_seq_lengths": Honored("communication", when=_PIPELINE),
    "batch_p2p_sync": Honored("communication", when=_BATCHED),
    "overlap_p2p_comm_warmup_flush": Honored("communication", when=_INTERLEAVED),
    "microbatch_group_size_per_vp_stage": Honored("communication", when=_INTERLEAVED),
    "distribute_saved_activations": Honored("communication", when=_FULL_OVER_TENSOR),
}


def _te(name: str, *, layers: str | None = None, when: Condition | None = None) -> tuple[str, Verdict]:
    """Return the row of a field that only parts of Transformer Engine read."""
    row = Honored("kernels", backends=_TE, when=when)
    return name, row if layers is None else Honored("kernels", layers, _TE, when)


_TRANSFORMER_ENGINE: Verdicts = dict(
    [
        _te("attention_backend", layers=_ATTENTION),
        _te("flash_attention_version", layers=_ATTENTION, when=_FLASH),
        _te("cp_comm_type", layers=_ATTENTION, when=_CONTEXT_GROUP),
        _te("cross_entropy_fusion_impl", when=_FUSED_LOSS),
        _te("disable_parameter_transpose_cache", when=_NARROW),
        _te("symmetric_ar_type", when=_ALL_REDUCED),
        _te("use_transformer_engine_op_fuser", layers=_MOE, when=_FUSED_EXPERTS),
        _te("moe_permute_fusion", layers=_MOE),
        _te("moe_router_fusion", layers=_MOE),
        _te("moe_router_padding_for_quantization", layers=_MOE, when=_NARROW),
        _te("fine_grained_activation_offloading", layers=_OFFLOADING, when=_OFFLOADABLE),
        _te("offload_modules", layers=_OFFLOADING, when=_OFFLOADED),
        _te("min_offloaded_tensor_size", layers=_OFFLOADING, when=_OFFLOADED),
        _te("activation_offload_fraction", layers=_OFFLOADING, when=_SOME_OFFLOADED),
        _te("fine_grained_offloading_max_inflight_offloads", layers=_OFFLOADING, when=_OFFLOADED),
        _te("fp8"),
        _te("fp8_recipe", when=_FP8),
        _te("fp8_margin", when=_DELAYED),
        _te("fp8_amax_history_len", when=_DELAYED),
        _te("fp8_amax_compute_algo", when=_DELAYED),
        _te("fp8_dot_product_attention", layers=_ATTENTION, when=_NARROW_ATTENTION),
        _te("fp8_multi_head_attention", layers=_ATTENTION, when=_DELAYED),
        _te("tp_only_amax_red", when=_DELAYED),
        _te("fp4"),
        _te("first_last_layers_bf16", when=_BY_LAYER),
        _te("num_layers_at_start_in_bf16", when=_ENDS_IN_BF16),
        _te("num_layers_at_end_in_bf16", when=_ENDS_IN_BF16),
    ]
)

HONORED: Final[Verdicts] = {**_VALUES, **_SHAPES, **_KERNELS, **_COMMUNICATION, **_TRANSFORMER_ENGINE}
"""The honored fields."""
