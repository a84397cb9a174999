"""Configs beside upstream's, in one run: dictionary and back, import, and a 100 KB file.

    OMP_NUM_THREADS=1 uv run python tests/benchmarks/bench_config.py

Both sides describe the same GPT. Each number is the best of several rounds that take turns, so that what else runs on
the machine hits both alike. Ours validates everything on the way in; upstream's does not.
"""

import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

ROUNDS, TIMES = 15, 40


def best(functions: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Seconds of one call of each, the best of rounds that take turns."""
    found = dict.fromkeys(functions, float("inf"))
    for _ in range(ROUNDS):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(TIMES):
                function()
            found[name] = min(found[name], (time.perf_counter() - start) / TIMES)
    return found


def import_seconds(code: str) -> float:
    """Of a fresh interpreter, the best of several."""
    return min(_seconds([sys.executable, "-c", code]) for _ in range(7))


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def hundred_kilobytes() -> str:
    """A valid file of 100 KB."""
    lines = [
        "kind: gpt",
        "num_layers: 2",
        "hidden_size: 64",
        "num_attention_heads: 4",
        "vocab_size: 9",
        "seq_length: 9",
    ]
    return "\n".join([*lines, "engine:", *(f"  field_{number}: [1, 2, {number}.5]" for number in range(3500))]) + "\n"


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    from megatron.core.transformer import TransformerConfig
    from megatron.training.models import GPTModelConfig as Theirs
    from torch.nn import functional as F

    from modelwright.config import loads
    from modelwright.gpt import GPTModelConfig as Ours

    sizes: dict[str, Any] = {"num_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_query_groups": 8}
    engine = TransformerConfig(**sizes, ffn_hidden_size=14336, activation_func=F.silu, gated_linear_unit=True)
    theirs = Theirs(transformer=engine, vocab_size=128256, seq_length=8192, position_embedding_type="rope")
    ours = Ours(**sizes, ffn_hidden_size=14336, vocab_size=128256, seq_length=8192)
    dumped, upstream = ours.as_dict(), theirs.as_dict()
    found = best(
        {
            "dump, ours": ours.as_dict,
            "dump, upstream": theirs.as_dict,
            "load, ours": lambda: Ours.from_dict(dumped),
            "load, upstream": lambda: Theirs.from_dict(upstream),
        }
    )
    say = sys.stdout.write
    for what in ("dump", "load"):
        mine, other = found[f"{what}, ours"] * 1e6, found[f"{what}, upstream"] * 1e6
        say(f"{what}: ours {mine:.0f} µs, upstream {other:.0f} µs, upstream takes {other / mine:.2f} × as long\n")
    bare, loaded = import_seconds("pass"), import_seconds("import modelwright.config")
    say(f"import modelwright.config: {(loaded - bare) * 1e3:.0f} ms over bare Python (limit 350)\n")
    text = hundred_kilobytes()
    start = time.perf_counter()
    loads(text)
    say(f"a YAML file of {len(text) / 1000:.0f} KB: {time.perf_counter() - start:.2f} s (limit 2)\n")


if __name__ == "__main__":
    main()
