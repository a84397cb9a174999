"""A config that is written and read again is equal: every field, in both formats, full and minimal."""

import dataclasses
import json
import math
import pickle
import stat
from pathlib import Path
from typing import Any, Literal

import pytest

from modelwright.config import (
    Config,
    ConfigError,
    ConstantSchedule,
    CosineSchedule,
    LinearSchedule,
    MegatronDDP,
    ModelConfig,
    NoWrap,
    Parallelism,
    Precision,
    RunConfig,
    TrainConfig,
    config_class,
    dumps,
    fingerprint,
    load,
    loads,
    register_config,
    replace,
    save,
)
from tests.messages import facts

FORMATS: tuple[Literal["yaml", "json"], ...] = ("yaml", "json")


@register_config
@config_class
class CodecToyConfig(ModelConfig):
    """A family of the tests, with a field of every sort."""

    kind = "codec-toy"

    text: str = "a"
    """A string."""

    maybe: int | None = 3
    """Null is not the default."""

    number: float = 0.0
    """A float."""

    sizes: tuple[int, ...] = ()
    """A tuple."""


STRINGS = [
    *("", " ", "~", "no", "Yes", "on", "null", "true", "1", "1e5", "1_000", "0x1F", "0o17", "0b1", ".inf", "-.INF"),
    *(".nan", "2024-01-01", "2024-01-01 10:00:00", "12:30:45", "a: b", "a #b", "#", "- a", "-", "?", "!x", "&a", "*a"),
    *("<<", "=", "%x", "@x", "`x`", "[a]", "{a}", "a,b", '"q"', "'q'", "a\\b", "a\nb\n", "\ta", "a\r\nb", " a "),
    *("é…😀", "\x07\x7f\x85", "\u2028\ufeff", "---", "...", "x" * 5000, "word " * 200, "NaN", "Infinity", "+1"),
    *("1.", ".5", "a/b.txt", "C:\\x"),
]
VALUES: dict[str, list[Any]] = {
    "text": STRINGS,
    "maybe": [None, 0, -1, 10**100],
    "number": [-0.0, 1e-5, 1e300, 5e-324, 0.1 + 0.2, math.inf, -math.inf, 123456789.0],
    "sizes": [(1,), (1, 2, 3), (10**30,)],
    "engine": [
        {"a": 1},
        {"a": 1.0, "b": None, "c": True, "d": "no", "e": [1, [2, "x"]], "f": {"1": {"g": []}}, "123": {}, "": 0},
        {text: text for text in STRINGS if len(text) < 100},
    ],
}


def assert_comes_back(config: Any) -> None:
    for form in FORMATS:
        for full in (False, True):
            text = dumps(config, format=form, full=full)
            back = loads(text, format=form)
            assert back == config, text
            assert fingerprint(back) == fingerprint(config)
            assert hash(back) == hash(config)
            assert dumps(back, format=form, full=full) == text


@pytest.mark.parametrize("name", VALUES)
def test_every_sort_of_field_comes_back(name: str) -> None:
    for value in VALUES[name]:
        config = CodecToyConfig(**{name: value})
        assert_comes_back(config)
        assert CodecToyConfig.from_dict(config.as_dict()) == config
        assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301  # our own bytes


def test_nan_comes_back() -> None:
    config = CodecToyConfig(number=math.nan)
    for form in FORMATS:
        back = loads(dumps(config, format=form), format=form)
        assert isinstance(back, CodecToyConfig)
        assert math.isnan(back.number)
        assert fingerprint(back) == fingerprint(config)


