"""Every bad file gets its whole message, with file, line and column."""

import subprocess
import sys
from pathlib import Path

import pytest

from modelwright.config import ConfigError, ModelConfig, config_class, dumps, load, loads, register_config
from modelwright.config.model import kind_registry

HEAD = "modelwright: 1\nmodel: {kind: errors-toy, width: 8}\n"
HEADS = "`modelwright: 1` (a run) or `kind: …` (a model)"


@register_config
@config_class
class ErrorsToyConfig(ModelConfig):
    """A family of the tests."""

    kind = "errors-toy"

    width: int
    """A required field."""

    depth: int | None = None
    """A field that may be null."""


def message_of(text: str, form: str = "yaml") -> str:
    with pytest.raises(ConfigError) as caught:
        loads(text, format=form, source="f")  # type: ignore[arg-type]
    assert str(caught.value) == "\n".join(str(problem) for problem in caught.value.problems)
    return str(caught.value)


BAD_YAML = {
    "anchor and alias": (
        HEAD + "name: &a x\nstack: *a\n",
        (
            "f:3:7: anchors (`&a`) are not allowed; leave it out.\n"
            "f:4:8: aliases (`*a`) are not allowed; write the value out, or quote a string."
        ),
    ),
    "alias as a key": (HEAD + "*a : x\n", "f:3:1: a key must be a string, but an alias was given."),
    "merge key": (
        HEAD + "train:\n  <<: {steps: 3}\n",
        "f:4:3: merge keys (`<<`) are not allowed; write the fields out.",
    ),
    "python tag": (
        HEAD + "name: !!python/object:os.system x\n",
        "f:3:7: tags (`tag:yaml.org,2002:python/object:os.system`) are not allowed; leave it out.",
    ),
    "local tag": (HEAD + "name: !foo x\n", "f:3:7: tags (`!foo`) are not allowed; leave it out."),
    "integer key": (HEAD + "1: x\n", 'f:3:1: the key `1` must be a string; write it as "1".'),
    "list as a key": (HEAD + "? [a, b]\n: x\n", "f:3:3: a key must be a string, but a mapping or list was given."),
    "duplicate key": (HEAD + "name: a\nname: b\n", "f:4:1: `name` is given twice, first in line 3; keep one."),
    "deep nesting": (
        HEAD + "name: " + "[" * 10_000,
        "f:3:70: a config must nest at most 64 levels deep, but this nests deeper.",
    ),
    "tab": (HEAD + "train:\n\tsteps: 3\n", "f:4:1: a tab is not allowed here in YAML; use spaces."),
    "truncated list": (
        HEAD + "train: {steps: 3\n",
        "f:4:1: the text ends too early: expected ',' or '}', but got '<stream end>'.",
    ),
    "truncated string": (
        HEAD + 'name: "abc\n',
        "f:4:1: the text ends too early: found unexpected end of stream.",
    ),
    "two documents": (HEAD + "---\na: b\n", "f:3:1: a config must be one YAML document, but a second one starts here."),
    "date for a number": (
        HEAD + "train: {steps: 2024-01-01}\n",
        'f:3:16: `train.steps` must be an integer, but the string "2024-01-01" was given.',
    ),
    "a scalar": (
        "hello",
        'f:1:1: a config must be a mapping of names to values, but the string "hello" was given.',
    ),
    "a list": ("- a", "f:1:1: a config must be a mapping of names to values, but a list was given."),
    "empty": (" \n", f"f: the file is empty; start it with {HEADS}."),
    "only a comment": ("# x\n", "f:1:1: a config must be a mapping of names to values, but nothing was given."),
    "no header": (
        "modelwrigt: 1\nmodel: {kind: errors-toy}\n",
        f"f:1:1: a config needs {HEADS} at its top, but this has `modelwrigt` and `model`; did you mean `modelwright`?",
    ),
    "newer format": (
        HEAD.replace("1", "2", 1),
        "f:1:14: `modelwright` must be 1, but 2 was given; the file needs a newer version of modelwright.",
    ),
    "true for a version": (HEAD.replace("1", "true", 1), "f:1:14: `modelwright` must be 1, but true was given."),
    "no model": ("modelwright: 1\n", "f:1:1: `model` is missing; `RunConfig` needs it."),
    "a string for a model": (
        "modelwright: 1\nmodel: gpt\n",
        'f:2:8: `model` must be a mapping with a `kind`, but the string "gpt" was given.',
    ),
    "newer model": (
        HEAD.replace("width", "version: 2, width"),
        (
            "f:2:36: `model.version` of `errors-toy` is 2 in this file, but version 1 is installed;"
            " install a newer version of its package."
        ),
    ),
    "no kind": (
        "modelwright: 1\nwrap: {}\nmodel: {kind: errors-toy, width: 1}\n",
        "f:2:1: `wrap.kind` is missing; use `none`, `ddp`, `megatron_fsdp` or `fsdp2`.",
    ),
    "number for a kind": (
        HEAD + "wrap: {kind: 3}\n",
        "f:3:14: `wrap.kind` must be a string: `none`, `ddp`, `megatron_fsdp` or `fsdp2`.",
    ),
    "unknown kind": (
        HEAD + "wrap: {kind: dpp}\n",
        (
            "f:3:14: `wrap.kind` must be `none`, `ddp`, `megatron_fsdp` or `fsdp2`, but `dpp` was given;"
            " did you mean `ddp`?"
        ),
    ),
    "unknown field": (
        HEAD.replace("}", ", dept: 3}"),
        "f:2:37: `model.dept` is not a field of `errors-toy`; did you mean `depth`?",
    ),
    "unknown field of a plain section": (
        HEAD + "train: {stepz: 3}\n",
        "f:3:9: `train.stepz` is not a field of `TrainConfig`; did you mean `steps`?",
    ),
    "unknown field of a nested tagged section": (
        HEAD + "train: {lr_schedule: {kind: constant, min_lr: 0.1}}\n",
        "f:3:39: `train.lr_schedule.min_lr` is not a field of `constant`; it has `warmup_steps`.",
    ),
    "a float for an integer": (
        HEAD + "train: {steps: 1.0}\n",
        "f:3:16: `train.steps` must be an integer, but 1.0 was given.",
    ),
    "a quoted number": (
        HEAD.replace("8", '"8"'),
        'f:2:34: `model.width` must be an integer, but the string "8" was given.',
    ),
    "a field that takes null": (
        HEAD.replace("}", ", depth: [1]}"),
        "f:2:44: `model.depth` must be an integer or null, but a list was given.",
    ),
    "out of bounds": (HEAD + "train: {steps: 0}\n", "f:3:16: `train.steps` must be at least 1, but 0 was given."),
    "nan": (HEAD + "train: {lr: .nan}\n", "f:3:13: `train.lr` must be a finite number, but nan was given."),
    "5000 digits": (
        HEAD + "train: {seed: " + "9" * 5000 + "}\n",
        "f:3:15: `train.seed` must have at most 4300 digits, but has more.",
    ),
    "closed vocabulary": (
        HEAD + "precision: {params: float23}\n",
        (
            'f:3:21: `precision.params` must be `float32`, `bfloat16` or `float16`, but the string "float23" was given;'
            " did you mean `float32`?"
        ),
    ),
    "engine is no mapping": (
        HEAD.replace("width", "engine: [1], width"),
        "f:2:35: `model.engine` must be a mapping of names to values, but a list was given.",
    ),
    "half a surrogate pair": (
        HEAD + 'name: "\\ud800"\n',
        "f:3:7: `name` contains half of a surrogate pair, which is not a character.",
    ),
    "NUL": (HEAD + "name: \0\n", "f:3:7: this is a binary file, not a config."),
    "control character": (HEAD + "name: \x01\n", "f:3:7: the character `\\x01` is not allowed in YAML; remove it."),
    "impossible escape": (
        HEAD + 'name: "\\UFFFFFFFF"\n',
        "f:3:5: this is not YAML: something after this cannot be read.",
    ),
    "path for a name": (
        HEAD + "name: ../x\n",
        (
            "f:3:7: `name` must start with a letter or digit and contain only letters, digits, spaces and `._+-`,"
            ' because it names a folder, but the string "../x" was given.'
        ),
    ),
    "dotted key": (
        HEAD + '"train.steps": 5\n',
        "f:3:1: `train.steps` is not a field of `RunConfig`; did you mean `train`?",
    ),
    "batches": (
        HEAD + "train: {micro_batch: 3, global_batch: 8}\n",
        "f:3:39: `global_batch` must be a multiple of `micro_batch`, but 8 is not a multiple of 3; use 6 or 9.",
    ),
    "schedule": (
        HEAD + "train:\n  steps: 5\n  lr: 1e-3\n  lr_schedule:\n    kind: linear\n    warmup_steps: 5\n    min_lr: 1\n",
        "f:9:13: `lr_schedule.min_lr` must be at most `lr`, but 1.0 is above 0.001.",
    ),
    "everything at once": (
        HEAD + "train: {stepz: 3, lr_schedule: {kind: cosin}, seed: x}\nwrap: {kind: ddp, bucket_size: 0}\nnam: x\n",
        (
            "f:3:9: `train.stepz` is not a field of `TrainConfig`; did you mean `steps`?\n"
            "f:3:39: `train.lr_schedule.kind` must be `cosine`, `linear` or `constant`, but `cosin` was given;"
            " did you mean `cosine`?\n"
            'f:3:53: `train.seed` must be an integer, but the string "x" was given.\n'
            "f:4:32: `wrap.bucket_size` must be at least 1 or null, but 0 was given.\n"
            "f:5:1: `nam` is not a field of `RunConfig`; did you mean `name`?"
        ),
    ),
}


