"""The backend `te`: tests without a GPU, and tests that need one.

Without: its parts fit their slots as the engine's source declares them, and checkpoints and initial values are those of
the backend `torch`, seen on stand-ins that hold what Transformer Engine's parts hold (`te_parts.py`). The tests marked
`gpu` need Transformer Engine itself; docs/gpu.md lists them.
"""

import ast
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modelwright.config import (
    MegatronDDP,
    MegatronFSDP,
    NoWrap,
    Parallelism,
    Precision,
    RunConfig,
    TorchFSDP2,
    TrainConfig,
    Wrap,
    replace,
)
from modelwright.gpt import GPTModelConfig
from modelwright.protocols import (
    CoreAttentionBuilder,
    GroupedLinearFc1Builder,
    GroupedLinearFc2Builder,
    LinearFc1Builder,
    LinearFc2Builder,
    LinearProjBuilder,
    LinearQkvBuilder,
    NormBuilder,
    check_conformance,
)
from modelwright.testing import RankPool
from tests.integration.command import modelwright
from tests.integration.jobs import TINY
from tests.messages import facts
from tests.policies.engine_source import classes, engine_folder

RUN = RunConfig(model=TINY, train=TrainConfig(steps=8, micro_batch=2, global_batch=8, lr=1e-2))
CONFIGS = {
    "rmsnorm": replace(TINY, qk_norm=True),
    "layernorm": replace(TINY, normalization="layernorm", linear_bias=True, activation="gelu"),
}
type Curve = list[tuple[float, float]]


def spec_of(config: GPTModelConfig, *, fused: bool) -> Any:
    from modelwright.layers import TORCH, decoder_stack
    from tests.integration.te_parts import STAND_IN

    return decoder_stack(config, STAND_IN if fused else TORCH)


def curve(run: RunConfig, fused: bool, folder: Path | None = None, resume: Path | None = None) -> Curve:
    """Loss and gradient norm of every step."""
    from modelwright.training import train

    assert isinstance(run.model, GPTModelConfig)
    records = train(run, spec=spec_of(run.model, fused=fused), out=folder, resume=resume)
    return [(record.loss, record.grad_norm) for record in records]


def whole_weights(config: GPTModelConfig, fused: bool) -> dict[str, Tensor]:
    """Every weight as it is drawn, by its name in the whole model, on one rank."""
    from modelwright.builders import builder_for
    from modelwright.distributed import initialize, local_shards

    groups = initialize(Parallelism())
    builder = builder_for(config, spec=spec_of(config, fused=fused))
    (model,) = builder.build_for_inference(groups, parallelism=Parallelism(), precision=Precision())
    return {f"{shard.key}/{shard.global_offset}": local.clone() for shard, local in local_shards(model, groups)}


def logits_of(config: GPTModelConfig, fused: bool, folder: Path) -> Tensor:
    """[b, s, v] on one rank with the weights of the newest checkpoint."""
    from modelwright.builders import builder_for
    from modelwright.distributed import initialize
    from modelwright.training import TrainState, latest_checkpoint, load_checkpoint

    groups = initialize(Parallelism())
    builder = builder_for(config, spec=spec_of(config, fused=fused))
    stages = builder.build_for_inference(groups, parallelism=Parallelism(), precision=Precision(), seed=5)
    load_checkpoint(TrainState(stages, groups), latest_checkpoint(folder)[1])
    return answered(stages[0])


def answered(model: Any) -> Tensor:
    device = next(model.parameters()).device
    tokens_BS = torch.arange(64, device=device)[None] * 7 % 256
    with torch.no_grad():
        answer: Tensor = model(tokens_BS, torch.arange(64, device=device)[None], None)
    return answer.cpu()


def close(found: Curve, expected: Curve, tolerance: float = 1e-4) -> bool:
    pairs = zip(found, expected, strict=True)
    return all(abs(a - b) <= tolerance for one, other in pairs for a, b in zip(one, other, strict=True))


def missing_here() -> list[str]:
    from modelwright.layers import missing_for_te

    return missing_for_te()


# Without a GPU.


