"""Strict, lossless configs of models and runs, without torch.

A config is frozen data. `ModelConfig` describes a model, with one subclass for each family. `Parallelism` gives the
sizes of the axes, `Precision` the dtypes, `Wrap` the data-parallel wrapper, and `TrainConfig` the training. `RunConfig`
combines them in one file. `ConfigError` reports everything that is wrong with a config at once.

`load`, `loads`, `save` and `dumps` read and write YAML and JSON without loss; TOML is read. `override` and `replace`
make changed copies, `diff` compares two configs, and `fingerprint` hashes their content. `json_schema` is for editors.

A family registers its class by `kind` (`register_config`), functions for old versions (`migration`), and readers of
Megatron-Core's dictionaries for `convert` (`register_upstream`).

    from modelwright.config import RunConfig, load, override

    run = override(load("docs/examples/gpt-tiny.yaml"), "train.steps=5")
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelwright.config.files.field_diff import ABSENT, Difference, diff
    from modelwright.config.files.json_schema import field_descriptions, json_schema
    from modelwright.config.files.load import dumps, fingerprint, load, loads, migrate, save
    from modelwright.config.files.overrides import override
    from modelwright.config.from_megatron.decoder_fields import (
        decoder_fields,
        expert_fields,
        is_convertible,
        layers_of_pattern,
    )
    from modelwright.config.from_megatron.dictionaries import (
        Unmapped,
        UpstreamSection,
        register_upstream,
        register_upstream_module,
    )
    from modelwright.config.from_megatron.run_files import Converted, convert, convert_file
    from modelwright.config.model.activations import (
        activation_is_gated,
        activation_names,
        activation_problem,
        register_activation_name,
    )
    from modelwright.config.model.base import ModelConfig
    from modelwright.config.model.decoder import DecoderConfig
    from modelwright.config.model.engine_names import EXPERT_ENGINE_NAMES
    from modelwright.config.model.experts import ExpertsConfig
    from modelwright.config.model.fixed_engine_fields import COMPUTED_ENGINE_FIELDS, FIXED_ENGINE_FIELDS, FixedField
    from modelwright.config.model.kind_registry import config_class_for, register_config, registered_kinds
    from modelwright.config.model.layer_kinds import (
        ATTENTION,
        GATED_DELTA_NET,
        LAYER_KINDS,
        MAMBA,
        MLA,
        MLP,
        MOE,
        PREDICTION_SEPARATOR,
        SPARSE_ATTENTION,
        STAGE_BOUNDARY,
        LayerKind,
        layer_kind,
    )
    from modelwright.config.model.preset_registry import preset, presets, register_preset, register_preset_module
    from modelwright.config.model.rope import Llama3RopeScaling, RopeScaling, YarnRopeScaling
    from modelwright.config.problems.numbers import (
        Count,
        Fraction,
        NonNegativeFloat,
        NonNegativeInt,
        PositiveFloat,
        UnitFraction,
    )
    from modelwright.config.problems.problem import ConfigError, Problem, ProblemCode
    from modelwright.config.problems.rules import divides, multiple_of, without_effect
    from modelwright.config.problems.wording import quoted_list
    from modelwright.config.run.dtypes import Precision
    from modelwright.config.run.layout import check_layout
    from modelwright.config.run.lr_schedule import ConstantSchedule, CosineSchedule, LinearSchedule, LrSchedule
    from modelwright.config.run.parallelism import Parallelism
    from modelwright.config.run.run import RunConfig
    from modelwright.config.run.train import TrainConfig
    from modelwright.config.run.wrap import MegatronDDP, MegatronFSDP, NoWrap, TorchFSDP2, Wrap
    from modelwright.config.strict.by_kind import OneOf
    from modelwright.config.strict.config_class import AddedLater, Config, config_class, replace
    from modelwright.config.strict.frozen_mapping import FrozenMapping, PlainValue
    from modelwright.config.strict.migrations import Migration, migration, missing_migrations
else:
    from modelwright.protocols import lazy_door

    __getattr__, __dir__ = lazy_door(__name__, __file__)

__all__ = [
    "ABSENT",
    "ATTENTION",
    "COMPUTED_ENGINE_FIELDS",
    "EXPERT_ENGINE_NAMES",
    "FIXED_ENGINE_FIELDS",
    "GATED_DELTA_NET",
    "LAYER_KINDS",
    "MAMBA",
    "MLA",
    "MLP",
    "MOE",
    "PREDICTION_SEPARATOR",
    "SPARSE_ATTENTION",
    "STAGE_BOUNDARY",
    "AddedLater",
    "Config",
    "ConfigError",
    "ConstantSchedule",
    "Converted",
    "CosineSchedule",
    "Count",
    "DecoderConfig",
    "Difference",
    "ExpertsConfig",
    "FixedField",
    "Fraction",
    "FrozenMapping",
    "LayerKind",
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
    "ProblemCode",
    "RopeScaling",
    "RunConfig",
    "TorchFSDP2",
    "TrainConfig",
    "UnitFraction",
    "Unmapped",
    "UpstreamSection",
    "Wrap",
    "YarnRopeScaling",
    "activation_is_gated",
    "activation_names",
    "activation_problem",
    "check_layout",
    "config_class",
    "config_class_for",
    "convert",
    "convert_file",
    "decoder_fields",
    "diff",
    "divides",
    "dumps",
    "expert_fields",
    "field_descriptions",
    "fingerprint",
    "is_convertible",
    "json_schema",
    "layer_kind",
    "layers_of_pattern",
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
    "without_effect",
]
