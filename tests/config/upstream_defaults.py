"""The defaults of upstream's config classes: the table with which `convert` compares."""

import dataclasses
from pathlib import Path
from typing import Any

from modelwright.config.from_megatron.dictionaries import plain_upstream
from modelwright.config.strict.plain_data import canonical, not_plain

PATH = Path(__file__).parents[2] / "packages/config/src/modelwright/config/from_megatron/defaults.json"
# Sizes of the model that a TransformerConfig is made of here, and what follows from them.
SIZES = {"num_layers", "hidden_size", "num_attention_heads", "num_query_groups", "kv_channels", "ffn_hidden_size"}


def table() -> dict[str, dict[str, list[Any]]]:
    """Return by class and field: the declared default, and the value after the class has derived its fields."""
    from megatron.core.distributed import DistributedDataParallelConfig
    from megatron.core.optimizer import OptimizerConfig
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.transformer_config import MLATransformerConfig
    from megatron.training import config
    from megatron.training.models import GPTModelConfig, HybridModelConfig

    def transformer() -> TransformerConfig:
        return TransformerConfig(num_layers=2, hidden_size=64, num_attention_heads=4)

    sections = [
        *(config.RNGConfig, config.ProfilingConfig, config.DistributedInitConfig, config.TrainingConfig),
        *(config.ValidationConfig, config.SchedulerConfig, config.LoggerConfig, config.CheckpointConfig),
        *(config.TokenizerConfig, config.RerunStateMachineConfig, config.StragglerDetectionConfig),
        *(config.InferenceSetupConfig, DistributedDataParallelConfig, OptimizerConfig),
    ]
    latent = MLATransformerConfig(num_layers=2, hidden_size=64, num_attention_heads=4)
    made = [cls() for cls in sections] + [transformer(), latent]
    made += [cls(transformer=transformer()) for cls in (GPTModelConfig, HybridModelConfig)]
    found = {_path(type(one)): _fields(type(one), one) for one in made}
    for container in (config.PretrainConfigContainer, config.InferenceConfigContainer):
        found[_path(container)] = {"straggler": [None]} if container is config.PretrainConfigContainer else {}
    return found


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _fields(cls: Any, made: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for field in dataclasses.fields(cls):
        values = [getattr(made, field.name, None)]
        if field.default is not dataclasses.MISSING:
            values.insert(0, field.default)
        if field.default_factory is not dataclasses.MISSING:
            values.insert(0, field.default_factory())
        plain = [
            plain_upstream(value) for value in values if not callable(value) and not dataclasses.is_dataclass(value)
        ]
        different = {canonical(value): value for value in plain if not any(not_plain(value))}
        if different and field.name not in SIZES and not field.name.startswith("_"):
            found[field.name] = list(different.values())
    return found


def text() -> str:
    """Return the text of the file, with one line for each field."""
    import json

    classes = []
    for name, fields in sorted(table().items()):
        lines = ",\n".join(f"    {json.dumps(field)}: {json.dumps(values)}" for field, values in sorted(fields.items()))
        classes.append(f"  {json.dumps(name)}: {{\n{lines}\n  }}" if lines else f"  {json.dumps(name)}: {{}}")
    return "{\n" + ",\n".join(classes) + "\n}\n"
