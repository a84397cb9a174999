"""Every Protocol and every `…Submodules` field of the installed engine has a slot of ours, or a reason why not.

The engine is read, not imported, so a release that adds a slot fails here with its name on the day it is installed.
"""

import functools
import importlib
import inspect
from collections.abc import Iterable
from pathlib import Path

import pytest

from modelwright import protocols
from modelwright.protocols import SLOTS, Slot, check_conformance
from tests.messages import facts
from tests.policies.engine_source import defined_names, engine_folder, submodules_fields
from tests.policies.engine_source import protocols as engine_protocols

# Fields that take no part.
NO_SLOT = {
    "MambaLayerSubmodules.sharded_state_dict_keys_map": "names of tensors in a checkpoint",
    "TransformerLayerSubmodules.sharded_state_dict_keys_map": "names of tensors in a checkpoint",
}
# The engine's Protocols, and ours for the same thing.
SAME = {
    "CoreAttentionBuilder": "CoreAttentionBuilder",
    "CoreAttentionInterface": "CoreAttentionInterface",
    "ExpertsBuilder": "ExpertsBuilder",
    "ExpertsInterface": "ExpertsInterface",
    "GatedDeltaRuleInterface": "GatedDeltaRuleInterface",
    "GroupedLinearFc1Builder": "GroupedLinearFc1Builder",
    "GroupedLinearFc1Interface": "GroupedLinearFc1Interface",
    "GroupedLinearFc2Builder": "GroupedLinearFc2Builder",
    "GroupedLinearFc2Interface": "GroupedLinearFc2Interface",
    "LayerNormBuilder": "NormBuilder",
    "LayerNormInterface": "NormInterface",
    "LinearFc1Builder": "LinearFc1Builder",
    "LinearFc1Interface": "LinearFc1Interface",
    "LinearFc2Builder": "LinearFc2Builder",
    "LinearFc2Interface": "LinearFc2Interface",
    "LinearInterface": "LinearLayerInterface",
    "LinearLayerBuilder": "LinearLayerBuilder",
    "LinearProjBuilder": "LinearProjBuilder",
    "LinearProjInterface": "LinearProjInterface",
    "LinearQkvBuilder": "LinearQkvBuilder",
    "LinearQkvInterface": "LinearQkvInterface",
    "MlpBuilder": "MlpBuilder",
    "MlpInterface": "MlpInterface",
    "RouterBuilder": "RouterBuilder",
    "RouterInterface": "RouterInterface",
    "SharedExpertsBuilder": "SharedExpertsBuilder",
    "SharedExpertsInterface": "SharedExpertsInterface",
    "TEActivationFunctionBuilder": "ActivationFunctionBuilder",
    "TEActivationFunctionInterface": "ActivationFunctionInterface",
}
NO_PART = {
    "BackendSpecProvider": "chooses parts for several slots; a backend, not a part",
    "CudnnDsaInterface": "a module of kernels",
    "S3Client": "a client of a store of data",
    "_FaultInjectorRNG": "a generator of random numbers",
    "_Module": "types the call of any module",
}


def without_slot(folder: Path) -> list[str]:
    """The fields of an engine that none of our slots is for."""
    known = {slot.name for slot in SLOTS} | set(NO_SLOT)
    return [f"{field.name} ({field.file})" for field in submodules_fields(folder) if field.name not in known]


def without_protocol(folder: Path) -> list[str]:
    """The Protocols of an engine that we have no counterpart of."""
    known = set(SAME) | set(NO_PART)
    return [f"{protocol.name} ({protocol.file})" for protocol in engine_protocols(folder) if protocol.name not in known]


def test_every_field_of_the_engine_has_a_slot() -> None:
    assert without_slot(engine_folder()) == []


def test_every_protocol_of_the_engine_has_one_of_ours() -> None:
    assert without_protocol(engine_folder()) == []
    assert [ours for ours in SAME.values() if ours not in protocols.__all__] == []


