"""The builder of a config, and three custom cases: your own config, your own builder, or both.

`LinearConfig` and `LinearBuilder` represent an installed family; everything named `My…` is code that a user writes.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar, override

import pytest
from torch import nn

from modelwright.builders import (
    AnyBuilder,
    BuilderError,
    Hook,
    ModelBuilder,
    builder_for,
    register_builder,
    unregister_builder,
)
from modelwright.config import ModelConfig, NoWrap, Parallelism, Precision, config_class
from modelwright.protocols import ModelwrightError
from tests.messages import facts

GROUPS: Any = None  # nothing here looks at process groups


@config_class
class LinearConfig(ModelConfig):
    """A family of one matrix."""

    kind: ClassVar[str] = "linear"
    builder: ClassVar[str] = f"{__name__}:LinearBuilder"

    width: int = 4
    """Rows and columns."""


class LinearBuilder(ModelBuilder[nn.Module, LinearConfig]):
    """The family's own builder."""

    @override
    def build_model(self, pg_collection: Any, **options: Any) -> nn.Module:
        return nn.Linear(self.config.width, self.config.width)

    @override
    def build_distributed_models(self, pg_collection: Any, **options: Any) -> list[nn.Module]:
        return [self.build_model(pg_collection)]


@config_class
class MyConfig(ModelConfig):
    """A custom config that names a custom builder."""

    kind: ClassVar[str] = "mine"
    builder: ClassVar[str] = f"{__name__}:MyBuilder"

    letters: int = 26
    """Rows."""


class MyBuilder(ModelBuilder[nn.Embedding, MyConfig]):
    """A custom builder."""

    @override
    def build_model(self, pg_collection: Any, **options: Any) -> nn.Embedding:
        return nn.Embedding(self.config.letters, 2)

    @override
    def build_distributed_models(self, pg_collection: Any, **options: Any) -> list[nn.Module]:
        return [self.build_model(pg_collection)]


@config_class
class MyWideConfig(LinearConfig):
    """A custom config that inherits its builder from the stock config."""

    kind: ClassVar[str] = "mine-wide"

    width: int = 400


class MyLinearBuilder(LinearBuilder):
    """A custom builder for the stock config: one method changed."""

    @override
    def build_model(self, pg_collection: Any, **options: Any) -> nn.Module:
        return nn.Sequential(super().build_model(pg_collection), nn.ReLU())


@pytest.fixture
def registered() -> Iterator[None]:
    """Registered for the test alone."""
    register_builder("linear", MyLinearBuilder)
    yield
    unregister_builder("linear")


def built(builder: AnyBuilder) -> nn.Module:
    (stage,) = builder.build_distributed_models(
        GROUPS, parallelism=Parallelism(), precision=Precision(), wrap=NoWrap(), seed=1
    )
    return stage


def test_stock_config_with_stock_builder() -> None:
    stage = built(builder_for(LinearConfig(width=3)))
    assert isinstance(stage, nn.Linear)
    assert stage.weight.shape == (3, 3)


def test_own_config_with_own_builder() -> None:
    stage = built(builder_for(MyConfig(letters=5)))
    assert isinstance(stage, nn.Embedding)
    assert stage.num_embeddings == 5


def test_own_config_with_stock_builder() -> None:
    builder = builder_for(MyWideConfig())
    assert type(builder) is LinearBuilder
    assert built(builder).weight.shape == (400, 400)  # type: ignore[union-attr]


def test_stock_config_with_own_builder() -> None:
    stage = built(builder_for(LinearConfig(), builder=MyLinearBuilder))
    assert [type(part) for part in stage.children()] == [nn.Linear, nn.ReLU]


@pytest.mark.usefixtures("registered")
def test_a_registered_builder_goes_before_the_one_of_the_class() -> None:
    assert type(builder_for(LinearConfig())) is MyLinearBuilder


@pytest.mark.usefixtures("registered")
def test_the_argument_goes_before_the_registered_builder() -> None:
    assert type(builder_for(LinearConfig(), builder=LinearBuilder)) is LinearBuilder


@pytest.mark.usefixtures("registered")
def test_registration_is_for_one_kind() -> None:
    assert type(builder_for(MyWideConfig())) is LinearBuilder


@pytest.mark.usefixtures("registered")
def test_registering_again_replaces_and_unregistering_goes_back() -> None:
    register_builder("linear", LinearBuilder)
    assert type(builder_for(LinearConfig())) is LinearBuilder
    register_builder("linear", MyLinearBuilder)
    unregister_builder("linear")
    assert type(builder_for(LinearConfig())) is LinearBuilder
    unregister_builder("linear")  # nothing is there, nothing happens


