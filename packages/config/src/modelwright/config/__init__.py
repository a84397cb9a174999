"""Strict, lossless configs of models and runs; no torch.

A config is frozen data: what a model is (`ModelConfig`, one subclass for each family), how it is cut over ranks
(`Parallelism`), its number formats (`Precision`), how it becomes data-parallel (`Wrap`), how it is trained
(`TrainConfig`), and all of that as one file (`RunConfig`). Everything wrong with a config is reported at once, as a
`ConfigError`. `load`, `loads`, `save` and `dumps` move configs to and from YAML and JSON without loss (TOML is read);
`override` and `replace` make changed copies, `diff` compares two, `fingerprint` names their content. Families register
their classes by `kind` (`register_config`), and how to read old versions (`migration`) and upstream's dictionaries
(`register_upstream`, for `convert`). `json_schema` is for editors.

    from modelwright.config import RunConfig, load, override

    run = override(load("docs/examples/gpt-tiny.yaml"), "train.steps=5")
"""

from modelwright.config._activations import (
    activation_is_gated,
    activation_names,
    activation_problem,
    register_activation_name,
)
from modelwright.config._base import Config, config_class, replace
from modelwright.config._by_kind import OneOf, quoted_list
from modelwright.config._codec import dumps, fingerprint, load, loads, migrate, save
from modelwright.config._decoder import DecoderConfig
from modelwright.config._diff import ABSENT, Difference, diff
from modelwright.config._errors import ConfigError, Problem
from modelwright.config._experts import ExpertsConfig
from modelwright.config._frozen import FrozenMapping, PlainValue
from modelwright.config._layout import check_layout
from modelwright.config._migrations import Migration, migration, missing_migrations
from modelwright.config._model import ModelConfig
from modelwright.config._numbers import (
    Count,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    UnitFraction,
)
from modelwright.config._override import override
from modelwright.config._parallelism import Parallelism
from modelwright.config._precision import Precision
from modelwright.config._presets import preset, presets, register_preset, register_preset_module
from modelwright.config._registry import config_class_for, register_config, registered_kinds
from modelwright.config._rope import Llama3RopeScaling
from modelwright.config._rules import divides, multiple_of
from modelwright.config._run import RunConfig
from modelwright.config._schedule import ConstantSchedule, CosineSchedule, LinearSchedule, LrSchedule
from modelwright.config._schema import field_descriptions, json_schema
from modelwright.config._train import TrainConfig
from modelwright.config._upstream import Unmapped, UpstreamSection, register_upstream, register_upstream_module
from modelwright.config._upstream_run import Converted, convert, convert_file
from modelwright.config._wrap import MegatronDDP, MegatronFSDP, NoWrap, TorchFSDP2, Wrap

__all__ = [
    "ABSENT",
    "Config",
    "ConfigError",
    "ConstantSchedule",
    "Converted",
    "CosineSchedule",
    "Count",
    "DecoderConfig",
    "Difference",
    "ExpertsConfig",
    "Fraction",
    "FrozenMapping",
    "LinearSchedule",
    "Llama3RopeScaling",
    "LrSchedule",
    "MegatronDDP",
    "MegatronFSDP",
    "Migration",
    "ModelConfig",
    "NoWrap",
    "NonNegativeFloat",
    "NonNegativeInt",
    "OneOf",
    "Parallelism",
    "PlainValue",
    "PositiveFloat",
    "Precision",
    "Problem",
    "RunConfig",
    "TorchFSDP2",
    "TrainConfig",
    "UnitFraction",
    "Unmapped",
    "UpstreamSection",
    "Wrap",
    "activation_is_gated",
    "activation_names",
    "activation_problem",
    "check_layout",
    "config_class",
    "config_class_for",
    "convert",
    "convert_file",
    "diff",
    "divides",
    "dumps",
    "field_descriptions",
    "fingerprint",
    "json_schema",
    "load",
    "loads",
    "migrate",
    "migration",
    "missing_migrations",
    "multiple_of",
    "override",
    "preset",
    "presets",
    "quoted_list",
    "register_activation_name",
    "register_config",
    "register_preset",
    "register_preset_module",
    "register_upstream",
    "register_upstream_module",
    "registered_kinds",
    "replace",
    "save",
]