@pytest.mark.parametrize("case", BAD_YAML)
def test_bad_yaml(case: str) -> None:
    text, expected = BAD_YAML[case]
    assert message_of(text) == expected


BAD_JSON = {
    '{"a": {"b": 1}': "f:1:15: the text ends too early: expecting ',' delimiter.",
    '{"a": 1,}': "f:1:9: this is not JSON: expecting property name enclosed in double quotes.",
    '{"a" 1}': "f:1:6: this is not JSON: expecting ':' delimiter.",
    '{"a": nul}': "f:1:7: this is not JSON: expecting value.",
    '{"a": 01}': "f:1:8: this is not JSON: expecting ',' delimiter.",
    '{"a":\n  "b': "f:2:3: this is not JSON: unterminated string.",
    '{"a": "\t"}': "f:1:8: this is not JSON: invalid control character.",
    '{"a":': "f:1:6: the text ends too early: expecting value.",
    "[" * 10_000: "f:1:65: a config must nest at most 64 levels deep, but this nests deeper.",
    '{"kind": "errors-toy", "width": 1} x': "f:1:36: this is not JSON: extra data.",
    '{"kind": "errors-toy",\n "width": 1, "width": 2}': "f:2:14: `width` is given twice, first in line 2; keep one.",
    '{"kind": "errors-toy",\n "width": "\\ud800"}': (
        "f:2:11: `width` contains half of a surrogate pair, which is not a character."
    ),
    '{"kind": "errors-toy",\n "width": '
    + "1" * 5000
    + "}": "f:2:11: `width` must have at most 4300 digits, but has more.",
    '{"kind": "errors-toy", "widht": 1}': (
        "f:1:1: `width` is missing; `errors-toy` needs it.\n"
        "f:1:24: `widht` is not a field of `errors-toy`; did you mean `width`?"
    ),
    '"x"': 'f:1:1: a config must be a mapping of names to values, but the string "x" was given.',
}


