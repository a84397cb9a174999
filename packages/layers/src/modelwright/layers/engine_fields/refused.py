"""Fields of Megatron-Core's config that `engine:` must not set, by the reason, with what to use instead.

Nothing in a model of modelwright reads these fields, or what reads them cannot work there.
"""

from typing import Final

from modelwright.layers.engine_fields.verdict import Refused, Verdicts

_GROUPS: tuple[tuple[Refused, tuple[str, ...]], ...] = (
    (
        Refused("a config cannot contain a function or an object"),
        (
            "timers", "finalize_model_grads_func", "grad_scale_func", "moe_grad_scale_func", "mtp_grad_scale_func",
            "no_sync_func", "grad_sync_func", "param_sync_func", "experimental_attention_variant_loss_scale_func",
            "embedding_init_method", "quant_recipe",
        ),
    ),
    (
        Refused("modelwright makes the process groups itself, without these", "use the axes of `parallelism`"),
        (
            "tensor_parallel_num_weight_shards", "gtp_weight_remat_size", "expert_tensor_parallel_num_weight_shards",
            "expert_gtp_weight_remat_size", "pipeline_model_parallel_comm_backend",
            "hierarchical_context_parallel_sizes", "max_seqlen_per_dp_cp_rank", "hybrid_context_parallel",
        ),
    ),
    (
        Refused("only the engine's training script, which modelwright does not run, reads it or makes what it needs"),
        (
            "use_te_rng_tracker", "inference_rng_tracker", "barrier_with_L1_time", "qk_clip", "qk_clip_alpha",
            "qk_clip_threshold", "log_max_attention_logit", "tp_comm_overlap", "tp_comm_bulk_wgrad",
            "tp_comm_bulk_dgrad", "tp_comm_overlap_ag", "tp_comm_overlap_rs", "tp_comm_overlap_rs_dgrad",
            "tp_comm_split_ag", "tp_comm_atomic_ag", "tp_comm_split_rs", "tp_comm_atomic_rs",
            "tp_comm_overlap_disable_qkv", "tp_comm_overlap_disable_fc1", "tp_comm_bootstrap_backend",
        ),
    ),
    (
        Refused(
            "only the engine's `GPTModel` and `TransformerBlock` read it, and every model here is a `HybridModel`",
        ),
        (
            "overlap_moe_expert_parallel_comm", "delay_wgrad_compute", "overlap_dispatch_backward_with_experts_wgrad",
            "ep_overlap_early_attn_memory_release", "high_priority_a2a_comm_stream", "defer_embedding_wgrad_compute",
            "wgrad_deferral_limit", "heterogeneous_block_specs", "hetereogenous_dist_checkpoint", "mrope_section",
            "linear_attention_freq", "mla_down_proj_fusion",
        ),
    ),
    (
        Refused(
            "only the engine's `TransformerBlock` reads it, and every model here is a `HybridModel`",
            "use `engine.recompute_granularity` to save memory",
        ),
        (
            "cpu_offloading", "cpu_offloading_num_layers", "cpu_offloading_activations", "cpu_offloading_weights",
            "cpu_offloading_double_buffering", "cpu_offloading_retain_pinned_cpu_buffers",
        ),
    ),
    (
        Refused(
            "it is for the engine's own pipeline split, which the pattern of a `HybridModel` replaces",
            "use `parallelism.stages`",
        ),
        (
            "num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage", "pipeline_model_parallel_layout",
            "account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split",
        ),
    ),
    (
        Refused("no layer pattern of modelwright has multi-token prediction yet"),
        (
            "mtp_num_layers", "mtp_loss_scaling_factor", "mtp_use_repeated_layer", "mtp_detach_heads",
            "mtp_hybrid_override_pattern", "mtp_standalone",
        ),
    ),
    (
        Refused("it belongs to sparse attention (`D`) or the gated delta net (`G`), which no spec can build yet"),
        (
            "experimental_attention_variant", "dsa_indexer_n_heads", "dsa_indexer_head_dim", "dsa_indexer_topk",
            "dsa_indexer_topk_freq", "dsa_indexer_skip_topk_offset", "dsa_indexer_loss_coeff",
            "dsa_indexer_use_sparse_loss", "dsa_kernel_backend", "dsa_indexer_rope_interleaved",
            "dsa_indexer_rotate_activation", "dsa_indexer_scoring_relu", "dsa_indexer_k_norm_epsilon",
            "dsa_indexer_k_norm_fp32", "linear_conv_kernel_dim", "linear_key_head_dim", "linear_value_head_dim",
            "linear_num_key_heads", "linear_num_value_heads",
        ),
    ),
    (
        Refused("only the engine's unfused core attention reads it, which no backend uses"),
        ("attention_softmax_in_fp32",),
    ),
    (
        Refused("the engine only compares it with an environment variable of Transformer Engine"),
        ("apply_query_key_layer_scaling",),
    ),
    (
        Refused(
            "every layer computes in the dtype of its parameters, which a residual in float32 does not have",
            "use `precision.params: float32`, or leave it out",
        ),
        ("fp32_residual_connection",),
    ),
    (
        Refused("`precision` decides the dtype of the whole computation", "use `precision.params`"),
        ("enable_autocast",),
    ),
    (
        Refused("the engine would set it for every model of the process", "set the flag of torch in your program"),
        ("disable_bf16_reduced_precision_matmul",),
    ),
    (
        Refused(
            "Transformer Engine makes narrow parameters while a part is built, from values that are drawn afterwards",
            "use `engine.fp8` or `engine.fp4`, which keep parameters in `precision.params`",
        ),
        ("fp8_param", "fp4_param"),
    ),
    (
        Refused("Transformer Engine 2 has no precision of a single product and ignores it"),
        ("fp8_wgrad",),
    ),
    (
        Refused(
            "the engine loses count of the offloaded activations of a pipeline rank that keeps the first of them",
            "use `engine.activation_offload_fraction`",
        ),
        ("delta_offload_bytes_across_pp_ranks",),
    ),
    (
        Refused("its only other value needs a field that is refused", "use `engine.fp4`"),
        ("fp4_recipe",),
    ),
    (
        Refused(
            "the learning rates and initial values that belong to this parametrization are set for nothing else",
            "set `init_std` and `train.lr` for the width",
        ),
        (
            "use_mup", "mup_width_mult", "mup_base_hidden_size", "mup_embedding_mult", "mup_output_mult",
            "mup_base_head_dim", "mup_attn_scale_power",
        ),
    ),
    (
        Refused("it belongs to a fusion that modelwright turns off, or to a part that no backend uses"),
        (
            "activation_func_fp8_input_store", "memory_efficient_layer_norm", "use_fused_weighted_squared_relu",
            "fused_single_qkv_rope", "fused_residual_rmsnorm", "use_te_activation_func", "fp8_output_proj",
            "moe_grouped_gemm", "moe_single_grouped_weight", "moe_single_grouped_bias",
            "use_grouped_gemm_for_dense_mlp", "use_grouped_gemm_for_shared_expert", "moe_mlp_glu_interleave_size",
            "moe_shared_expert_glu_interleave_size", "use_kitchen", "use_kitchen_attention",
            "kitchen_attention_backend",
        ),
    ),
    (
        Refused("the engine computes nothing with it"),
        (
            "apply_residual_connection_post_layernorm", "test_mode", "moe_token_dropping", "moe_per_layer_logging",
            "fp8_interval",
        ),
    ),
    (
        Refused("it is an old name of another field", "use that field: the engine's documentation names it"),
        (
            "moe_router_topk_limited_devices", "moe_router_padding_for_fp8", "moe_enable_deepep", "moe_deepep_num_sms",
            "moe_hybridep_num_sms", "enable_cuda_graph", "external_cuda_graph", "cuda_graph_scope",
        ),
    ),
    (
        Refused(
            "it is an old name of a value of `engine.recompute_modules`",
            "use `engine.recompute_granularity: selective` with `engine.recompute_modules: [moe]`",
        ),
        ("moe_layer_recompute",),
    ),
    (
        Refused("the layers come from the pattern", "use `moe_every` and `first_dense_layers`, or `pattern`"),
        ("moe_layer_freq",),
    ),
    (
        Refused(
            "it belongs to the engine's `flex` token dispatcher, which `dispatcher` does not offer",
            "use `dispatcher: alltoall`",
        ),
        (
            "moe_flex_dispatcher_backend", "moe_flex_dispatcher_num_sms", "moe_permute_fusion_into_hybridep",
            "moe_hybridep_pad_uneven_dispatch_inputs", "moe_hybridep_num_blocks_permute",
            "moe_hybridep_num_blocks_unpermute", "moe_hybridep_num_sms_preprocessing", "moe_ncclep_static_shape",
            "moe_ncclep_zero_copy", "moe_expert_rank_capacity_factor", "moe_paged_stash", "moe_paged_stash_page_size",
            "moe_paged_stash_buffer_size_factor_cuda", "moe_paged_stash_buffer_size_factor_cpu",
        ),
    ),
    (
        Refused("it belongs to a balancing by quantiles, which `load_balancing` does not offer"),
        ("moe_router_quantile_balancing_ema",),
    ),
    (
        Refused("nothing calls the replay of routing decisions", "use a `RoutingRecorder` to read them"),
        ("moe_enable_routing_replay",),
    ),
    (
        Refused("CUDA graphs need a generator of random numbers that modelwright does not install"),
        (
            "cuda_graph_impl", "cuda_graph_modules", "cuda_graph_use_single_mempool",
            "cuda_graph_retain_backward_graph", "cuda_graph_warmup_steps", "inference_cuda_graph_scope",
            "delay_offload_until_cuda_graph",
        ),
    ),
    (
        Refused("only the engine's inference server reads it, and `modelwright generate` does not use that"),
        (
            "flash_decode", "batch_invariant_mode", "inference_sampling_seed", "nccl_all_reduce_for_prefill",
            "use_inference_optimized_layers", "inference_fuse_tp_communication",
            "inference_disable_triton_nvls_kernels", "inference_grouped_gemm_backend",
            "inference_moe_disable_fused_quant_kernels", "inference_moe_token_dispatcher_type",
            "moe_pad_experts_for_cuda_graph_inference", "mlp_chunks_for_prefill", "cache_mla_latents",
        ),
    ),
    (
        Refused("it names code by an import path, and a config never imports what data names"),
        ("fp8_quantizer_factory", "fp4_quantizer_factory"),
    ),
    (
        Refused("it needs `torch.distributed.ring_exchange`, which released builds of torch do not have"),
        ("use_ring_exchange_p2p",),
    ),
    (
        Refused(
            "the engine would pass it to a forward step of the engine's own form",
            "use `engine.recompute_granularity` to save memory",
        ),
        ("num_microbatches_with_partial_activation_checkpoints",),
    ),
    (
        Refused("the engine would write its process groups to a file, and cannot", "use `modelwright config show`"),
        ("config_logger_dir",),
    ),
    (
        Refused("a builder decides about the meta device", "pass `meta=True` to the builder"),
        ("init_model_with_meta_device",),
    ),
    (
        Refused("the parts that are built decide about it", "use `backend` of the run"),
        ("transformer_impl",),
    ),
    (
        Refused("only the engine's own Mamba-2 mixer reads it", "use `kernels` of the model"),
        ("mamba_training_ssm_states_dtype", "use_mamba_mem_eff_path"),
    ),
)  # fmt: skip

REFUSED: Final[Verdicts] = {name: refused for refused, names in _GROUPS for name in names}
"""The refused fields."""
