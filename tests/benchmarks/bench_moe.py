"""A model of experts against HF transformers' Mixtral and against the engine's own experts, forward and backward.

Run it with `python -m tests.benchmarks.bench_moe [THREADS]`. All models have the same shapes, stand in one process and
take their turns; printed are tokens per second at the median, the ratio of ours to each, and what part of the machine's
matrix-product peak, measured in the same process and format, ours makes of the products that the model needs. `engine`
is our model with the engine's experts and dispatcher; `engine whole` has its core attention too. Then the mixtures by
themselves, and the memory that a mixture keeps for its backward pass, over growing tokens and top-k.
"""

import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modelwright.config import NoWrap, Parallelism, Precision
from modelwright.distributed import device_runtime, finalize, initialize, unwrapped
from tests.integration.moe_models import MoePartsConfig

BATCH, LENGTH, HIDDEN, LAYERS, VOCABULARY = 4, 512, 512, 4, 1024
TOKENS = BATCH * LENGTH
ROUNDS = 7


class Shape(NamedTuple):
    """Of the experts."""

    experts: int
    topk: int
    ffn: int

    def flops(self) -> float:
        """Of the mixture's matrix products, per token, forward and backward; gated, so three matrices."""
        return 6.0 * HIDDEN * (3 * self.topk * self.ffn + self.experts)


SHAPES = (Shape(8, 2, 704), Shape(64, 8, 128))


def config_of(shape: Shape, *, length: int = LENGTH, layers: int = LAYERS) -> MoePartsConfig:
    return MoePartsConfig(
        pattern="*E" * layers,
        vocab_size=VOCABULARY,
        seq_length=length,
        hidden_size=HIDDEN,
        experts=shape.experts,
        topk=shape.topk,
        expert_ffn=shape.ffn,
        engine={"moe_router_load_balancing_type": "none"},
    )


def specs() -> dict[str, Any]:
    """Ours, with the engine's mixture, and with the engine's attention as well."""
    from megatron.core.transformer.dot_product_attention import DotProductAttention

    from modelwright.layers import (
        AttentionLayerSpec,
        MoeLayerSpec,
        MoeSpec,
        SelfAttentionSpec,
        SequentialExpertsSpec,
        StackSpec,
        as_engine,
    )

    engine = StackSpec(moe=MoeLayerSpec(mlp=MoeSpec(token_dispatcher=None, experts=SequentialExpertsSpec())))
    attention = AttentionLayerSpec(self_attention=SelfAttentionSpec(core_attention=as_engine(DotProductAttention)))
    return {"ours": StackSpec(), "engine": engine, "engine whole": replace(engine, attention=attention)}


def built(config: MoePartsConfig, spec: Any, dtype: str, groups: Any) -> Any:
    from modelwright.builders import builder_for

    (model,) = builder_for(config, spec=spec).build_distributed_models(
        groups, parallelism=Parallelism(), precision=Precision(params=dtype), wrap=NoWrap()
    )
    return model


def transformers_model(shape: Shape, dtype: str) -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=shape.ffn,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=shape.experts,
        num_experts_per_tok=shape.topk,
        max_position_embeddings=LENGTH,
        attn_implementation="sdpa",
        use_cache=False,
    )
    return MixtralForCausalLM(config).to(getattr(torch, dtype))


