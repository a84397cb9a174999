"""Windows, sinks, bounds, scales and YaRN: one curve on every layout, and the same logits with a cache."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from megatron.core.inference.contexts import StaticInferenceContext
from torch import Tensor

from modelwright.builders import builder_for
from modelwright.config import (
    DecoderConfig,
    Parallelism,
    Precision,
    RunConfig,
    TrainConfig,
    YarnRopeScaling,
    replace,
)
from modelwright.distributed import finalize, initialize
from modelwright.engine import device_runtime
from modelwright.gpt import GPTModelConfig
from modelwright.mamba import MambaModelConfig
from modelwright.moe import LatentAttention, MoeModelConfig
from modelwright.testing import CurvePoint, RankPool, assert_layout_parity, reference_curve

VARIANTS: dict[str, Any] = {
    "sliding_window": 5,
    "full_attention_every": 2,
    "attention_sinks": "learned",
    "attention_softcap": 4.0,
    "logits_softcap": 8.0,
    "zero_centered_norm": True,
    "init_std": 0.2,
}
ONLY_ATTENTION: dict[str, Any] = {"no_rope_every": 2, "softmax_scale": 0.4}
SIZES: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 256, "seq_length": 32}
YARN = YarnRopeScaling(factor=4.0, original_seq_length=16, beta_fast=4.0)
MODELS: dict[str, DecoderConfig] = {
    "gpt": GPTModelConfig(
        num_layers=4, num_query_groups=2, qk_norm=True, rope_scaling=YARN, **SIZES, **VARIANTS, **ONLY_ATTENTION
    ),
    "mla": MoeModelConfig(
        num_layers=2,
        num_experts=2,
        top_k=2,
        load_balancing="none",
        rope_scaling=replace(YARN, mscale_all_dim=1.0),
        latent_attention=LatentAttention(
            query_rank=16, key_value_rank=16, head_dim=8, rotary_head_dim=4, value_head_dim=8
        ),
        **SIZES,
        **VARIANTS,
    ),
    "hybrid": MambaModelConfig(pattern="M*M*", mamba_head_dim=8, mamba_state_dim=8, chunk_size=8, **SIZES, **VARIANTS),
}
LAYOUTS = {
    "gpt": {
        "tensor 2, sequence": Parallelism(tensor=2, sequence=True),
        "pipeline 2 × virtual 2": Parallelism(pipeline=2, virtual_pipeline=2),
        "context 2": Parallelism(context=2),
    },
    "mla": {"tensor 2, sequence": Parallelism(tensor=2, sequence=True), "context 2": Parallelism(context=2)},
    "hybrid": {"pipeline 2": Parallelism(pipeline=2), "context 2": Parallelism(context=2)},
}


def run_of(model: str) -> RunConfig:
    return RunConfig(model=MODELS[model], train=TrainConfig(steps=3, micro_batch=2, global_batch=8, lr=1e-2))


@pytest.fixture(scope="module")
def one_rank(two_ranks: RankPool) -> dict[str, list[CurvePoint]]:
    return {model: reference_curve(two_ranks, run_of(model)) for model in MODELS}


@pytest.mark.parametrize(("model", "layout"), [(model, layout) for model in LAYOUTS for layout in LAYOUTS[model]])
def test_every_layout_agrees_with_one_rank(
    model: str, layout: str, one_rank: dict[str, list[CurvePoint]], two_ranks: RankPool
) -> None:
    assert_layout_parity(two_ranks, run_of(model), LAYOUTS[model][layout], reference=one_rank[model])


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The groups of a job of one rank."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with device_runtime():
        yield initialize(Parallelism())
        finalize()


def logits(model: Any, tokens_BS: Tensor, start: int, cache: StaticInferenceContext | None) -> Tensor:
    positions = torch.arange(start, start + tokens_BS.size(1)).expand_as(tokens_BS)
    answer: Tensor = model(tokens_BS, positions, None, inference_context=cache, runtime_gather_output=True)
    if cache is not None:
        cache.increment_sequence_len_offset(tokens_BS.size(1))
    return answer


@torch.no_grad()
@pytest.mark.parametrize("model", MODELS)
def test_a_cache_gives_the_same_logits(model: str, alone: Any) -> None:
    """A prompt beyond the window, then token by token: each as the whole text gives it."""
    (built,) = builder_for(MODELS[model]).build_for_inference(alone, parallelism=Parallelism(), precision=Precision())
    tokens = torch.randint(0, 256, (1, 16), generator=torch.Generator().manual_seed(5))
    whole = logits(built, tokens, 0, None)
    cache = StaticInferenceContext(max_batch_size=1, max_sequence_length=16)
    parts = [logits(built, tokens[:, :8], 0, cache)]
    parts += [logits(built, tokens[:, i : i + 1], i, cache) for i in range(8, 16)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("field", sorted({*VARIANTS, *ONLY_ATTENTION} - {"zero_centered_norm"}))
def test_each_variant_changes_the_logits(field: str, alone: Any) -> None:
    """So that the tests above compare something. A new zero-centered norm computes the same as a new norm."""
    default = next(one.default for one in GPTModelConfig.__dataclass_fields__.values() if one.name == field)
    more = {"full_attention_every": None} if field == "sliding_window" else {}
    tokens = torch.randint(0, 256, (1, 16), generator=torch.Generator().manual_seed(5))
    found = []
    for config in (MODELS["gpt"], replace(MODELS["gpt"], **{field: default}, **more)):
        (built,) = builder_for(config).build_for_inference(alone, parallelism=Parallelism(), precision=Precision())
        found.append(logits(built, tokens, 0, None))
    assert not torch.allclose(found[0], found[1], atol=1e-3)
