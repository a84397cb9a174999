"""A model of experts against HF transformers' Mixtral and against the engine's own experts, forward and backward.

Run it with `python -m tests.benchmarks.bench_moe [THREADS]`. Every model stands in a process of its own, as it would in
training, for what one leaves in caches and in the allocator costs the next; they have the same shapes and take their
turns, one at a time, with new tokens in every round. Printed are tokens per second at the median, the ratio of ours to
each, and what part of the machine's matrix-product peak, measured in the same run and format, ours makes of the
products that the model needs. `engine` is our model with the engine's experts and dispatcher; `engine whole` has its
core attention too. `at most` says how many times as fast as each a model could be that spends its time on these
products, at the peak, and on PyTorch's attention, and none on anything else. Then the mixtures by themselves, and the
memory that a mixture keeps for its backward pass, over growing tokens and top-k.
"""

import contextlib
import logging
import multiprocessing
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from modelwright.config import NoWrap, Parallelism, Precision
from modelwright.distributed import finalize, initialize, unwrapped
from modelwright.engine import device_runtime
from modelwright.moe import MoeModelConfig

BATCH, LENGTH, HIDDEN, LAYERS, VOCABULARY = 4, 512, 512, 4, 1024
TOKENS = BATCH * LENGTH
WARM_UP, ROUNDS = 3, 9


class Shape(NamedTuple):
    """Of the experts."""

    experts: int
    topk: int
    ffn: int

    def flops(self) -> float:
        """Of the mixture's matrix products, per token, forward and backward; gated, so three matrices."""
        return 6.0 * HIDDEN * (3 * self.topk * self.ffn + self.experts)


SHAPES = (Shape(8, 2, 704), Shape(64, 8, 128))


def config_of(shape: Shape, *, length: int = LENGTH, layers: int = LAYERS) -> MoeModelConfig:
    return MoeModelConfig(
        num_layers=layers,
        vocab_size=VOCABULARY,
        seq_length=length,
        hidden_size=HIDDEN,
        num_attention_heads=4,
        num_query_groups=2,
        num_experts=shape.experts,
        top_k=shape.topk,
        expert_ffn_hidden_size=shape.ffn,
        load_balancing="none",
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
    )

    engine = StackSpec(moe=MoeLayerSpec(mlp=MoeSpec(token_dispatcher=None, experts=SequentialExpertsSpec())))
    core: Any = DotProductAttention  # its annotations are stricter than the calls
    attention = AttentionLayerSpec(self_attention=SelfAttentionSpec(core_attention=core))
    return {"ours": StackSpec(), "engine": engine, "engine whole": replace(engine, attention=attention)}


def built(config: MoeModelConfig, spec: Any, dtype: str, groups: Any) -> Any:
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


class Job(NamedTuple):
    """What a process measures."""

    side: str
    """`ours`, `engine`, `engine whole` or `HF`."""
    shape: Shape
    dtype: str
    mixture: bool
    """A mixture alone instead of the model."""


def model_step(job: Job, groups: Any) -> Callable[[], float]:
    positions = torch.arange(LENGTH).expand(BATCH, LENGTH)
    if job.side == "HF":
        theirs = transformers_model(job.shape, job.dtype)

        def step() -> float:
            tokens = torch.randint(0, VOCABULARY, (BATCH, LENGTH))
            return seconds(lambda: theirs(input_ids=tokens, labels=tokens).loss, theirs)

        return step
    model = built(config_of(job.shape), specs()[job.side], job.dtype, groups)

    def engine_step() -> float:
        tokens = torch.randint(0, VOCABULARY, (BATCH, LENGTH))
        return seconds(lambda: model(tokens, positions, None, labels=tokens.roll(-1, dims=1)).float().mean(), model)

    return engine_step


def mixture_step(job: Job, groups: Any) -> Callable[[], float]:
    dtype = getattr(torch, job.dtype)
    mixture = mixture_of(built(config_of(job.shape, layers=1), specs()[job.side], job.dtype, groups))

    def step() -> float:
        hidden, outer = (torch.randn(LENGTH, BATCH, HIDDEN).to(dtype) for _ in range(2))
        hidden.requires_grad_()
        return seconds(lambda: torch.sum(mixture(hidden)[0] * outer), mixture)

    return step


