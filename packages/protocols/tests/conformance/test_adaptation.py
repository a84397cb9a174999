"""`adapt` gives a builder the slot's arguments and refuses a name that is not there; `explain` says what goes where."""

from __future__ import annotations

import functools
import pickle
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from modelwright.protocols import (
    Argument,
    ConformanceError,
    LinearQkvBuilder,
    MlpBuilder,
    NormBuilder,
    SelfAttentionBuilder,
    adapt,
    check_conformance,
    explain,
    from_module_spec,
    parts_of,
)
from tests.messages import facts

GROUPS = SimpleNamespace(tp="the tensor-parallel group")
CONFIG = SimpleNamespace(hidden_size=8)
SLOT: dict[str, Any] = {"config": CONFIG, "pg_collection": GROUPS, "is_mtp_layer": False, "name": "mlp"}


class Mlp:
    """Written for another framework."""

    def __init__(self, width: int, *, settings: Any, tp_group: object, rank: int = 16) -> None:
        self.given = (width, settings, tp_group, rank)

    def forward(self, hidden_SBH: Any, *, padding_mask: Any = None) -> tuple[Any, None]:
        return hidden_SBH, None


class WrongMlp(Mlp):
    def forward(self, hidden_SBH: Any) -> Any:  # type: ignore[override]
        return hidden_SBH


class Norm:
    def __init__(self, size: int, eps: float = 1e-5, **more: object) -> None:
        self.given = (size, eps, more)

    def forward(self, hidden_SBH: Any) -> Any:
        return hidden_SBH


def build_mlp(config: Any, **slot: Any) -> Mlp:
    return Mlp(1, settings=config, tp_group=slot)


def width(config: Any) -> int:
    return int(config.hidden_size)


def positional(config: Any, /) -> int:
    return int(config.hidden_size)


ADAPTED = adapt(
    Mlp,
    drop=("is_mtp_layer", "name"),
    rename={"settings": "config"},
    derive={"tp_group": "pg_collection.tp", "width": width},
    slot=MlpBuilder,
)


def test_it_builds_with_the_slots_arguments() -> None:
    assert ADAPTED(**SLOT).given == (8, CONFIG, "the tensor-parallel group", 16)


def test_it_pickles_and_composes_with_partial_on_both_sides() -> None:
    outside = pickle.loads(pickle.dumps(functools.partial(ADAPTED, rank=2)))  # noqa: S301 - our own bytes
    inside = adapt(
        functools.partial(Mlp, 4, rank=2),
        drop=("is_mtp_layer", "name"),
        rename={"settings": "config"},
        derive={"tp_group": "pg_collection.tp"},
    )
    check_conformance(MlpBuilder, outside)
    check_conformance(MlpBuilder, inside)
    given = {**SLOT, "config": SLOT["config"]}
    assert outside(**given).given[3] == 2
    assert inside(**given).given == (4, CONFIG, "the tensor-parallel group", 2)


def test_it_adapts_functions_and_what_takes_any_keyword() -> None:
    check_conformance(MlpBuilder, adapt(build_mlp, drop=("name",)))
    norm = adapt(Norm, rename={"size": "hidden_size"}, drop=("config",), slot=NormBuilder)
    assert norm(config=CONFIG, hidden_size=3, eps=0.1).given == (3, 0.1, {})
    assert adapt(build_mlp, drop=("name",))(**SLOT).given[2] == {"pg_collection": GROUPS, "is_mtp_layer": False}


def test_adapting_again_works() -> None:
    again = adapt(adapt(Norm, rename={"size": "hidden"}), rename={"hidden": "hidden_size"}, drop=("config",))
    check_conformance(NormBuilder, again)
    assert again(config=CONFIG, hidden_size=3, eps=0.1).given == (3, 0.1, {})


def test_names_can_be_swapped() -> None:
    def part(*, config: Any, eps: Any, hidden_size: Any) -> Any:
        return eps, hidden_size

    swapped = adapt(part, rename={"eps": "hidden_size", "hidden_size": "eps"})
    assert swapped(config=0, hidden_size=1, eps=2) == (1, 2)


def test_a_value_of_the_slot_can_be_replaced_by_a_derived_or_a_renamed_one() -> None:
    def part(*, config: Any, hidden_size: Any, eps: Any) -> Any:
        return hidden_size, eps

    derived = adapt(part, drop=("hidden_size",), derive={"hidden_size": width}, slot=NormBuilder)
    assert derived(config=CONFIG, hidden_size=1, eps=2) == (8, 2)
    renamed = adapt(part, drop=("eps",), derive={"eps": "hidden_size"}, slot=NormBuilder)
    assert renamed(config=CONFIG, hidden_size=1, eps=2) == (1, 1)
    assert explain(derived, NormBuilder).splitlines()[1:] == [
        "  config       slot",
        "  hidden_size  derived  width(config)",
        "  eps          slot",
        "  hidden_size  dropped",
    ]


