"""A job is pickled whole, with the frozen config, and its parts are imported before it."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import modelwright.training
from modelwright.cli.commands.build import BuildJob
from modelwright.cli.ranks import Job, run_on_ranks
from modelwright.config import ConfigError, ModelConfig, RunConfig, config_class, register_config

STARTED = """
import sys
from modelwright.cli import ranks

def work(job):
    print(type(job.run.model).__name__, job.run.model.seq_length, job.run.train.steps)

ranks._run_rank = lambda work, job: work(job)
ranks._run_started_rank(work, bytes.fromhex(sys.argv[1]), ("my_parts",), False)
"""
PICKLED = """
import pickle
from my_parts import BytesConfig
from modelwright.cli.ranks import Job
from modelwright.config import RunConfig, TrainConfig
run = RunConfig(model=BytesConfig(seq_length=8), train=TrainConfig(steps=7))
print(pickle.dumps(Job(run=run, modules=("my_parts",), debug=False)).hex())
"""


@register_config
@config_class
class RanksToyConfig(ModelConfig):
    """A family of the tests."""

    kind = "cli-ranks-toy"

    engine_like: tuple[int, ...] = ()
    """A tuple."""


RUN = RunConfig(model=RanksToyConfig(engine_like=(1,), engine={"a": {"b": [1]}}))


def python(code: str, *args: str, folder: Path) -> str:
    words = [sys.executable, "-c", code, *args]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_a_job_comes_back_equal_and_frozen() -> None:
    job = BuildJob(run=RUN, modules=("a",), debug=True, svg=Path("x"))
    back = pickle.loads(pickle.dumps(job))  # noqa: S301  # our own bytes
    assert back == job
    assert hash(back.run) == hash(RUN)


def test_a_rank_imports_custom_parts_before_it_reads_the_job(folder: Path) -> None:
    job = python(PICKLED, folder=folder).strip()
    assert python(STARTED, job, folder=folder) == "BytesConfig 8 7\n"


def test_a_launcher_with_a_wrong_number_of_ranks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setitem(os.environ, name, value)
    run = RunConfig(model=RanksToyConfig(), parallelism=modelwright.config.Parallelism(tensor=2))
    with pytest.raises(ConfigError, match=r"`tensor` .* launch"):
        run_on_ranks(print, Job(run=run, modules=(), debug=False))


def test_local_ranks_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(modelwright.training, "launch", lambda *_, ranks: started.append(ranks))
    run_on_ranks(print, Job(run=RUN, modules=(), debug=False))
    assert started == [1]