@pytest.mark.parametrize("text", BAD_JSON, ids=range(len(BAD_JSON)))
def test_bad_json(text: str) -> None:
    assert message_of(text, "json") == BAD_JSON[text]


def test_a_family_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kind_registry._KNOWN_FAMILIES, "lost", "modelwright-lost")
    assert message_of(HEAD.replace("errors-toy", "lost")) == (
        "f:2:15: `model.kind` `lost` is the family of `modelwright-lost`, which is not installed;"
        " run `pip install modelwright-lost`."
    )


def test_a_family_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kind_registry._FAILED, "bad", "the family `bad` of `a` could not be imported: no")
    assert message_of(HEAD.replace("errors-toy", "zzz")).endswith(
        "but `zzz` was given. (the family `bad` of `a` could not be imported: no)"
    )


def test_loading_imports_nothing_that_a_file_names(tmp_path: Path) -> None:
    """Whatever stands in the file, the modules are those of a file that names nothing."""
    (tmp_path / "hostile_part.py").write_text("raise SystemExit('imported')")
    code = """
import sys
from modelwright.config import ConfigError, loads
head = "modelwright: 1\\nmodel: {kind: %s}\\n"
def attempt(text):
    try:
        loads(text)
    except ConfigError:
        pass
attempt(head % "absent")
before = set(sys.modules)
for name in ("hostile_part", "hostile_part:Config", "os.system", "json.tool", "../hostile_part"):
    attempt(head % name)
    attempt(head % "absent" + f"_target_: {name}\\nbuilder: {name}\\nstack: {name}\\nbackend: {name}\\n")
    attempt(head % f"absent, builder: '{name}'")
    attempt(head % "absent" + f"name: !!python/name:{name} x")
print(sorted(set(sys.modules) - before))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "[]\n"


def test_unknown_format() -> None:
    assert (
        message_of("a: 1", "yml")
        == "f: `format` must be `yaml`, `json` or `toml`, but `yml` was given; did you mean `yaml`?"
    )


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("kind: errors-toy\nwidth: 1\n")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "latin.yaml").write_bytes(b"kind: errors-toy\nwidth: \xe9\n")
    (tmp_path / "binary.yaml").write_bytes(b"\x00\xff\x00")
    (tmp_path / "large.yaml").write_bytes(b"#" * (1024 * 1024 + 1))
    (tmp_path / "run.ini").write_text("kind: errors-toy\n")
    expected = {
        "runn.yaml": "there is no such file; did you mean `run.yaml`?",
        "folder.yaml": "this is a directory; name a file in it.",
        "latin.yaml": "the file must be UTF-8, but this byte is not.",
        "binary.yaml": "this is a binary file, not a config.",
        "large.yaml": "a config may have at most 1048576 bytes, but this is larger.",
        "run.ini": "the name of a config must end in `.yaml`, `.yml`, `.json` or `.toml`, but `run.ini` does not.",
    }
    places = {"latin.yaml": ":2:8", "binary.yaml": ":1:2"}
    for name, message in expected.items():
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}{places.get(name, '')}: {message}"


def test_what_stays_a_string() -> None:
    config = loads(HEAD + "stack: no\ntrain: {data: 2024-01-01}\n")
    assert (config.stack, config.train.data) == ("no", "2024-01-01")  # type: ignore[union-attr]


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xef\xbb\xbfkind: errors-toy\r\nwidth: 1\r\n")
    assert load(tmp_path / "run.yaml") == ErrorsToyConfig(width=1)
    assert dumps(ErrorsToyConfig(width=1)) == "kind: errors-toy\nwidth: 1\n"


def test_a_key_with_a_line_break_stays_on_its_line() -> None:
    """YAML folds such breaks into a plain key; found by fuzzing."""
    assert message_of("na\x85\x85me.: 1\n") == (
        "f:1:1: a config needs `modelwright: 1` (a run) or `kind: …` (a model) at its top, but this has `na\\nme.`."
    )