RUN = RunConfig(model=CodecToyConfig())
MOVED: dict[str, dict[str, Any]] = {
    "train": {
        "steps": 7, "seed": 0, "micro_batch": 2, "global_batch": 16, "lr": 1.0, "weight_decay": 0.0, "adam_beta1": 0.5,
        "lr_schedule": LinearSchedule(min_lr=1e-5), "adam_beta2": 0.5, "adam_eps": 1e-6, "clip_grad": 0.0,
        "eval_interval": 5, "eval_batches": 1, "checkpoint_interval": 10, "keep_checkpoints": 2, "data": "a.txt",
        "validation_fraction": 0.5, "max_skipped_steps": 3,
    },
    "parallelism": {
        "tensor": 2, "pipeline": 2, "context": 2, "expert": 2, "expert_tensor": 1, "data": 2, "sequence": None,
        "virtual_pipeline": None, "stages": None,
    },
    "precision": {"params": "bfloat16"},
    "wrap": {
        "overlap_grad_reduce": True, "bucket_size": None, "average_in_collective": True, "grad_reduce_in_fp32": False,
        "check_for_nan": True, "broadcast_from_data_rank_0": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("section", MOVED)
def test_every_field_of_every_section_comes_back(section: str) -> None:
    default: Config = getattr(RUN, section)
    others: dict[str, Any] = {
        field.name: not field.default if isinstance(field.default, bool) else ("x",)
        for field in dataclasses.fields(default)
        if isinstance(field.default, bool | tuple)
    }
    moved = others | MOVED[section]
    assert set(moved) == {field.name for field in dataclasses.fields(default)}
    for name, value in moved.items():
        if value is not None:
            config = replace(RUN, **{section: replace(default, **{name: value})})
            assert getattr(getattr(config, section), name) == value
            assert_comes_back(config)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "a run"},
        {"stack": "my_stack"},
        {"wrap": NoWrap()},
        {"train": TrainConfig(lr_schedule=ConstantSchedule(warmup_steps=3))},
        {"train": TrainConfig(lr_schedule=CosineSchedule(warmup_steps=3, min_lr=1e-5))},
        {"parallelism": Parallelism(tensor=2, sequence=True)},
        {"parallelism": Parallelism(pipeline=2, virtual_pipeline=2)},
        {"parallelism": Parallelism(pipeline=2, stages=(1, 2))},
        {"precision": Precision(params="float16")},
    ],
)
def test_sections_come_back(changes: dict[str, Any]) -> None:
    assert_comes_back(replace(RUN, **changes))


def test_a_minimal_dump_holds_what_differs() -> None:
    run = replace(RUN, wrap=NoWrap(), train=TrainConfig(steps=5))
    assert dumps(run) == "modelwright: 1\nmodel:\n  kind: codec-toy\nwrap:\n  kind: none\ntrain:\n  steps: 5\n"
    assert dumps(CodecToyConfig(maybe=None, text="no")) == 'kind: codec-toy\ntext: "no"\nmaybe: null\n'


def test_a_full_dump_holds_every_field_in_order() -> None:
    data = json.loads(dumps(RUN, format="json", full=True))
    assert list(data) == [field.name for field in dataclasses.fields(RunConfig)]
    assert list(data["model"]) == ["kind", "version", "text", "maybe", "number", "sizes", "engine"]
    assert data["wrap"] == {"kind": "ddp", **dataclasses.asdict(MegatronDDP())}


def test_the_fingerprint_is_of_the_content() -> None:
    one = CodecToyConfig(engine={"a": 1, "b": 2})
    assert fingerprint(one) == fingerprint(CodecToyConfig(engine={"b": 2, "a": 1}))
    assert fingerprint(one) != fingerprint(CodecToyConfig(engine={"a": 1}))
    assert len(fingerprint(one)) == 64


def test_save_replaces_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    save(RUN, path)
    save(replace(RUN, name="b"), path, full=True)
    assert load(path) == replace(RUN, name="b")
    save(RUN, tmp_path / "run.json")
    assert load(tmp_path / "run.json") == RUN
    assert sorted(one.name for one in tmp_path.iterdir()) == ["run.json", "run.yaml"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.yaml"
    save(RUN, path)

    def broken(self: Path, target: Path) -> None:
        raise OSError("no room")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match=r"^no room$"):
        save(replace(RUN, name="b"), path)
    assert load(path) == RUN
    assert [one.name for one in tmp_path.iterdir()] == ["run.yaml"]


def test_save_refuses_an_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        save(RUN, tmp_path / "run.txt")
    rule = "`.yaml` `.yml` `.json` `.toml` `run.txt`"
    assert facts(caught.value) == f"unreadable: {tmp_path / 'run.txt'} {rule}"
    with pytest.raises(ConfigError) as caught:
        save(RUN, tmp_path / "run.toml")
    rule = "null `run.toml` `.yaml`"
    assert facts(caught.value) == f"unreadable: {tmp_path / 'run.toml'} {rule}"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"txt": 1}, "unknown_field: `txt` `codec-toy` `text`"),
        ({"kind": "errors"}, None),
        ({"text": {1, 2}}, "not_plain: `text` `set`"),
        ({"engine": {1: 2}}, "not_plain: `1`"),
        ({"engine": {"a": "\ud800"}}, "not_plain: `engine.a`"),
        ({"version": 0}, "wrong_version: `version` `codec-toy` 1 0"),
    ],
)
def test_from_dict_refuses(data: dict[str, Any], expected: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        CodecToyConfig.from_dict(data)
    assert expected is None or facts(caught.value) == expected


def test_from_dict_of_the_base_reads_the_kind() -> None:
    assert ModelConfig.from_dict({"kind": "codec-toy", "maybe": None}) == CodecToyConfig(maybe=None)
    assert CodecToyConfig.from_dict({"sizes": (1, 2)}) == CodecToyConfig(sizes=(1, 2))
