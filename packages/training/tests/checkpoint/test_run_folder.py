"""The folder of a run: which checkpoint is the newest, and what is said of one that cannot be used."""

import json
import re
from pathlib import Path

import pytest

from modelwright.config import (
    CosineSchedule,
    MegatronFSDP,
    ModelConfig,
    Precision,
    RunConfig,
    TorchFSDP2,
    TrainConfig,
    config_class,
    dumps,
    register_config,
    replace,
)
from modelwright.training import (
    CheckpointError,
    DamagedCheckpointError,
    check_resumable,
    check_savable,
    checkpoint_config,
    checkpoint_path,
    checkpoints,
    latest_checkpoint,
    naming_whole_checkpoint,
)
from tests.messages import facts


@register_config
@config_class
class FolderToyConfig(ModelConfig):
    """A family of the tests."""

    kind = "folder-toy"

    width: int = 4
    """A field."""

    depth: int | None = None
    """Another."""


@register_config
@config_class
class FolderOtherConfig(ModelConfig):
    """Another family."""

    kind = "folder-other"


TOY = RunConfig(model=FolderToyConfig())


def write(run_dir: Path, step: int, run: RunConfig = TOY) -> Path:
    """The files of a checkpoint that are looked at before the engine reads it."""
    path = checkpoint_path(run_dir, step)
    path.mkdir(parents=True)
    content = {"step": step, "config": dumps(run, format="json", full=True)}
    (path / "modelwright.json").write_text(json.dumps(content))
    (path / "metadata.json").touch()
    (path / ".metadata").touch()
    return path


def test_checkpoints_are_ordered_by_step(tmp_path: Path) -> None:
    written = {step: write(tmp_path, step) for step in (100, 3, 20)}
    assert checkpoints(tmp_path) == [(step, written[step]) for step in (3, 20, 100)]
    assert latest_checkpoint(tmp_path) == (100, tmp_path / "checkpoints" / "step-00000100")


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    path = write(tmp_path, 3)
    for name in (".step-00000006.partial", "step-6", "step-00000009.old", "notes"):
        (path.parent / name).mkdir()
    assert checkpoints(tmp_path) == [(3, path)]
    assert latest_checkpoint(tmp_path) == (3, path)


def test_no_folder(tmp_path: Path) -> None:
    assert checkpoints(tmp_path / "no") == []
    with pytest.raises(CheckpointError, match=r"^`.*/no` "):
        latest_checkpoint(tmp_path / "no")


def test_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / ".step-00000003.partial").mkdir(parents=True)
    with pytest.raises(CheckpointError) as caught:
        latest_checkpoint(tmp_path)
    assert facts(caught.value) == f"`{tmp_path}` `checkpoints/` `train.checkpoint_interval`"


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize(
    "missing", [("modelwright.json",), ("metadata.json",), (".metadata",), ("modelwright.json", "metadata.json")]
)
def test_a_checkpoint_that_was_cut_off(missing: tuple[str, ...], older: bool, tmp_path: Path) -> None:
    if older:
        write(tmp_path, 3)
    path = write(tmp_path, 6)
    for name in missing:
        (path / name).unlink()
    with pytest.raises(DamagedCheckpointError) as caught:
        latest_checkpoint(tmp_path)
    assert facts(caught.value) == " ".join([f"`{path}`", *(f"`{name}`" for name in shown(missing))])
    with pytest.raises(DamagedCheckpointError) as caught, naming_whole_checkpoint(tmp_path):
        latest_checkpoint(tmp_path)
    assert ("`step-00000003`" in str(caught.value)) == older


def shown(missing: tuple[str, ...]) -> tuple[str, ...]:
    """Without a manifest nothing else is known to be missing."""
    return missing[:1] if "modelwright.json" in missing else missing


def test_the_config_comes_back(tmp_path: Path) -> None:
    run = RunConfig(model=FolderToyConfig(width=9, depth=None), stack="mine")
    assert checkpoint_config(write(tmp_path, 1, run)) == run


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "{}", '{"config": 3}', "\0"],
)
def test_a_damaged_config(content: str, tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    (path / "modelwright.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"^`{re.escape(str(path))}/modelwright.json` "):
        checkpoint_config(path)


def test_a_damaged_config_that_is_no_text(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    (path / "modelwright.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match=r"modelwright\.json`"):
        checkpoint_config(path)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{", "1 2"),
        (
            dumps(TOY, format="json", full=True).replace("folder-toy", "folder-toi"),
            "`folder-toi` `folder-toy`",
        ),
    ],
)
def test_a_config_that_is_not_valid_here(config: str, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    (path / "modelwright.json").write_text(json.dumps({"config": config}))
    with pytest.raises(CheckpointError) as caught:
        checkpoint_config(path)
    assert facts(caught.value).startswith(f"`{path}/modelwright.json`")
    assert reason in facts(caught.value)


def test_the_config_of_a_model_alone_is_not_that_of_a_run(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    content = {"config": dumps(FolderToyConfig(), format="json", full=True)}
    (path / "modelwright.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError) as caught:
        checkpoint_config(path)
    assert facts(caught.value) == f"`{path}/modelwright.json`"
    assert "FolderToyConfig" in str(caught.value)


def test_the_same_model_in_another_run(tmp_path: Path) -> None:
    path = write(tmp_path, 1, RunConfig(model=FolderToyConfig(), name="old"))
    check_resumable(RunConfig(model=FolderToyConfig(), name="new"), path)


def test_another_model_is_told_field_by_field(tmp_path: Path) -> None:
    path = write(tmp_path, 1, RunConfig(model=FolderToyConfig(width=4, depth=2), stack="mine"))
    with pytest.raises(CheckpointError) as caught:
        check_resumable(RunConfig(model=FolderToyConfig(width=8)), path)
    assert facts(caught.value) == f"`{path}` `model.depth` 2 None `model.width` 4 8 `stack` 'mine' None"


def test_another_kind_of_model(tmp_path: Path) -> None:
    path = write(tmp_path, 1, RunConfig(model=FolderOtherConfig()))
    with pytest.raises(CheckpointError, match=r"`model.kind` .*'folder-other'.*'folder-toy'"):
        check_resumable(TOY, path)


def test_another_optimizer(tmp_path: Path) -> None:
    """The engine finds the state of a group by its learning rates, and restores its other numbers in silence."""
    path = write(tmp_path, 3)
    train = TrainConfig(lr=1e-2, adam_beta2=0.99, lr_schedule=CosineSchedule(min_lr=1e-4), steps=500)
    with pytest.raises(CheckpointError) as caught:
        check_resumable(replace(TOY, train=train, precision=Precision(params="bfloat16")), path)
    assert facts(caught.value) == (
        f"`{path}` `precision.params` 'float32' 'bfloat16' `train.adam_beta2` 0.95 0.99 `train.lr` 0.0003 0.01 "
        "`train.lr_schedule.min_lr` 0.0 0.0001 `train.steps`"
    )


def test_a_run_that_could_not_be_saved_is_refused_before_its_first_step(tmp_path: Path) -> None:
    """It would train to the end, and be lost there."""
    check_savable(TOY)
    check_savable(replace(TOY, wrap=TorchFSDP2()))
    with pytest.raises(CheckpointError) as caught:
        check_savable(replace(TOY, wrap=MegatronFSDP()))
    assert facts(caught.value).startswith("`wrap.kind` megatron_fsdp")