def test_a_function_may_stand_for_a_builder_class() -> None:
    def narrow(config: LinearConfig, **options: Any) -> LinearBuilder:
        return LinearBuilder(LinearConfig(width=config.width // 2), **options)

    assert built(builder_for(LinearConfig(width=8), builder=narrow)).weight.shape == (4, 4)  # type: ignore[union-attr]


def test_options_reach_the_constructor() -> None:
    hooks = [Hook(name=name, phase="before_wrap", function=lambda stages, context: None) for name in "aba"]
    config = LinearConfig()
    builder = builder_for(config, hooks=hooks)
    assert builder.config is config
    assert list(builder.hooks) == [hooks[2], hooks[1]]


def test_a_spec_that_the_builder_does_not_support() -> None:
    with pytest.raises(BuilderError) as caught:
        builder_for(LinearConfig(), spec="mine")
    assert facts(caught.value) == "`spec` `LinearBuilder` 'mine' `stack` `spec` `LinearBuilder.__init__`"
    with pytest.raises(BuilderError, match=r"`LinearBuilder`.* dict;"):
        builder_for(LinearConfig(), spec={})


def test_a_backend_that_the_builder_does_not_support() -> None:
    builder_for(LinearConfig(), backend="torch")  # the default of every run
    with pytest.raises(BuilderError) as caught:
        builder_for(LinearConfig(), backend="te")
    assert facts(caught.value) == "`backend` `LinearBuilder` 'te' `backend` `backend` `LinearBuilder.__init__`"


class SpecBuilder(LinearBuilder):
    """A custom builder that supports specs and backends, and has an option more."""

    def __init__(
        self, config: LinearConfig, *, spec: Any = None, backend: str = "mine", hooks: Any = (), scale: int = 1
    ) -> None:
        super().__init__(config, hooks=hooks)
        self.given = (spec, backend, scale)


def test_a_builder_that_supports_specs_and_backends() -> None:
    builder = builder_for(LinearConfig(), builder=SpecBuilder)
    assert isinstance(builder, SpecBuilder)
    assert builder.given == (None, "mine", 1)
    builder = builder_for(LinearConfig(), spec="wide", backend="te", builder=partial(SpecBuilder, scale=2))
    assert isinstance(builder, SpecBuilder)
    assert builder.given == ("wide", "te", 2)


def test_a_constructor_without_the_arguments_of_a_builder() -> None:
    def narrow(config: LinearConfig) -> LinearBuilder:
        return LinearBuilder(LinearConfig(width=config.width // 2))

    builder_for(LinearConfig(), builder=narrow)
    hook = Hook(name="look", phase="after_wrap", function=lambda stages, context: None)
    with pytest.raises(BuilderError) as caught:
        builder_for(LinearConfig(), builder=narrow, hooks=[hook])
    assert facts(caught.value).startswith("`narrow` `hooks` ")
    assert facts(caught.value).endswith(" 'hooks' `ModelBuilder` `config` `spec` `backend` `hooks`")


def test_an_error_inside_a_constructor_is_not_taken_for_a_missing_argument() -> None:
    def fails(config: LinearConfig, **options: Any) -> LinearBuilder:
        raise TypeError("of the test")

    with pytest.raises(TypeError, match=r"^of the test$"):
        builder_for(LinearConfig(), builder=fails)


def test_a_builder_with_a_method_missing_is_named() -> None:
    class Half(ModelBuilder[nn.Module, LinearConfig]):
        def build_model(self, pg_collection: Any, **options: Any) -> nn.Module:
            return nn.Identity()

    with pytest.raises(BuilderError) as caught:
        builder_for(LinearConfig(), builder=Half)
    assert facts(caught.value).startswith("`Half`")
    assert "build_distributed_models" in str(caught.value)


def test_a_builder_is_abstract_until_both_methods_are_there() -> None:
    class Half(ModelBuilder[nn.Module, LinearConfig]):
        def build_model(self, pg_collection: Any, **options: Any) -> nn.Module:
            return nn.Identity()

    with pytest.raises(TypeError, match="build_distributed_models"):
        Half(LinearConfig())  # type: ignore[abstract]


@pytest.mark.parametrize("not_a_class", [nn.Linear, "mine:Builder", LinearBuilder(LinearConfig())])
def test_only_builder_classes_can_be_registered(not_a_class: Any) -> None:
    with pytest.raises(BuilderError) as caught:
        register_builder("linear", not_a_class)
    assert facts(caught.value) == f"`cls` `ModelBuilder` {not_a_class!r}"
    assert type(builder_for(LinearConfig())) is LinearBuilder


@config_class
class NamelessConfig(ModelConfig):
    """Names no builder."""

    kind: ClassVar[str] = "nameless"


@config_class
class LostConfig(ModelConfig):
    """Names a module that does not exist."""

    kind: ClassVar[str] = "lost"
    builder: ClassVar[str] = "no_such_module.builder:Builder"


@config_class
class MistakenConfig(ModelConfig):
    """Names a class that is no builder."""

    kind: ClassVar[str] = "mistaken"
    builder: ClassVar[str] = "torch.nn:Linear"


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (
            NamelessConfig(),
            "`NamelessConfig.builder` `package.module:Class`",
        ),
        (
            LostConfig(),
            "`LostConfig.builder` `no_such_module.builder:Builder` 'no_such_module'",
        ),
    ],
)
def test_a_config_without_a_builder(config: ModelConfig, why: str) -> None:
    with pytest.raises(BuilderError) as caught:
        builder_for(config)
    assert (
        facts(caught.value)
        == f"`{type(config).__name__}` `{config.kind}` {why} `builder` `register_builder` `builder=`"
    )
    assert type(builder_for(config, builder=LinearBuilder)) is LinearBuilder


def test_a_config_that_names_something_else() -> None:
    with pytest.raises(BuilderError) as caught:
        builder_for(MistakenConfig())
    assert facts(caught.value) == "`builder` `MistakenConfig` `ModelBuilder` <class 'torch.nn.modules.linear.Linear'>"


def test_the_errors_have_the_one_root() -> None:
    assert issubclass(BuilderError, ModelwrightError)
