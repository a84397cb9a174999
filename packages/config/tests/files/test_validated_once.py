"""A config is validated once on its way from a file with overrides to a run."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, override

import pytest

from modelwright.config import (
    Config,
    ConfigError,
    CosineSchedule,
    LinearSchedule,
    ModelConfig,
    Parallelism,
    Problem,
    RunConfig,
    TrainConfig,
    config_class,
    load,
    register_config,
)
from modelwright.config import override as overridden

CHECKED: Counter[str] = Counter()
"""Number of validations by class."""


@config_class
class OnceSection(Config):
    """A section of the model."""

    depth: int = 1


@register_config
@config_class
class OnceConfig(ModelConfig):
    """A family of the tests."""

    kind: ClassVar[str] = "once-toy"

    width: int = 4
    section: OnceSection = OnceSection()

    @override
    def problems(self) -> Sequence[Problem]:
        CHECKED["OnceConfig"] += 1
        return () if self.width % 2 == 0 else (Problem("width", f"`width` must be even, but {self.width} is not."),)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file with a run, and count the validations of every section of it."""
    for cls in (RunConfig, TrainConfig, Parallelism):
        checked: Any = cls.problems

        def count(self: Any, checked: Any = checked, name: str = cls.__name__) -> Any:
            CHECKED[name] += 1
            return checked(self)

        monkeypatch.setattr(cls, "problems", count)
    CHECKED.clear()
    file = tmp_path / "run.yaml"
    file.write_text("modelwright: 1\nmodel: {kind: once-toy, width: 8}\ntrain: {steps: 5}\nparallelism: {tensor: 1}\n")
    return file


CHANGES = [
    ["train.steps=7"],
    ["model.width=2", "train.lr_schedule.min_lr=1e-5"],
    ["train.lr_schedule.kind=linear"],
    ["wrap.overlap_grad_reduce=true", "model.section.depth=3"],
    ["wrap.kind=none", "parallelism.data=2", "precision.params=bfloat16"],
]


@pytest.mark.parametrize("changes", [[], *CHANGES], ids=" ".join)
def test_each_section_is_validated_once(path: Path, changes: list[str]) -> None:
    run = load(path, changes)
    assert isinstance(run, RunConfig)
    assert CHECKED == {"RunConfig": 1, "TrainConfig": 1, "Parallelism": 1, "OnceConfig": 1}


@pytest.mark.parametrize("changes", CHANGES, ids=" ".join)
def test_the_result_is_that_of_an_override_afterwards(path: Path, changes: list[str]) -> None:
    assert load(path, changes) == overridden(load(path), changes)


def test_a_section_that_the_file_leaves_out_keeps_its_kind(path: Path) -> None:
    assert load(path, ["train.lr_schedule.min_lr=1e-5"]).train.lr_schedule == CosineSchedule(min_lr=1e-5)  # type: ignore[union-attr]
    path.write_text(path.read_text().replace("steps: 5", "steps: 5, lr_schedule: {kind: linear}"))
    assert load(path, ["train.lr_schedule.min_lr=1e-5"]).train.lr_schedule == LinearSchedule(min_lr=1e-5)  # type: ignore[union-attr]


def test_a_number_for_a_string_is_used_as_it_is_written(path: Path) -> None:
    assert load(path, ["name=1e5"]).name == "1e5"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "changes", "places"),
    [
        ("width: 7", ["train.steps=7"], [("model.width", 2)]),
        ("width: 8", ["model.width=7"], [("model.width", None)]),
        ("width: 7", ["model.width=5"], [("model.width", 2)]),
        ("width: 8, widht: 3", ["train.stepz=7"], [("model.widht", 2)]),
        ("width: 8", ["train.stepz=7", "nam=x"], [("train.stepz", None), ("nam", None)]),
    ],
)
def test_a_problem_names_the_file_or_the_override(
    path: Path, text: str, changes: list[str], places: list[tuple[str, int | None]]
) -> None:
    path.write_text(path.read_text().replace("width: 8", text))
    with pytest.raises(ConfigError) as caught:
        load(path, changes)
    assert sorted((one.path, one.line) for one in caught.value.problems) == sorted(places)
    for one in caught.value.problems:
        assert one.source == (str(path) if one.line else next(f"--set {text}" for text in changes if one.path in text))


def test_the_size_of_the_job_is_filled_in_without_another_validation(path: Path) -> None:
    run = load(path)
    assert isinstance(run, RunConfig)
    CHECKED.clear()
    filled = run.with_data_size(2)
    assert CHECKED == {"Parallelism": 1, "RunConfig": 1}  # the axes, and the rules between sections
    assert filled.with_data_size(2) is filled
    assert filled == overridden(run, "parallelism.data=2")
    assert run.parallelism.data is None


def test_a_size_that_does_not_fit_is_refused(path: Path) -> None:
    run = load(path)
    assert isinstance(run, RunConfig)
    CHECKED.clear()
    with pytest.raises(ConfigError) as caught:
        run.with_data_size(3)
    assert [one.path for one in caught.value.problems] == ["train.global_batch"]
    assert CHECKED["OnceConfig"] == CHECKED["TrainConfig"] == 0