def declared(name: str) -> type:
    """A class of the engine's extension with the signatures that its source declares, and nothing behind them."""
    found = {node.name: node for file, node in classes(engine_folder()) if file == "extensions/transformer_engine.py"}
    methods: dict[str, ast.FunctionDef] = {}
    while name in found:
        for item in found[name].body:
            if isinstance(item, ast.FunctionDef) and item.name in ("__init__", "__new__", "forward"):
                methods.setdefault(item.name, item)
        name = ast.unparse(found[name].bases[0]) if found[name].bases else ""
    for method in methods.values():
        method.body, method.decorator_list, method.returns = [ast.Expr(ast.Constant(...))], [], None
        for argument in (*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs):
            argument.annotation = None
    stub = ast.ClassDef("Declared", [], [], list(methods.values()), [], type_params=[])
    namespace: dict[str, Any] = {}
    exec(compile(ast.fix_missing_locations(ast.Module([stub], [])), "engine", "exec"), namespace)  # noqa: S102
    made: type = namespace["Declared"]
    return made


@pytest.mark.parametrize(
    ("part", "slot"),
    [
        ("TENorm", NormBuilder),
        ("TELayerNormColumnParallelLinear", LinearQkvBuilder),
        ("TELayerNormColumnParallelLinear", LinearFc1Builder),
        ("TERowParallelLinear", LinearProjBuilder),
        ("TERowParallelLinear", LinearFc2Builder),
        ("TEColumnParallelLinear", LinearFc1Builder),
        ("TEColumnParallelGroupedLinear", GroupedLinearFc1Builder),
        ("TERowParallelGroupedLinear", GroupedLinearFc2Builder),
        ("TEDotProductAttention", CoreAttentionBuilder),
    ],
)
def test_the_parts_fit_their_slots_as_the_engine_declares_them(part: str, slot: type[object]) -> None:
    check_conformance(slot, declared(part))


@pytest.mark.parametrize("command", ["train", "build", "explain"])
def test_a_command_says_what_is_missing(command: str) -> None:
    missing = missing_here()
    if not missing:
        pytest.skip("nothing is missing here")
    done = modelwright(command, "docs/examples/gpt-tiny.yaml", "--set", "backend=te")
    assert (done.returncode, done.stdout) == (2, "")
    assert facts(done.stderr) == f"error `backend: te` {facts(' and '.join(missing))} `torch` `auto` `te`\n"


@pytest.mark.parametrize("config", CONFIGS)
def test_initial_values_are_those_of_the_other_backend(config: str, two_ranks: RankPool) -> None:
    unfused, fused = (two_ranks.run(whole_weights, CONFIGS[config], fused, ranks=1)[0] for fused in (False, True))
    assert unfused.keys() == fused.keys()
    assert all(torch.equal(value, fused[name]) for name, value in unfused.items())
    assert any("input_layernorm.weight" in name for name in fused)
    assert any("pre_mlp_layernorm.bias" in name for name in fused) == (config == "layernorm")


@pytest.mark.parametrize("saved_fused", [False, True], ids=["torch to fused", "fused to torch"])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_checkpoint_of_one_backend_loads_in_the_other(
    config: str, saved_fused: bool, two_ranks: RankPool, tmp_path: Path
) -> None:
    model = CONFIGS[config]
    run = replace(RUN, model=model, train=replace(RUN.train, steps=3), parallelism=Parallelism(tensor=2, sequence=True))
    two_ranks.run(curve, run, saved_fused, tmp_path)
    same, other = (
        two_ranks.run(logits_of, model, fused, tmp_path, ranks=1)[0] for fused in (saved_fused, not saved_fused)
    )
    assert torch.equal(same, other)


@pytest.mark.parametrize("begun_fused", [False, True], ids=["torch to fused", "fused to torch"])
def test_a_run_goes_on_in_the_other_backend(begun_fused: bool, two_ranks: RankPool, tmp_path: Path) -> None:
    """Load the state of its optimizer under another layout too."""
    run = replace(RUN, train=replace(RUN.train, checkpoint_interval=5), parallelism=Parallelism(tensor=2))
    unbroken = two_ranks.run(curve, run, begun_fused, tmp_path)[0]
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000008")
    other = replace(run, parallelism=Parallelism(pipeline=2))
    assert close(two_ranks.run(curve, other, not begun_fused, None, tmp_path)[0], unbroken[5:])


# On a GPU, with Transformer Engine.

