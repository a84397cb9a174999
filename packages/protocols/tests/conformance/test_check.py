"""What fits is passed in silence; what does not gets one message with everything in it."""

from __future__ import annotations

import contextlib
import functools
import operator
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, Self

import pytest

from modelwright.protocols import (
    BiasDropoutAddBuilder,
    BiasDropoutAddInterface,
    ConformanceError,
    MlpBuilder,
    MlpInterface,
    NormBuilder,
    RotaryEmbeddingBuilder,
    SelfAttentionBuilder,
    SupportsSetLayerNumber,
    check_conformance,
)
from tests.messages import facts

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class Module:
    """Behaves like `torch.nn.Module` where it matters: an untyped call, and a `forward` that only raises."""

    def _forward_unimplemented(self, *inputs: Any) -> None:
        raise NotImplementedError

    forward: Callable[..., Any] = _forward_unimplemented

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)


class Norm(Module):
    @functools.lru_cache  # noqa: B019 - as the engine's rotary embedding does
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x


class GoodMlp(Module):
    def __init__(self, config: Any, pg_collection: Any, is_mtp_layer: bool, name: str | None = None) -> None: ...

    def forward(self, hidden_SBH: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return hidden_SBH, None


class MlpOfNothing(Module):
    """Has another constructor, as a part written for another framework does."""

    def __init__(self, hidden_size: int, *, bias: bool = False) -> None: ...

    def forward(self, hidden_SBH: Tensor, *, padding_mask: Tensor | None = None) -> tuple[Tensor, None]:
        return hidden_SBH, None

    @classmethod
    def for_slot(cls, config: Any, pg_collection: Any, is_mtp_layer: bool, name: str | None) -> Self:
        return cls(config.hidden_size)

    @classmethod
    def without_name(cls, config: Any, pg_collection: Any, is_mtp_layer: bool) -> MlpOfNothing:
        return cls(config.hidden_size)


class WrongForward(GoodMlp):
    def forward(self, hidden_SBH: Tensor) -> Tensor:  # type: ignore[override]
        return hidden_SBH


class WrongConstructor(GoodMlp):
    def __init__(self, config: Any, pg_collection: Any, name: str | None = None) -> None: ...


def build_good(**slot: Any) -> GoodMlp:
    return GoodMlp(**slot)


def build_wrong(**slot: Any) -> WrongForward:
    return WrongForward(**slot)


def build_something(**slot: Any) -> Any:
    return GoodMlp(**slot)


def build_module(**slot: Any) -> Module:
    return GoodMlp(**slot)


def build_unknown(**slot: Any) -> NoSuchName:  # type: ignore[name-defined]  # noqa: F821
    return GoodMlp(**slot)


class Factory:
    """A callable instance."""

    def __call__(self, *, config: Any, pg_collection: Any, is_mtp_layer: bool, name: str | None) -> GoodMlp:
        return GoodMlp(config, pg_collection, is_mtp_layer, name)


class BadFactory:
    def __call__(self, config: Any) -> Norm:
        return Norm()


class Conditional:
    """Makes something else than itself, as the engine's `WrappedTorchNorm` does."""

    def __new__(cls, config: Any, hidden_size: int, eps: float) -> Norm:  # type: ignore[misc]
        return Norm()


@pytest.mark.parametrize(
    "candidate",
    [
        GoodMlp,
        MlpOfNothing.for_slot,
        functools.partial(GoodMlp, name="mlp"),
        functools.partial(functools.partial(GoodMlp), is_mtp_layer=True),
        build_good,
        build_something,
        build_module,
        build_unknown,
        Factory(),
        lambda config, pg_collection, is_mtp_layer, name: GoodMlp(config, pg_collection, is_mtp_layer),
    ],
)
def test_what_fits_passes(candidate: object) -> None:
    check_conformance(MlpBuilder, candidate)


def test_other_slots() -> None:
    check_conformance(MlpInterface, GoodMlp)
    check_conformance(NormBuilder, Conditional)
    check_conformance(BiasDropoutAddBuilder, lambda training, fused: lambda x_with_bias, residual, prob: residual)
    check_conformance(BiasDropoutAddInterface, lambda x_with_bias, residual, prob: residual)


WRONG = {
    "missing keyword": (
        MlpBuilder,
        WrongConstructor,
        (
            "`WrongConstructor` `MlpBuilder` `is_mtp_layer` `is_mtp_layer: bool` `**kwargs` "
            '`adapt(..., drop=("is_mtp_layer",))`'
        ),
    ),
    "another constructor": (
        MlpBuilder,
        MlpOfNothing,
        (
            "`MlpOfNothing` `MlpBuilder`\n"
            '`config` `config: TransformerConfig` `**kwargs` `adapt(..., drop=("config",))`\n'
            "`pg_collection` `pg_collection: ProcessGroupCollection` `**kwargs` "
            '`adapt(..., drop=("pg_collection",))`\n'
            '`is_mtp_layer` `is_mtp_layer: bool` `**kwargs` `adapt(..., drop=("is_mtp_layer",))`\n'
            '`name` `name: str | None` `**kwargs` `adapt(..., drop=("name",))`\n'
            "`hidden_size` `functools.partial(..., hidden_size=...)`"
        ),
    ),
    "classmethod": (
        MlpBuilder,
        MlpOfNothing.without_name,
        ('`MlpOfNothing.without_name` `MlpBuilder` `name` `name: str | None` `**kwargs` `adapt(..., drop=("name",))`'),
    ),
    "forward": (
        MlpBuilder,
        WrongForward,
        (
            "`WrongForward` `MlpBuilder`\n"
            "`forward` `padding_mask` `padding_mask: Tensor | None` `**kwargs`\n"
            "`forward` `Tensor` `tuple[Tensor, Tensor | None]`"
        ),
    ),
    "forward of what is built": (
        MlpBuilder,
        functools.partial(build_wrong, name="mlp"),
        (
            "`functools.partial(build_wrong)` `MlpBuilder`\n"
            "`forward` `WrongForward` `padding_mask` `padding_mask: Tensor | None` `**kwargs`\n"
            "`forward` `WrongForward` `Tensor` `tuple[Tensor, Tensor | None]`"
        ),
    ),
    "callable instance": (
        NormBuilder,
        BadFactory(),
        (
            "`BadFactory` `NormBuilder`\n"
            '`hidden_size` `hidden_size: int` `**kwargs` `adapt(..., drop=("hidden_size",))`\n'
            '`eps` `eps: float` `**kwargs` `adapt(..., drop=("eps",))`'
        ),
    ),
    "renamed": (
        NormBuilder,
        lambda config, hidden, eps: Norm(),
        (
            "`<lambda>` `NormBuilder` `hidden_size` `hidden` `hidden_size` `**kwargs` "
            '`adapt(..., rename={"hidden": "hidden_size"})`'
        ),
    ),
    "no forward": (
        MlpInterface,
        Module,
        ("`Module` `MlpInterface` `forward` `def forward(self, hidden_SBH, /, *, padding_mask=None)`"),
    ),
    "a supported member": (
        SupportsSetLayerNumber,
        GoodMlp,
        ("`GoodMlp` `SupportsSetLayerNumber` `set_layer_number` `def set_layer_number(self, layer_number, /)`"),
    ),
    "an instance": (
        MlpBuilder,
        GoodMlp(None, None, False),
        "`GoodMlp` `MlpBuilder` `GoodMlp`",
    ),
    "an instance for an Interface": (
        MlpInterface,
        GoodMlp(None, None, False),
        "`GoodMlp` `MlpInterface` `GoodMlp`",
    ),
    "not callable": (
        MlpBuilder,
        3,
        "`int` `MlpBuilder` `int`",
    ),
    "not callable as a function": (
        BiasDropoutAddInterface,
        3,
        "`int` `BiasDropoutAddInterface` `int`",
    ),
    "written in C": (
        MlpBuilder,
        dict,
        "`dict` `MlpBuilder` `dict`",
    ),
    "partial with a stray argument": (
        MlpBuilder,
        functools.partial(GoodMlp, no_such=1),  # type: ignore[call-arg]
        ("`functools.partial(GoodMlp)` `MlpBuilder` `GoodMlp`"),
    ),
    "a Protocol": (
        MlpBuilder,
        MlpInterface,
        "`MlpInterface` `MlpBuilder`",
    ),
    "no Protocol": (
        int,
        GoodMlp,
        "`int` `protocol` `MlpBuilder`",
    ),
    "by position": (
        BiasDropoutAddBuilder,
        lambda *, training, fused: None,
        ("`<lambda>` `BiasDropoutAddBuilder`\n`training` `*`\n`fused` `*`"),
    ),
    "too few positions": (
        BiasDropoutAddBuilder,
        lambda training: None,
        "`<lambda>` `BiasDropoutAddBuilder` 1 2 2 `fused` `fused: bool`",
    ),
}


@pytest.mark.parametrize(("protocol", "candidate", "expected"), WRONG.values(), ids=list(WRONG))
def test_what_is_wrong_is_said_once_and_whole(protocol: type[object], candidate: object, expected: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_conformance(protocol, candidate)
    assert facts(caught.value) == expected
    assert len(caught.value.problems) == max(1, str(caught.value).count("\n"))


def test_a_method_beside_forward_is_checked() -> None:
    class Rotary(Module):
        def __init__(self, **slot: Any) -> None: ...

        def forward(self, max_seq_len: int, *, packed_seq: bool = False) -> Tensor:
            raise NotImplementedError

        def get_rotary_seq_len(self, inference_context: object) -> int:
            return 0

    with pytest.raises(ConformanceError) as caught:
        check_conformance(RotaryEmbeddingBuilder, Rotary)
    assert facts(caught.value.problems[0]) == "`get_rotary_seq_len` 1 5 2 `stack` `stack: StackInterface`"
    assert len(caught.value.problems) == 4


def test_what_the_slot_leaves_out_needs_a_default() -> None:
    def build(
        *, config: Any, layer_number: int, pg_collection: Any, name: str | None, cp_comm_type: str, pp_layer_offset: int
    ) -> Any: ...

    with pytest.raises(ConformanceError) as caught:
        check_conformance(SelfAttentionBuilder, build)
    assert [facts(one) for one in caught.value.problems] == ["`cp_comm_type`", "`pp_layer_offset`"]


def test_a_builder_of_your_own_whose_interface_cannot_be_found_checks_the_constructor() -> None:
    class Interface(Protocol):
        def forward(self, x: int, /) -> int: ...

    class OwnBuilder(Protocol):
        def __call__(self, *, width: int) -> Interface: ...

    check_conformance(OwnBuilder, lambda width: None)
    with pytest.raises(ConformanceError) as caught:
        check_conformance(OwnBuilder, lambda: None)
    assert (
        facts(caught.value) == '`<lambda>` `OwnBuilder` `width` `width: int` `**kwargs` `adapt(..., drop=("width",))`'
    )


def test_an_abstract_class_is_refused() -> None:
    class Abstract(GoodMlp, ABC):
        @abstractmethod
        def activate(self) -> None: ...

    with pytest.raises(ConformanceError) as caught:
        check_conformance(MlpBuilder, Abstract)
    assert facts(caught.value) == "`Abstract` `MlpBuilder` `activate`"


def test_no_candidate_ends_in_a_traceback_of_inspect() -> None:
    """Odd values get a `ConformanceError` or, where any argument is taken, pass; nothing else is raised."""
    odd: list[object] = [
        None,
        print,
        operator.itemgetter(0),
        type,
        object(),
        [],
        str.join,
        functools.partial(print),
        super,
    ]
    for candidate in odd:
        for protocol in (MlpBuilder, MlpInterface, BiasDropoutAddInterface, SupportsSetLayerNumber):
            with contextlib.suppress(ConformanceError):
                check_conformance(protocol, candidate)
