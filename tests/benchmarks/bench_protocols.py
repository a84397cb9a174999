"""What modelwright.protocols costs: importing it, checking a part, and a model built through adapted builders.

`python tests/benchmarks/bench_protocols.py` prints the figures and what each should be; nothing is asserted, because a
loaded machine would fail it. Runs of the two sides alternate, and each figure is the median of many.
"""

import functools
import logging
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any


def import_times(repeat: int = 15) -> dict[str, float]:
    """Milliseconds that a fresh interpreter takes for each statement, more than for none."""
    statements = {
        "nothing": "pass",
        "import modelwright.protocols": "import modelwright.protocols",
        "one Builder": "from modelwright.protocols import MlpBuilder",
        "check_conformance": "from modelwright.protocols import check_conformance",
        "every name": "import modelwright.protocols as p; [getattr(p, name) for name in p.__all__]",
    }
    taken: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(repeat):
        for name, statement in statements.items():
            taken[name].append(_seconds(lambda text=statement: _python(text)))  # type: ignore[misc]
    engine = _seconds(lambda: _python("from megatron.core.transformer.transformer_layer import MlpBuilder"))
    medians = {name: 1e3 * statistics.median(times) for name, times in taken.items()}
    return {name: medians[name] - medians["nothing"] for name in statements if name != "nothing"} | {
        "the engine's MlpBuilder": 1e3 * engine - medians["nothing"]
    }


def _python(statement: str) -> None:
    subprocess.run([sys.executable, "-I", "-W", "ignore", "-c", statement], check=True, capture_output=True)


def _seconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def conformance_times(repeat: int = 2000) -> dict[str, float]:
    """Microseconds of one call, for each kind of candidate."""
    from modelwright.layers import MlpSpec, SdpaCoreAttention, TorchNorm
    from modelwright.protocols import CoreAttentionBuilder, MlpBuilder, NormBuilder, adapt, check_conformance

    candidates: dict[str, tuple[type[object], Any]] = {
        "a class": (CoreAttentionBuilder, SdpaCoreAttention),
        "a small class": (NormBuilder, TorchNorm),
        "a partial": (CoreAttentionBuilder, functools.partial(SdpaCoreAttention, softmax_scale=1.0)),
        "a spec": (MlpBuilder, MlpSpec()),
        "an adapted class": (NormBuilder, adapt(TorchNorm, derive={"eps": "config.layernorm_epsilon"}, drop=("eps",))),
    }
    return {
        name: 1e6 * statistics.median(_seconds(lambda s=slot, c=part: check_conformance(s, c)) for _ in range(repeat))  # type: ignore[misc]
        for name, (slot, part) in candidates.items()
    }


def forward_ratios(rounds: int = 60) -> dict[str, float]:
    """CPU time of one forward over that of a model built by hand: through adapted builders, and by hand once more."""
    import torch

    from modelwright.config import Parallelism
    from modelwright.distributed import finalize, initialize
    from modelwright.engine import device_runtime
    from modelwright.gpt import GPTModelBuilder, GPTModelConfig
    from modelwright.layers import AttentionLayerSpec, MlpLayerSpec, StackSpec, TorchNorm
    from modelwright.protocols import adapt

    torch.set_num_threads(1)
    config = GPTModelConfig(num_layers=4, hidden_size=128, num_attention_heads=8, vocab_size=256, seq_length=128)
    norm = adapt(TorchNorm, drop=("eps",), derive={"eps": "config.layernorm_epsilon"})
    mlp = adapt(MlpLayerSpec().mlp, drop=("name",))
    adapted = StackSpec(
        attention=AttentionLayerSpec(input_layernorm=norm),
        mlp=MlpLayerSpec(pre_mlp_layernorm=norm, mlp=mlp),
        final_norm=norm,
    )
    specs = {"by hand": StackSpec(), "through adapted builders": adapted, "by hand once more": StackSpec()}
    tokens = torch.arange(4 * 128).reshape(4, 128) % 256
    positions = torch.arange(128)[None].expand(4, 128)
    with device_runtime(), torch.no_grad():
        groups = initialize(Parallelism())
        models = {name: _model(GPTModelBuilder(config, spec=spec), groups) for name, spec in specs.items()}
        kinds = {name: [type(module) for module in model.modules()] for name, model in models.items()}
        if any(found != kinds["by hand"] for found in kinds.values()):
            raise RuntimeError("the models are not made of the same classes")
        taken: dict[str, list[float]] = {name: [] for name in models}
        for round_ in range(rounds):
            names = list(models)
            for name in names[round_ % 3 :] + names[: round_ % 3]:
                begin = time.process_time()
                models[name](tokens, positions, None)
                taken[name].append(time.process_time() - begin)
        finalize()
    medians = {name: statistics.median(times[3:]) for name, times in taken.items()}
    return {name: medians[name] / medians["by hand"] for name in medians if name != "by hand"}


def _model(builder: Any, groups: Any) -> Any:
    from modelwright.config import NoWrap, Parallelism, Precision

    options = {"parallelism": Parallelism(), "precision": Precision(), "wrap": NoWrap(), "seed": 1}
    (stage,) = builder.build_distributed_models(groups, **options)
    return stage.eval()


def main() -> None:
    """Print everything."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    imports = import_times()
    print("import, ms over a bare interpreter (aim: modelwright.protocols under 25)")
    for name, value in imports.items():
        print(f"  {name:30} {value:10.1f}")
    ratio = imports["the engine's MlpBuilder"] / max(imports["one Builder"], 0.1)
    print(f"  one Builder: the engine's takes {ratio:.0f} times as long as ours")
    print("check_conformance, µs a call (aim: under 200)")
    for name, value in conformance_times().items():
        print(f"  {name:30} {value:10.1f}")
    print(
        "CPU time of a forward of a GPT, over one that was built by hand (aim: 1 ± 0.02); modules of the same classes"
    )
    for name, value in forward_ratios().items():
        print(f"  {name:30} {value:10.3f}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
