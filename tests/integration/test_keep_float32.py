"""`precision.keep_float32`: every parameter of every family may stay in float32, on one rank and on two."""

import re
from typing import Any

import pytest

from modelwright.config import MegatronDDP, ModelConfig, Parallelism, Precision, RunConfig, TrainConfig, replace
from modelwright.distributed import RankPool
from modelwright.gpt import GPTModelConfig
from modelwright.mamba import MambaModelConfig
from modelwright.moe import LatentAttention, MoeModelConfig

SIZES: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 256, "seq_length": 16}
LATENT = LatentAttention(query_rank=16, key_value_rank=12, head_dim=8, rotary_head_dim=4, value_head_dim=8)
EXPERTS: dict[str, Any] = {"num_experts": 4, "top_k": 2, "expert_ffn_hidden_size": 16}
MODELS: dict[str, ModelConfig] = {
    "gpt": GPTModelConfig(**SIZES, num_layers=2, linear_bias=True, qk_norm=True, normalization="layernorm"),
    "tied": GPTModelConfig(**SIZES, num_layers=2, tie_embeddings=True, position_embedding="learned"),
    "moe": MoeModelConfig(
        **SIZES, **EXPERTS, num_layers=2, first_dense_layers=1, shared_experts=1, shared_expert_gate=True
    ),
    "mla": MoeModelConfig(**SIZES, **EXPERTS, num_layers=2, latent_attention=LATENT, qk_norm=True),
    "hybrid": MambaModelConfig(
        **SIZES,
        **EXPERTS,
        pattern="M*-E",
        mamba_head_dim=8,
        mamba_state_dim=8,
        mamba_bias=True,
        chunk_size=8,
        mamba_num_groups=2,
    ),
}
LAYOUTS = {
    "one rank": Parallelism(),
    "tensor": Parallelism(tensor=2),
    "sequence": Parallelism(tensor=2, sequence=True),
    "pipeline": Parallelism(pipeline=2),
}


def losses_of_each(run: RunConfig) -> dict[str, tuple[str, float, bool]]:
    """Train one step with each parameter alone in float32.

    Returns:
        By pattern of its name: the dtype and the loss, or the error, and True if the parameter had a gradient.
    """
    import torch

    from modelwright.distributed import finalize, initialize, unwrapped
    from modelwright.training import builder_of, make_optimizer, run_batch, synthetic_batch
    from tests.integration.jobs import quiet

    quiet()
    model: Any = run.model
    batch = synthetic_batch(size=2, seq_length=model.seq_length, vocab_size=model.vocab_size, seed=1)
    found: dict[str, tuple[str, float, bool]] = {}

    def step(pattern: str, groups: Any) -> Any:
        precision = Precision(params="bfloat16", keep_float32=(pattern,) if pattern else ())
        (stage,) = builder_of(run).build_distributed_models(
            groups, parallelism=run.parallelism, precision=precision, wrap=run.wrap
        )
        optimizer = make_optimizer([stage], run.train, precision, groups)
        loss = run_batch([stage], batch, groups, run.parallelism, micro_batch=1, optimizer=optimizer)
        kept = {name: one for name, one in unwrapped(stage).named_parameters() if one.dtype == torch.float32}
        moved = all(one.main_grad.float().norm().isfinite() for one in kept.values())  # type: ignore[attr-defined]
        optimizer.step()
        return stage, loss, sorted(kept), moved

    groups = initialize(run.parallelism)
    stage, loss, _, _ = step("", groups)
    names = sorted({re.sub(r"\d+", "*", name) for name, _ in unwrapped(stage).named_parameters()})
    every: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(every, names)
    found[""] = ("bfloat16", loss, True)
    for pattern in sorted({name for names in every for name in names}):
        try:
            _, loss, kept, moved = step(pattern, groups)
            found[pattern] = (f"{len(kept)} kept", loss, moved)
        except Exception as error:  # noqa: BLE001 - the test reports it
            found[pattern] = (f"{type(error).__name__}: {error}"[:200], float("nan"), False)
    finalize()
    return found


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        *((model, "one rank") for model in MODELS),
        ("gpt", "tensor"),
        ("moe", "sequence"),
        ("hybrid", "sequence"),
        ("tied", "pipeline"),
    ],
)
def test_every_parameter_may_stay_in_float32(model: str, layout: str, two_ranks: RankPool) -> None:
    parallelism = LAYOUTS[layout]
    run = RunConfig(
        model=MODELS[model],
        parallelism=parallelism,
        wrap=MegatronDDP(),
        train=TrainConfig(micro_batch=1, global_batch=2),
    )
    for found in two_ranks.run(losses_of_each, run, ranks=parallelism.world_size(), timeout=120):
        _, plain, _ = found.pop("")
        gate = found.pop("decoder.layers.*.mlp.shared_experts.gate_weight", None)
        assert gate is None or gate[0].startswith("PrecisionError: `precision.keep_float32` must not match")
        wrong = {name: one for name, one in found.items() if not (abs(one[1] - plain) < 0.05 and one[2])}
        assert wrong == {}
    assert replace(run) == run