BF16 = replace(RUN, backend="te", precision=Precision(params="bfloat16"), train=replace(RUN.train, steps=1))
WRAPS: dict[str, Wrap] = {
    "ddp": MegatronDDP(),
    "megatron_fsdp": MegatronFSDP(),
    "fsdp2": TorchFSDP2(),
}


def needs_te() -> None:
    if missing := missing_here():
        pytest.skip(" and ".join(missing))


def bf16_logits(config: GPTModelConfig, backend: str, folder: Path | None = None) -> tuple[str, Tensor]:
    """The class of the linear that makes queries, and logits [b, s, v] in bfloat16."""
    from modelwright.builders import builder_for
    from modelwright.distributed import initialize, unwrapped
    from modelwright.training import TrainState, latest_checkpoint, load_checkpoint

    groups = initialize(Parallelism())
    stages = builder_for(config, backend=backend).build_for_inference(
        groups, parallelism=Parallelism(), precision=BF16.precision
    )
    if folder is not None:
        load_checkpoint(TrainState(stages, groups), latest_checkpoint(folder)[1])
    model: Any = unwrapped(stages[0])
    return type(model.decoder.layers[0].self_attention.linear_qkv).__name__, answered(stages[0]).float()


def step_losses(run: RunConfig, folder: Path | None = None) -> list[float]:
    from modelwright.training import train

    return [record.loss for record in train(run, out=folder)]


@pytest.mark.gpu
@pytest.mark.parametrize("config", CONFIGS)
def test_logits_are_those_of_the_torch_backend(config: str, two_ranks: RankPool) -> None:
    needs_te()
    _, expected = two_ranks.run(bf16_logits, CONFIGS[config], "torch", ranks=1)[0]
    name, found = two_ranks.run(bf16_logits, CONFIGS[config], "te", ranks=1)[0]
    assert name == "TELayerNormColumnParallelLinear"
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
    assert expected.std() > 5e-2  # what is compared is far above the tolerance's floor


@pytest.mark.gpu
def test_auto_takes_te(two_ranks: RankPool) -> None:
    needs_te()
    assert two_ranks.run(bf16_logits, TINY, "auto", ranks=1)[0][0] == "TELayerNormColumnParallelLinear"


@pytest.mark.gpu
@pytest.mark.parametrize("wrap", WRAPS)
def test_one_step_under_each_wrap(wrap: str, two_ranks: RankPool) -> None:
    needs_te()
    run = replace(BF16, wrap=WRAPS[wrap], train=replace(BF16.train, steps=2))
    (expected,) = two_ranks.run(step_losses, replace(run, backend="torch", wrap=MegatronDDP()), ranks=1)
    (found,) = two_ranks.run(step_losses, run, ranks=1)
    assert found == pytest.approx(expected, abs=2e-2)
    assert found[1] < found[0]


def bare_step(backend: str) -> list[float]:
    """Loss before and after one step of gradient descent on a model without a wrap, which `train` does not take."""
    from modelwright.builders import builder_for
    from modelwright.distributed import initialize

    (model,) = builder_for(TINY, backend=backend).build_distributed_models(
        initialize(Parallelism()), parallelism=Parallelism(), precision=BF16.precision, wrap=NoWrap()
    )
    device = next(model.parameters()).device
    tokens_BS = torch.arange(65, device=device)[None] * 7 % 256
    positions_BS = torch.arange(64, device=device)[None]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses: list[float] = []
    for _ in range(2):
        loss: Tensor = model(tokens_BS[:, :-1], positions_BS, None, labels=tokens_BS[:, 1:].contiguous()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.gpu
def test_one_step_without_a_wrap(two_ranks: RankPool) -> None:
    needs_te()
    (expected,), (found,) = (two_ranks.run(bare_step, backend, ranks=1) for backend in ("torch", "te"))
    assert found == pytest.approx(expected, abs=2e-2)
    assert found[1] < found[0]


@pytest.mark.gpu
@pytest.mark.parametrize("saved", ["torch", "te"])
def test_a_checkpoint_loads_in_the_other_backend(saved: str, two_ranks: RankPool, tmp_path: Path) -> None:
    needs_te()
    two_ranks.run(step_losses, replace(BF16, backend=saved), tmp_path, ranks=1)
    expected, found = (two_ranks.run(bf16_logits, TINY, name, tmp_path, ranks=1)[0][1] for name in ("torch", "te"))
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
