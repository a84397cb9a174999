"""Resolving a config and building a model from it does not change the config, by its fingerprint."""

import pytest

from modelwright.builders import builder_for
from modelwright.config import NoWrap, Parallelism, Precision, fingerprint, loads
from modelwright.distributed import finalize, initialize
from modelwright.engine import device_runtime
from modelwright.gpt import GPTModelConfig
from modelwright.layers import resolve

pytestmark = pytest.mark.filterwarnings("ignore")
TEXT = """
kind: gpt
num_layers: 2
hidden_size: 32
num_attention_heads: 4
vocab_size: 32
seq_length: 16
engine: {recompute_granularity: selective, recompute_modules: [core_attn], deterministic_mode: true}
"""


def test_building_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # The engine writes its attention backend into the process's environment, and refuses another one from then on.
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NVTE_FLASH_ATTN", "NVTE_FUSED_ATTN", "NVTE_UNFUSED_ATTN"):
        monkeypatch.delenv(name, raising=False)
    config, parallelism, precision, wrap = loads(TEXT), Parallelism(), Precision(), NoWrap()
    assert isinstance(config, GPTModelConfig)
    before = fingerprint(config), hash((parallelism, precision, wrap))
    first = vars(resolve(config, parallelism, precision))
    with device_runtime():
        groups = initialize(parallelism)
        (stage,) = builder_for(config).build_distributed_models(
            groups, parallelism=parallelism, precision=precision, wrap=wrap
        )
        finalize()
    engine = stage.config
    assert engine.recompute_modules == ["core_attn"]
    engine.recompute_modules.append("mlp")
    engine.hidden_size = 99
    assert (fingerprint(config), hash((parallelism, precision, wrap))) == before
    assert config == loads(TEXT)
    assert vars(resolve(config, parallelism, precision)) == first