def test_positions_pass_through() -> None:
    def linear(size_in: int, size_out: int, *args: int, settings: Any, **more: Any) -> Any:
        return size_in, size_out, args, settings, more

    adapted = adapt(linear, rename={"settings": "config"}, drop=("name",))
    check_conformance(LinearQkvBuilder, adapted)
    assert adapted(1, 2, 3, config=4, name="x", bias=True) == (1, 2, (3,), 4, {"bias": True})


def test_the_forward_behind_an_adapted_builder_is_still_checked() -> None:
    with pytest.raises(ConformanceError) as caught:
        adapt(WrongMlp, drop=("is_mtp_layer", "name", "pg_collection"), rename={"settings": "config"}, slot=MlpBuilder)
    assert facts(caught.value).startswith("`adapt(WrongMlp)` `MlpBuilder`")
    assert "`forward` `WrongMlp` `padding_mask`" in facts(caught.value)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "rename what is not there": (
        {"rename": {"setings": "config"}},
        "`rename` `setings` `Mlp` `width` `settings` `tp_group` `rank` `settings`",
    ),
    "derive what is not there": (
        {"derive": {"group": "pg_collection.tp"}},
        "`derive` `group` `Mlp` `width` `settings` `tp_group` `rank` `tp_group`",
    ),
    "drop what is required": (
        {"drop": ("settings",)},
        "`drop` `settings` `Mlp` `derive`",
    ),
    "rename onto itself": (
        {"rename": {"settings": "rank"}},
        "`rename` `rank` `settings` `rank` `derive={'settings': 'rank'}`",
    ),
    "rename and derive": (
        {"rename": {"settings": "config"}, "derive": {"settings": "config"}},
        "`settings` `rename` `derive`",
    ),
    "drop and rename": (
        {"rename": {"settings": "config"}, "drop": ("config",)},
        "`config` `drop` `settings` `rename`",
    ),
    "a lambda": (
        {"derive": {"width": lambda config: config}},
        "`derive` `width`",
    ),
    "no path": (
        {"derive": {"width": "pg collection"}},
        "`derive` `width` 'pg collection' `pg_collection.tp`",
    ),
    "a value": (
        {"derive": {"width": 3}},
        "`derive` `width` 3 `functools.partial`",
    ),
    "positions": (
        {"derive": {"width": positional}},
        "`derive` `width` `positional` `/` `*`",
    ),
    "written in C": (
        {"derive": {"width": dict}},
        "`derive` `width` `dict` `dict`",
    ),
}


