"""Twenty mistakes in one file give twenty problems, each with its place, and any broken file gives a message."""

from pathlib import Path

import pytest

from modelwright.config import ConfigError, load, loads

TWENTY = """\
modelwright: 1
name: ../up
nmae: x
model:
  kind: gpt
  num_layers: 0
  hidden_size: "256"
  num_attention_heads: 8.0
  vocab_size: true
  seq_length: null
  activation: 3
  normalization: rmsnrom
  norm_epsilon: -1e-5
  rotary_percent: 1.5
  tie_embedings: true
  rope_scaling: {kind: lama3}
precision: {params: fp16}
wrap: {kind: ddp, bucket_size: 0, overlap_grad_reduce: yes}
train:
  steps: many
  adam_beta1: 1.0
  lr: .inf
  lr_schedule: {kind: cosine, warmup: 3}
"""
EXPECTED = """\
f:3:1: `nmae` is not a field of `RunConfig`; did you mean `name`?
f:6:15: `model.num_layers` must be at least 1, but 0 was given.
f:7:16: `model.hidden_size` must be an integer, but the string "256" was given.
f:8:24: `model.num_attention_heads` must be an integer, but 8.0 was given.
f:9:15: `model.vocab_size` must be an integer, but true was given.
f:10:15: `model.seq_length` must be an integer, but null was given.
f:11:15: `model.activation` must be a string, but 3 was given.
f:12:18: `model.normalization` must be `rmsnorm` or `layernorm`, but the string "rmsnrom" was given; did you mean \
`rmsnorm`?
f:13:17: `model.norm_epsilon` must be above 0.0, but -1e-05 was given.
f:14:19: `model.rotary_percent` must be at most 1.0, but 1.5 was given.
f:15:3: `model.tie_embedings` is not a field of `gpt`; did you mean `tie_embeddings`?
f:16:24: `model.rope_scaling.kind` must be `llama3` or `yarn`, but `lama3` was given; did you mean `llama3`?
f:17:21: `precision.params` must be `float32`, `bfloat16` or `float16`, but the string "fp16" was given.
f:18:32: `wrap.bucket_size` must be at least 1 or null, but 0 was given.
f:18:56: `wrap.overlap_grad_reduce` must be true or false, but the string "yes" was given.
f:20:10: `train.steps` must be an integer, but the string "many" was given.
f:21:15: `train.adam_beta1` must be below 1.0, but 1.0 was given.
f:22:7: `train.lr` must be a finite number, but inf was given.
f:23:31: `train.lr_schedule.warmup` is not a field of `cosine`; did you mean `warmup_steps`?
"""


def test_twenty_mistakes_are_twenty_entries() -> None:
    with pytest.raises(ConfigError) as caught:
        loads(TWENTY.replace("name: ../up", "stack: 5"), source="f")
    entries = str(caught.value).splitlines()
    assert entries == ["f:2:8: `stack` must be a string or null, but 5 was given.", *EXPECTED.splitlines()]
    assert len(entries) == len(caught.value.problems) == 20


def test_the_problems_can_be_read_by_a_program() -> None:
    with pytest.raises(ConfigError) as caught:
        loads(TWENTY, source="f")
    found = {(one.source, one.line, one.column, one.path) for one in caught.value.problems}
    assert ("f", 20, 10, "train.steps") in found
    assert ("f", 12, 18, "model.normalization") in found


@pytest.mark.parametrize("suffix", [".yaml", ".json", ".toml"])
def test_fifty_megabytes_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"large{suffix}"
    path.write_bytes(b"a: 1\n" * 10_000_000)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: a config may have at most 1048576 bytes, but this is larger."