def test_no_slot_outlives_the_engine() -> None:
    """A slot, a reason or a counterpart of something that the engine no longer has would stand here for ever."""
    folder = engine_folder()
    fields = {field.name for field in submodules_fields(folder)}
    assert set(NO_SLOT) <= fields
    assert {protocol.name for protocol in engine_protocols(folder)} == set(SAME) | set(NO_PART)
    assert {slot.name for slot in SLOTS if slot.owner.endswith("Submodules")} == fields - set(NO_SLOT)


def test_a_new_slot_and_a_new_protocol_are_named(tmp_path: Path) -> None:
    """The same functions on an engine that has grown."""
    (tmp_path / "new_layer.py").write_text(
        "from dataclasses import dataclass\nfrom typing import Protocol\n"
        "class ShinyBuilder(Protocol):\n    def __call__(self) -> object: ...\n"
        "@dataclass\nclass ShinySubmodules:\n    gem: ShinyBuilder | None = None\n"
    )
    assert without_slot(tmp_path) == ["ShinySubmodules.gem (new_layer.py)"]
    assert without_protocol(tmp_path) == ["ShinyBuilder (new_layer.py)"]


def test_every_caller_and_every_part_that_a_slot_names_exists() -> None:
    folder = engine_folder()
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}
    for slot in SLOTS:
        name, function = slot.caller.split(", ")
        (file,) = [found for found in files if found == name or found.endswith(f"/{name}")]
        assert function in defined_names(folder, file.removesuffix(".py").replace("/", ".")), slot.caller
        for path in slot.filled_by:
            module, _, part = _split(path)
            assert part in defined_names(folder, module), path


def _split(path: str) -> tuple[str, str, str]:
    """Module, dot, and class or function, which may be dotted itself."""
    words = path.split(".")
    first = next(
        index
        for index, word in enumerate(words)
        if (engine_folder() / "/".join(words[: index + 1])).with_suffix(".py").is_file()
    )
    return ".".join(words[: first + 1]), ".", ".".join(words[first + 1 :])


# What of the engine does not fit the slot that the engine itself puts it into, by what our check says of it.
MISFITS = {
    ("TransformerLayerSubmodules.cross_attention", "transformer.attention.CrossAttention"): "`pp_layer_offset`",
    # Both annotate less than they return.
    (
        "DSAttentionSubmodules.indexer",
        "transformer.experimental_attention_variant.dsa.DSAIndexer",
    ): "`typing.Tuple[torch.Tensor, torch.Tensor]` `tuple[Tensor, Tensor, Tensor]`",
    (
        "HybridModel.rotary_pos_emb (yarn)",
        "models.common.embeddings.yarn_rotary_pos_embedding.YarnRotaryEmbedding",
    ): "`forward` `Tensor` `tuple[Tensor, float]`",
}


def _fillers() -> Iterable[tuple[Slot, str]]:
    return [(slot, path) for slot in SLOTS for path in slot.filled_by if not path.startswith("extensions.")]


@pytest.mark.parametrize(("slot", "path"), _fillers(), ids=lambda value: getattr(value, "name", str(value)))
def test_what_the_engine_fills_a_slot_with_fits_it(slot: Slot, path: str) -> None:
    """Our check reads the constructor and `forward` of the engine's own classes."""
    module, _, dotted = _split(path)
    part = functools.reduce(getattr, dotted.split("."), importlib.import_module(f"megatron.core.{module}"))
    bound = {"submodules": None} if "submodules" in inspect.signature(part).parameters else {}
    builder = functools.partial(part, **bound) if bound else part
    expected = MISFITS.get((slot.name, path))
    if expected is None:
        check_conformance(slot.protocol, builder)
        return
    with pytest.raises(protocols.ConformanceError) as refused:
        check_conformance(slot.protocol, builder)
    assert expected in facts(refused.value)