@pytest.mark.parametrize(("options", "problem"), REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_be_adapted_is_refused_at_once(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        adapt(Mlp, **options)
    assert [facts(one) for one in caught.value.problems] == [problem]
    assert facts(caught.value) == f"`Mlp` {problem}"


def test_one_string_is_not_names_to_drop() -> None:
    with pytest.raises(ConformanceError) as caught:
        adapt(Mlp, drop="name")
    assert facts(caught.value) == "`drop` 'name' `('name',)`"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"drop": ("nam",)}, "`nam` "),
        ({"rename": {"settings": "confg"}}, "`confg`"),
        ({"derive": {"tp_group": "groups.tp"}}, "`groups` `config`"),
    ],
)
def test_the_slot_must_pass_what_is_dropped_renamed_or_derived_from(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        adapt(Mlp, slot=MlpBuilder, **options)
    (found,) = [facts(text) for text in caught.value.problems if facts(text).startswith(problem)]
    assert "`config` `pg_collection` `is_mtp_layer` `name`" in found


def test_a_call_that_does_not_fit_says_so() -> None:
    with pytest.raises(ConformanceError) as caught:
        ADAPTED(config=CONFIG)
    assert facts(caught.value).startswith("`adapt(Mlp)`")
    assert facts(caught.value).endswith("'pg_collection'")
    with pytest.raises(ConformanceError) as caught:
        ADAPTED(**{**SLOT, "pg_collection": None})
    assert facts(caught.value) == "`tp_group` `Mlp` `pg_collection.tp` `tp` `NoneType`"


def test_explain_shows_every_origin() -> None:
    assert explain(functools.partial(ADAPTED, rank=2), MlpBuilder) == (
        "Mlp fills MlpBuilder\n"
        "  width         derived  width(config)\n"
        "  settings      slot     `config`\n"
        "  tp_group      derived  pg_collection.tp\n"
        "  rank          bound    2\n"
        "  is_mtp_layer  dropped\n"
        "  name          dropped"
    )


def test_explain_without_a_slot_takes_what_has_no_default_from_it() -> None:
    assert explain(functools.partial(Mlp, 4)) == (
        "Mlp\n  width     bound    4\n  settings  slot\n  tp_group  slot\n  rank      default  16"
    )


def test_what_nothing_gives_is_missing_and_what_comes_sometimes_says_so() -> None:
    assert Argument("width", "missing") in parts_of(Mlp, MlpBuilder).arguments

    def attention(config: Any, layer_number: int, cp_comm_type: str = "p2p", **slot: Any) -> Any: ...

    arguments = {argument.name: argument for argument in parts_of(attention, SelfAttentionBuilder).arguments}
    assert arguments["cp_comm_type"] == Argument("cp_comm_type", "slot", "sometimes, else 'p2p'")
    assert arguments["name"] == Argument("name", "slot")


@dataclass(frozen=True)
class Spec:
    """Holds builders and is one, as the specs of modelwright.layers are."""

    norm: NormBuilder
    other: NormBuilder | None = None

    def __call__(self, *, config: Any, pg_collection: Any, is_mtp_layer: bool, name: str | None) -> Mlp:
        raise NotImplementedError


def test_parts_inside_a_part_are_found() -> None:
    spec = Spec(norm=adapt(Norm, rename={"size": "hidden_size"}, drop=("config",)))
    part = parts_of(functools.partial(build_mlp, inner=spec), MlpBuilder)
    ((name, inner),) = part.parts
    assert name == "inner"
    assert inner is not None
    assert [slot for slot, _ in inner.parts] == ["norm", "other"]
    assert inner.parts[1] == ("other", None)
    assert explain(spec, MlpBuilder) == (
        "Spec fills MlpBuilder\n"
        "  config         slot\n"
        "  pg_collection  slot\n"
        "  is_mtp_layer   slot\n"
        "  name           slot\n"
        "  norm: Norm fills NormBuilder\n"
        "    size    slot     `hidden_size`\n"
        "    eps     slot\n"
        "    config  dropped\n"
        "  other: not set"
    )


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(ConformanceError) as caught:
        explain(dict)
    assert facts(caught.value) == "`dict` `dict`"


@dataclass
class ModuleSpec:
    """As the engine's."""

    module: Any
    params: dict[str, Any]
    submodules: object = None


class Legacy(Mlp):
    def __init__(self, config: Any, pg_collection: Any, is_mtp_layer: bool, name: str | None, submodules: Any) -> None:
        super().__init__(1, settings=config, tp_group=submodules)


@pytest.mark.parametrize("module", [Legacy, (__name__, "Legacy")], ids=["class", "place"])
def test_a_legacy_spec_becomes_a_builder_that_can_be_explained(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, __name__, SimpleNamespace(Legacy=Legacy))
    with pytest.warns(DeprecationWarning, match=r"^`Legacy` .*`ModuleSpec`"):
        builder: MlpBuilder = from_module_spec(ModuleSpec(module, {}, submodules="inside"), MlpBuilder)
    assert "submodules     bound" in explain(builder, MlpBuilder)
    assert builder(**SLOT).given[2] == "inside"  # type: ignore[attr-defined]


def test_a_legacy_function_fills_the_slot_itself() -> None:
    with pytest.warns(DeprecationWarning, match="ModuleSpec"):
        assert from_module_spec(build_mlp, MlpBuilder) is build_mlp
    with pytest.warns(DeprecationWarning, match="ModuleSpec"), pytest.raises(ConformanceError) as caught:
        from_module_spec(ModuleSpec(build_mlp, {"rank": 1}), MlpBuilder)
    assert facts(caught.value) == "`build_mlp` `MlpBuilder` `rank` `functools.partial`"


def test_a_legacy_spec_that_does_not_fit_or_cannot_be_found_is_refused() -> None:
    with (
        pytest.warns(DeprecationWarning, match="ModuleSpec"),
        pytest.raises(ConformanceError, match="`MlpBuilder`"),
    ):
        from_module_spec(ModuleSpec(Mlp, {}), MlpBuilder)
    with pytest.raises(ConformanceError) as caught:
        from_module_spec(("no_such_module", "Mlp"), MlpBuilder)
    assert facts(caught.value) == "`ModuleSpec` 'no_such_module' 'Mlp' ModuleNotFoundError 'no_such_module'"


def test_an_error_survives_the_way_between_processes() -> None:
    error = ConformanceError("`A` cannot fill `B`", ["one", "two"])
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (str(again), again.problems) == (str(error), error.problems)
