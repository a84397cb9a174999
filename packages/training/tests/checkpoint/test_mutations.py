"""Damage of any kind ends in success or in one clear error. `MODELWRIGHT_MUTATIONS` sets the number of mutations."""

import os
import random
from pathlib import Path
from typing import Any

import pytest

from modelwright.config import Parallelism, replace
from modelwright.distributed import initialize
from modelwright.training import (
    Trainer,
    checkpoint_config,
    checkpoint_path,
    latest_checkpoint,
    load_checkpoint,
    prepare_text,
    train,
)
from packages.training.tests.checkpoint.mutations import survive
from packages.training.tests.tiny import BigramConfig, bigram_run

COUNT = int(os.environ.get("MODELWRIGHT_MUTATIONS", "300"))
ENGINE_FORMAT = Path(__file__).parent / "engine_format"
RUN = replace(bigram_run(2), model=BigramConfig(width=4))

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def trainer() -> Any:
    return made_trainer()


def made_trainer() -> Any:
    """The run of the checkpoints, to load into."""
    from modelwright.training import builder_of

    groups = initialize(Parallelism())
    run = RUN.with_data_size(1)
    stages = builder_of(run).build_distributed_models(
        groups, parallelism=run.parallelism, precision=run.precision, wrap=run.wrap
    )
    return Trainer(run, stages, groups, prepare_text(run))


def test_damaged_checkpoints(trainer: Any, tmp_path: Path) -> None:
    train(RUN, out=tmp_path / "whole")
    damaged = checkpoint_path(tmp_path / "damaged", 2)

    def load(path: Path, draw: random.Random) -> None:
        verify = draw.random() < 0.5
        latest_checkpoint(tmp_path / "damaged", verify=verify)
        checkpoint_config(path, verify=verify)
        load_checkpoint(trainer.state, path, verify=verify)

    outcomes = survive(checkpoint_path(tmp_path / "whole", 2), damaged, load, count=COUNT, seed=1)
    assert set(outcomes) == {"loaded", "refused"}


def test_damaged_checkpoints_in_the_format_of_the_engine(trainer: Any, tmp_path: Path) -> None:
    damaged = checkpoint_path(tmp_path / "damaged", 2)

    def load(path: Path, draw: random.Random) -> None:
        latest_checkpoint(tmp_path / "damaged")
        checkpoint_config(path)
        load_checkpoint(trainer.state, path)

    outcomes = survive(checkpoint_path(ENGINE_FORMAT, 2), damaged, load, count=max(1, COUNT // 5), seed=2)
    assert set(outcomes) == {"loaded", "refused"}