def work(turns: Connection, job: Job, threads: int) -> None:
    """In a process of its own: give the seconds of one step whenever asked, until told to stop."""
    quiet()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    with device_runtime() if job.side != "HF" else contextlib.nullcontext():
        groups = initialize(Parallelism()) if job.side != "HF" else None
        step = (mixture_step if job.mixture else model_step)(job, groups)
        turns.send(None)
        while turns.recv():
            turns.send(step())
        if groups is not None:
            finalize()


def medians(jobs: list[Job]) -> dict[str, float]:
    """Seconds of each; they take their turns, another one first in every round."""
    context = multiprocessing.get_context("spawn")
    taken: dict[str, list[float]] = {job.side: [] for job in jobs}
    with contextlib.ExitStack() as stack:
        turns: dict[str, Connection] = {}
        for job in jobs:
            here, there = context.Pipe()
            process = context.Process(target=work, args=(there, job, torch.get_num_threads()))
            process.start()
            there.close()
            stack.callback(process.join)
            stack.callback(here.send, False)
            turns[job.side] = here
        for here in turns.values():
            here.recv()
        for round_ in range(WARM_UP + ROUNDS):
            order = list(turns)
            for side in order[round_ % len(order) :] + order[: round_ % len(order)]:
                turns[side].send(True)
                taken[side].append(turns[side].recv())
    return {side: statistics.median(times[WARM_UP:]) for side, times in taken.items()}


def peak(dtype: str) -> float:
    """Operations per second of the best of some products of square matrices."""
    best = 0.0
    for size in (1024, 2048):
        a, b = (torch.randn(size, size).to(getattr(torch, dtype)) for _ in range(2))
        for _ in range(40):
            start = time.perf_counter()
            torch.mm(a, b)
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def attention_seconds(dtype: str) -> float:
    """Of PyTorch's attention in all layers, forward and backward."""
    heads = {"query": 4, "key": 2, "value": 2}
    shapes = {name: (BATCH, count, LENGTH, HIDDEN // 4) for name, count in heads.items()}
    taken: list[float] = []
    for _ in range(ROUNDS):
        parts = {name: torch.randn(shape).to(getattr(torch, dtype)) for name, shape in shapes.items()}
        outer = torch.randn_like(parts["query"])
        query, key, value = (part.requires_grad_() for part in parts.values())
        start = time.perf_counter()
        scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True).backward(outer)
        taken.append(time.perf_counter() - start)
    return LAYERS * statistics.median(taken)


def show(title: str, found: dict[str, float], flops: float, best: float, besides: float | None = None) -> None:
    others = [side for side in found if side != "ours"]
    rates = "  ".join(f"{name} {TOKENS / time_:6.0f}" for name, time_ in found.items())
    ratios = "  ".join(f"{found[side] / found['ours']:.2f} x {side}" for side in others)
    least = TOKENS * flops / best
    print(f"{title:44} tokens/s: {rates}   ours is {ratios}   {least / found['ours']:.0%} of peak")
    if besides is not None:
        print(f"{'':44} at most " + "  ".join(f"{found[side] / (least + besides):.2f} x {side}" for side in others))


def models(shape: Shape, dtype: str, best: float) -> None:
    found = medians([Job(side, shape, dtype, mixture=False) for side in (*specs(), "HF")])
    title = f"model, {shape.experts} experts top-{shape.topk} x {shape.ffn}, {dtype}"
    show(title, found, model_flops(shape), best, attention_seconds(dtype))


def mixture_of(model: Any) -> Any:
    """Of the first layer of experts."""
    stage: Any = unwrapped(model)
    return stage.decoder.layers[1].mlp


def mixtures(shape: Shape, dtype: str, best: float) -> None:
    """The layer of experts alone."""
    found = medians([Job(side, shape, dtype, mixture=True) for side in ("ours", "engine")])
    show(f"mixture, {shape.experts} experts top-{shape.topk} x {shape.ffn}, {dtype}", found, shape.flops(), best)


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


def quiet() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def main() -> None:
    """Print the tables."""
    quiet()
    os.environ["PYTHONWARNINGS"] = "ignore"  # for the processes
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    torch.manual_seed(0)
    for dtype in ("float32", "bfloat16"):
        best = peak(dtype)
        print(f"{dtype}: peak {best / 1e9:.0f} GFLOP/s on {torch.get_num_threads()} threads")
        for shape in SHAPES:
            models(shape, dtype, best)
            mixtures(shape, dtype, best)
    with device_runtime():
        memory(initialize(Parallelism()))
        finalize()


if __name__ == "__main__":
    main()
