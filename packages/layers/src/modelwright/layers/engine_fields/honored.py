"""Fields of Megatron-Core's config that `engine:` may set, with what each changes, in which layers and backends.

`tests/integration/test_engine_fields.py` sets each of them for a model with such layers, and compares a step of
training with one without the field. Rows of the backend `te` alone follow from the source of the engine, because they
need a GPU.
"""

from typing import Final

from modelwright.config import ATTENTION, MLA, MLP, MOE
from modelwright.layers.engine_fields.verdict import Condition, Honored, Verdict, Verdicts, setting

_ATTENTION, _MLA, _MLP, _MOE = ATTENTION.symbol, MLA.symbol, MLP.symbol, MOE.symbol
_TE = ("te",)

_PIPELINE = Condition("with `parallelism.pipeline` above 1", lambda of: of("pipeline_model_parallel_size") > 1)
_BATCHED = Condition(
    "with `parallelism.pipeline` above 1 and `virtual_pipeline: 1`",
    lambda of: of("pipeline_model_parallel_size") > 1 and of("batch_p2p_comm"),
)
_INTERLEAVED = Condition(
    "with `parallelism.virtual_pipeline` above 1",
    lambda of: (of("virtual_pipeline_model_parallel_size") or 1) > 1,
)
_CONTEXT = Condition("with `parallelism.context` above 1", lambda of: of("context_parallel_size") > 1)
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
_FP8 = Condition("with `engine.fp8`", lambda of: of("fp8") is not None)
_FP4 = Condition("with `engine.fp4`", lambda of: of("fp4") is not None)
_NARROW = Condition("with `engine.fp8` or `engine.fp4`", lambda of: of("fp8") is not None or of("fp4") is not None)
_ENDS_IN_BF16 = Condition(
    "with `engine.first_last_layers_bf16: true` and `engine.fp8` or `engine.fp4`",
    lambda of: of("first_last_layers_bf16") and (of("fp8") is not None or of("fp4") is not None),
)
_TENSOR = Condition("with `parallelism.tensor` above 1", lambda of: of("tensor_model_parallel_size") > 1)

_VALUES: Verdicts = {
    "rotary_interleaved": Honored("values", _ATTENTION, when=ROTATED),
    "qk_l2_norm": Honored("values", _ATTENTION, when=_NOT_NORMALIZED),
    "glu_linear_offset": Honored("values", _MLP + _MOE, when=_GATED),
    "activation_func_clamp_value": Honored("values", _MLP + _MOE, when=_GATED),
    "embedding_init_method_std": Honored("values"),
    "moe_input_jitter_eps": Honored("values", _MOE),
    "moe_apply_probs_on_input": Honored("values", _MOE),
    "moe_router_force_load_balancing": Honored("values", _MOE),
    "moe_router_force_biased": Honored("values", _MOE),
}
_SHAPES: Verdicts = {
    "attention_output_gate": Honored("shapes", _ATTENTION),
}
_KERNELS: Verdicts = {
    "calculate_per_token_loss": Honored("kernels"),
    "deterministic_mode": Honored("kernels"),
    "cross_entropy_loss_fusion": Honored("kernels"),
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
        _te("attention_backend", layers=_ATTENTION + _MLA),
        _te("flash_attention_version", layers=_ATTENTION + _MLA),
        _te("cp_comm_type", layers=_ATTENTION + _MLA, when=_CONTEXT),
        _te("cross_entropy_fusion_impl", when=_FUSED_LOSS),
        _te("disable_parameter_transpose_cache", when=_NARROW),
        _te("symmetric_ar_type", when=_TENSOR),
        _te("use_transformer_engine_op_fuser", layers=_MOE),
        _te("moe_permute_fusion", layers=_MOE),
        _te("moe_router_fusion", layers=_MOE),
        _te("moe_router_padding_for_quantization", layers=_MOE, when=_NARROW),
        _te("fine_grained_activation_offloading"),
        _te("offload_modules", when=_OFFLOADED),
        _te("min_offloaded_tensor_size", when=_OFFLOADED),
        _te("delta_offload_bytes_across_pp_ranks", when=_OFFLOADED),
        _te("activation_offload_fraction", when=_OFFLOADED),
        _te("fine_grained_offloading_max_inflight_offloads", when=_OFFLOADED),
        _te("fp8"),
        _te("fp8_recipe", when=_FP8),
        _te("fp8_param", when=_FP8),
        _te("fp8_margin", when=_FP8),
        _te("fp8_amax_history_len", when=_FP8),
        _te("fp8_amax_compute_algo", when=_FP8),
        _te("fp8_wgrad", when=_FP8),
        _te("fp8_dot_product_attention", layers=_ATTENTION + _MLA, when=_FP8),
        _te("fp8_multi_head_attention", layers=_ATTENTION + _MLA, when=_FP8),
        _te("tp_only_amax_red", when=_FP8),
        _te("fp4"),
        _te("fp4_recipe", when=_FP4),
        _te("fp4_param", when=_FP4),
        _te("first_last_layers_bf16", when=_NARROW),
        _te("num_layers_at_start_in_bf16", when=_ENDS_IN_BF16),
        _te("num_layers_at_end_in_bf16", when=_ENDS_IN_BF16),
    ]
)

HONORED: Final[Verdicts] = {**_VALUES, **_SHAPES, **_KERNELS, **_COMMUNICATION, **_TRANSFORMER_ENGINE}
"""The honored fields."""
