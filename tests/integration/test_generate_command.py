"""`modelwright generate` from a trained run, and the key-value cache against reading everything again."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from modelwright.distributed import finalize
from modelwright.engine import device_runtime
from modelwright.training import Sampling, generate, load_for_inference
from tests.integration.command import modelwright, settings, tiny_file

PROMPT = "The "


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two ranks, long enough to have learned some letters."""
    folder = tmp_path_factory.mktemp("generate")
    options = settings("parallelism.tensor=2", "train.eval_interval=null", "train.checkpoint_interval=null")
    done = modelwright("train", tiny_file(folder), "--steps", "40", "--out", folder / "run", *options)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def written(run_dir: Path, *options: str) -> str:
    done: subprocess.CompletedProcess[str] = modelwright(
        "generate", run_dir, "--prompt", PROMPT, "--tokens", "48", *options
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def recomputed(model: Any, text: bytes, tokens: int, limit: int) -> bytes:
    """Greedy continuation that reads all that is known again for every byte."""
    known = list(text)
    for _ in range(tokens):
        if len(known) > limit:
            known = known[-(limit // 2) :]
        window = torch.tensor([known])
        logits = model(window, torch.arange(len(known)).unsqueeze(0), None, runtime_gather_output=True)
        known.append(int(logits[0, -1, :256].argmax()))
        text += bytes(known[-1:])
    return text


def test_greedy_is_what_the_model_says_without_a_cache(run_dir: Path) -> None:
    """The command, this process, and a run without the cache agree beyond the sequence length of 32."""
    with device_runtime(), torch.no_grad():
        loaded = load_for_inference(run_dir)
        here = PROMPT + "".join(generate(loaded, PROMPT, tokens=48))
        expected = recomputed(loaded.model, PROMPT.encode(), 48, limit=32)
        finalize()
    assert here == expected.decode(errors="replace")
    assert written(run_dir) == here + "\n"
    assert len(set(here)) > 3


def test_sampling(run_dir: Path) -> None:
    def here(seed: int) -> str:
        sampling = Sampling(temperature=1.0, top_k=20, top_p=0.9, seed=seed)
        return PROMPT + "".join(generate(loaded, PROMPT, tokens=48, sampling=sampling))

    with device_runtime():
        loaded = load_for_inference(run_dir)
        first, again, other = (here(seed) for seed in (1, 1, 2))
        finalize()
    assert first == again
    assert first != other
    assert written(run_dir, "--temperature", "1.0", "--top-k", "20", "--top-p", "0.9", "--seed", "1") == first + "\n"