def model_flops(shape: Shape) -> float:
    """Of all matrix products of a model, per token, forward and backward; attention's scores left out."""
    attention = 6.0 * HIDDEN * (HIDDEN + 2 * HIDDEN // 2 + HIDDEN)
    return LAYERS * (attention + shape.flops()) + 6.0 * HIDDEN * VOCABULARY


def seconds(run: Callable[[], Tensor], module: nn.Module) -> float:
    """Of one forward and one backward."""
    module.zero_grad(set_to_none=True)
    start = time.perf_counter()
    run().backward()
    return time.perf_counter() - start


def medians(runs: dict[str, tuple[Callable[[], Tensor], nn.Module]]) -> dict[str, float]:
    """Seconds of each; they take their turns, another one first in every round."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(ROUNDS + 1):
        order = list(runs)
        for name in order[round_ % len(order) :] + order[: round_ % len(order)]:
            taken[name].append(seconds(*runs[name]))
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def peak(dtype: str) -> float:
    """Operations per second of the best of some products of square matrices."""
    best = 0.0
    for size in (1024, 2048):
        a, b = (torch.randn(size, size).to(getattr(torch, dtype)) for _ in range(2))
        for _ in range(12):
            start = time.perf_counter()
            torch.mm(a, b)
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def show(title: str, found: dict[str, float], flops: float, best: float) -> None:
    rates = "  ".join(f"{name} {TOKENS / time_:6.0f}" for name, time_ in found.items())
    ratios = "  ".join(f"{time_ / found['ours']:.2f} x {name}" for name, time_ in found.items() if name != "ours")
    share = TOKENS * flops / found["ours"] / best
    print(f"{title:44} tokens/s: {rates}   ours is {ratios}   {share:.0%} of peak")


def models(shape: Shape, dtype: str, groups: Any, best: float) -> None:
    tokens, positions = torch.randint(0, VOCABULARY, (BATCH, LENGTH)), torch.arange(LENGTH).expand(BATCH, LENGTH)
    labels = tokens.roll(-1, dims=1)

    def engine_run(model: Any) -> Callable[[], Tensor]:
        return lambda: model(tokens, positions, None, labels=labels).float().mean()

    stages = {name: built(config_of(shape), spec, dtype, groups) for name, spec in specs().items()}
    runs: dict[str, tuple[Callable[[], Tensor], nn.Module]] = {n: (engine_run(m), m) for n, m in stages.items()}
    mixtral = transformers_model(shape, dtype)
    runs["HF"] = (lambda: mixtral(input_ids=tokens, labels=tokens).loss, mixtral)
    title = f"model, {shape.experts} experts top-{shape.topk} x {shape.ffn}, {dtype}"
    show(title, medians(runs), model_flops(shape), best)


def mixture_of(model: Any) -> Any:
    """Of the first layer of experts."""
    stage: Any = unwrapped(model)
    return stage.decoder.layers[1].mlp


def mixtures(shape: Shape, dtype: str, groups: Any, best: float) -> None:
    """The layer of experts alone."""
    hidden = torch.randn(LENGTH, BATCH, HIDDEN).to(getattr(torch, dtype)).requires_grad_()
    outer = torch.randn(LENGTH, BATCH, HIDDEN).to(hidden.dtype)
    runs: dict[str, tuple[Callable[[], Tensor], nn.Module]] = {}
    for name in ("ours", "engine"):
        mixture = mixture_of(built(config_of(shape, layers=1), specs()[name], dtype, groups))
        runs[name] = (lambda m=mixture: (m(hidden)[0] * outer).sum(), mixture)
    title = f"mixture, {shape.experts} experts top-{shape.topk} x {shape.ffn}, {dtype}"
    show(title, medians(runs), shape.flops(), best)


def kept_bytes(mixture: Any, tokens: int) -> int:
    """What a mixture keeps for its backward pass, beside its parameters and its input, each memory counted once."""
    hidden = torch.randn(tokens, 1, HIDDEN, requires_grad=True)
    known = {t.untyped_storage().data_ptr() for t in (hidden, *mixture.parameters())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = mixture(hidden)[0]
    return sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in known) + 0 * output.numel()


def memory(groups: Any) -> None:
    print("kept for the backward pass by one mixture, float32, 16 experts x 128: bytes per token and choice")
    for name in ("ours", "engine"):
        for topk in (1, 2, 4, 8):
            config = config_of(Shape(16, topk, 128), layers=1)
            config = replace(config, engine={**config.engine, "moe_router_pre_softmax": True})
            mixture = mixture_of(built(config, specs()[name], "float32", groups))
            per_choice = [kept_bytes(mixture, tokens) / (tokens * topk) for tokens in (512, 1024, 2048, 4096)]
            line = "  ".join(f"{value:7.0f}" for value in per_choice)
            print(f"  {name:6} top-{topk}: {line}   at 512, 1024, 2048, 4096 tokens")


def main() -> None:
    """Print the tables."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    torch.manual_seed(0)
    with device_runtime():
        groups = initialize(Parallelism())
        for dtype in ("float32", "bfloat16"):
            best = peak(dtype)
            print(f"{dtype}: peak {best / 1e9:.0f} GFLOP/s on {torch.get_num_threads()} threads")
            for shape in SHAPES:
                models(shape, dtype, groups, best)
                mixtures(shape, dtype, groups, best)
        memory(groups)
        finalize()


if __name__ == "__main__":
    main()
