"""A whole Mamba-2 against HF transformers' on its PyTorch path, and against the GPT family, forward and backward.

Run it with `python -m tests.benchmarks.bench_mamba [THREADS]`. All models have 4 layers × 512 hidden and stand in one
process; they take their turns, and the medians are printed in tokens per second. Of the GPT family it is the product of
tokens and parameters per second that is compared, so that the larger model is not called slow. The share of the peak
counts the products of the algorithm (2 per multiply and add, backward twice forward) against a matrix product of 2048.
Then ours over growing lengths, and the cost of one generated token after growing numbers of tokens. First of all, the
peak memory of one pass over 8,192 tokens in fresh processes, with the system's allocator as it comes.
"""

import logging
import multiprocessing
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.config import NoWrap, Parallelism, Precision, replace
from modelwright.gpt import GPTModelConfig
from modelwright.mamba import MambaModelConfig

LAYERS, HIDDEN, HEADS, HEAD_SIZE, STATE, VOCABULARY, CHUNK = 4, 512, 16, 64, 64, 256, 64
MODEL = MambaModelConfig(
    num_layers=LAYERS, hidden_size=HIDDEN, mamba_state_dim=STATE, mamba_head_dim=HEAD_SIZE, chunk_size=CHUNK,
    vocab_size=VOCABULARY, seq_length=16384,
)  # fmt: skip
GPT = GPTModelConfig(
    num_layers=LAYERS, hidden_size=HIDDEN, num_attention_heads=8, vocab_size=VOCABULARY, seq_length=16384
)
ROUNDS = 5
type Loss = Callable[[Tensor], Tensor]


def built(config: Any) -> tuple[nn.Module, Loss]:
    """One of ours, and its mean loss on tokens [b, s]."""
    from modelwright.builders import builder_for
    from modelwright.distributed import initialize

    groups = initialize(Parallelism())
    (model,) = builder_for(config).build_distributed_models(
        groups, parallelism=Parallelism(), precision=Precision(), wrap=NoWrap()
    )

    def loss(tokens_BS: Tensor) -> Tensor:
        positions = torch.arange(tokens_BS.size(1)).expand_as(tokens_BS)
        found: Tensor = model(tokens_BS, positions, None, labels=tokens_BS).mean()
        return found

    return model, loss


def theirs() -> tuple[nn.Module, Loss]:
    """That of transformers."""
    from transformers import Mamba2Config, Mamba2ForCausalLM

    model = Mamba2ForCausalLM(
        Mamba2Config(
            vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=LAYERS, state_size=STATE, head_dim=HEAD_SIZE,
            num_heads=HEADS, n_groups=1, chunk_size=CHUNK, tie_word_embeddings=False, residual_in_fp32=False,
            use_cache=False,
        )
    )  # fmt: skip

    def loss(tokens_BS: Tensor) -> Tensor:
        logits_BSV: Tensor = model(tokens_BS).logits
        return nn.functional.cross_entropy(logits_BSV.flatten(0, 1), tokens_BS.flatten())

    return model, loss


def once(model: nn.Module, loss: Loss, tokens_BS: Tensor) -> float:
    """Seconds of one forward and backward."""
    model.zero_grad(set_to_none=True)
    start = time.perf_counter()
    loss(tokens_BS).backward()
    return time.perf_counter() - start


def tokens(batch: int, length: int) -> Tensor:
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(0))


def products(parameters: int) -> float:
    """Multiplications of one token, forward: its weights, and per layer what a chunk and its states take."""
    inside = CHUNK / 2 * (STATE + HEADS * HEAD_SIZE)  # scores of one group, then a mixture of values per head
    states = 2 * STATE * HEADS * HEAD_SIZE  # into the state of the chunk and out of it
    return parameters + LAYERS * (inside + states)


def peak() -> float:
    """Floating-point operations per second of a matrix product of 2048."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    times: list[float] = []
    for _ in range(8):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(times)


def against_others() -> None:
    models = {"ours": built(MODEL), "HF Mamba-2": theirs(), "our GPT": built(GPT)}
    given = tokens(4, 512)
    rounds = [{name: once(*model, given) for name, model in models.items()} for _ in range(ROUNDS + 1)][1:]
    speed = {name: given.numel() / statistics.median(one[name] for one in rounds) for name in models}
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, (model, _) in models.items()}
    print("4 x 512 tokens, forward and backward, float32")
    for name, found in speed.items():
        print(f"{name:10} {found:8,.0f} tokens/s  {sizes[name]:11,} parameters")
    ratio = statistics.median(one["HF Mamba-2"] / one["ours"] for one in rounds)
    by_size = statistics.median(one["our GPT"] * sizes["ours"] / (one["ours"] * sizes["our GPT"]) for one in rounds)
    print(f"ours / HF: {ratio:.2f}")
    print(f"ours / our GPT, tokens x parameters per second: {by_size:.2f}")
    reached = 6 * products(sizes["ours"]) * speed["ours"] / peak()
    print(f"share of the matrix-product peak: {100 * reached:.0f} %")


def over_lengths() -> None:
    model, loss = built(MODEL)
    lengths = (2048, 4096, 8192, 16384)
    rounds = [{length: length / once(model, loss, tokens(1, length)) for length in lengths} for _ in range(ROUNDS)]
    found = {length: statistics.median(one[length] for one in rounds) for length in lengths}
    for length, speed in found.items():
        print(f"length {length:6,}: {speed:6,.0f} tokens/s, {speed / found[2048]:.2f} of that at 2,048")


def grown(side: str) -> float:
    """Bytes by which one pass over 8,192 tokens raises the peak of this process."""
    from modelwright.engine import device_runtime

    quiet()
    with device_runtime():
        model, loss = theirs() if side == "HF" else built(MODEL)
        once(model, loss, tokens(1, 16))  # what is made once for good
        before = highest()
        once(model, loss, tokens(1, 8192))
        return highest() - before


def highest() -> int:
    """Bytes that this process held at most; `ru_maxrss` would begin with those of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1))


def memory() -> None:
    found: dict[str, float] = {}
    for side in ("ours", "HF"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[side] = pool.apply(grown, (side,))
    print(
        f"8,192 tokens, peak above the model: ours {found['ours'] / 1e6:,.0f} MB, HF {found['HF'] / 1e6:,.0f} MB; "
        f"ours / HF {found['ours'] / found['HF']:.2f}"
    )


@torch.no_grad()
def generation() -> None:
    from megatron.core.inference.contexts import StaticInferenceContext

    model, _ = built(replace(MODEL, seq_length=2048))
    cache, done = StaticInferenceContext(max_batch_size=1, max_sequence_length=8192), 0
    for until in (500, 1000, 2000, 4000):
        times: list[float] = []
        while done < until:
            start = time.perf_counter()
            model.eval()(tokens(1, 1), torch.tensor([[done]]), None, inference_context=cache)
            cache.increment_sequence_len_offset(1)
            times.append(time.perf_counter() - start)
            done += 1
        print(f"generation, tokens up to {until:5,}: {1e3 * statistics.median(times):.2f} ms per token (median)")


def quiet() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)


def as_a_rank() -> None:
    """What stands in one process, which keeps the memory that it freed, as every rank that `modelwright` starts."""
    from modelwright.engine import device_runtime

    quiet()
    with device_runtime():
        against_others()
        over_lengths()
        generation()


if __name__ == "__main__":
    from modelwright.training import launch

    quiet()
    memory()
    launch(as_a_rank, ranks=1, threads=torch.get_num_threads())
