"""A user's own mixer in a Mamba model: the example trains, generates with its state, and a wrong one is refused."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modelwright.protocols import ConformanceError
from modelwright.testing import RankPool
from tests.integration.jobs import quiet
from tests.messages import facts

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "custom_mixer.py"


def train_example() -> tuple[float, float, list[str]]:
    """First and last loss, and what fills the slot of the mixer."""
    quiet()
    from modelwright.distributed import initialize
    from modelwright.training import builder_of

    example = runpy.run_path(str(EXAMPLE))
    records = example["main"](steps=10)
    run = example["RunConfig"](model=example["MODEL"], stack="gated_convolution")
    model = builder_of(run).build_model(initialize(run.parallelism))
    mixers = [type(layer.mixer).__name__ for layer in model.decoder.layers if hasattr(layer, "mixer")]
    return records[0].loss, records[-1].loss, mixers


def test_the_example_trains_and_its_mixer_is_in_the_slot(two_ranks: RankPool) -> None:
    first, last, mixers = two_ranks.run(train_example, ranks=1)[0]
    assert last < first - 0.5
    assert mixers == ["GatedConvolution"] * 2


def continued() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a text at once, and token by token with the state that the mixers keep."""
    quiet()
    from megatron.core.inference.contexts import StaticInferenceContext

    from modelwright.config import Parallelism, Precision
    from modelwright.distributed import initialize
    from modelwright.mamba import MambaModelBuilder

    example = runpy.run_path(str(EXAMPLE))
    builder = MambaModelBuilder(example["MODEL"], spec="gated_convolution")
    (model,) = builder.build_for_inference(initialize(Parallelism()), parallelism=Parallelism(), precision=Precision())
    tokens, positions = torch.arange(20)[None] * 7, torch.arange(20)[None]
    context = StaticInferenceContext(max_batch_size=1, max_sequence_length=20)
    with torch.no_grad():
        whole = model(tokens, positions, None)
        parts: list[torch.Tensor] = []
        for start, end in ((0, 5), *((at, at + 1) for at in range(5, 20))):
            parts.append(model(tokens[:, start:end], positions[:, start:end], None, inference_context=context))
            context.sequence_len_offset += end - start
    return whole, torch.cat(parts, dim=1)


def test_its_state_gives_what_the_whole_text_gives(two_ranks: RankPool) -> None:
    whole, parts = two_ranks.run(continued, ranks=1)[0]
    torch.testing.assert_close(parts, whole[:, -parts.size(1) :], atol=1e-5, rtol=0)


@pytest.fixture
def wrong_example(tmp_path: Path) -> Path:
    """The example without the argument `pp_layer_offset`."""
    text = EXAMPLE.read_text()
    assert text.count("        pp_layer_offset: int,\n") == 1
    path = tmp_path / "wrong_mixer.py"
    path.write_text(text.replace("        pp_layer_offset: int,\n", ""))
    return path


def test_at_run_time_the_missing_argument_is_named_before_anything_exists(wrong_example: Path) -> None:
    with pytest.raises(ConformanceError) as refused:
        runpy.run_path(str(wrong_example))["gated_stack"](runpy.run_path(str(EXAMPLE))["MODEL"])
    assert facts(refused.value) == (
        "`GatedConvolution` `MambaMixerBuilder` `pp_layer_offset` `pp_layer_offset: int` `**kwargs` "
        '`adapt(..., drop=("pp_layer_offset",))`'
    )
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_refuse_it(checker: str, wrong_example: Path) -> None:
    options = {
        "mypy": ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")],
        "pyright": ["--pythonpath", sys.executable],
    }[checker]

    def check(path: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", checker, *options, str(path)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    refused = check(wrong_example)
    assert refused.returncode == 1
    assert "MambaMixerBuilder" in refused.stdout
    assert "pp_layer_offset" in refused.stdout
    accepted = check(EXAMPLE)
    assert accepted.returncode == 0, accepted.stdout
