"""Subjects: the model that is verified, in a form that the ranks can receive.

A subject is a run with its builder. The run of a bare Megatron model has a `MegatronConfig`, and its builder calls the
user's function.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final, override

from torch import nn

from modelwright.builders import AnyBuilder, Hook, ModelBuilder
from modelwright.config import Count, ModelConfig, Parallelism, Precision, RunConfig, TrainConfig, Wrap, config_class
from modelwright.distributed import build_stages
from modelwright.protocols import ModelwrightError
from modelwright.training import builder_of

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection

    from modelwright.layers import StackSpec

type MegatronFunction = Callable[["ProcessGroupCollection", Parallelism], nn.Module | Sequence[nn.Module]]
"""Function that builds the stages of a rank from the engine's modules, without a data-parallel wrapper."""


@final
@config_class
class MegatronConfig(ModelConfig):
    """The sizes of a bare Megatron model that its training data depends on."""

    kind: ClassVar[str] = "megatron"

    vocab_size: Count = 256
    """Number of tokens in the vocabulary."""

    seq_length: Count = 32
    """Sequence length in tokens."""

    experts: bool = False
    """True if the model has MoE layers."""


_TRAIN = TrainConfig(micro_batch=2, global_batch=8, lr=1e-2)


@final
@dataclass(frozen=True, kw_only=True)
class MegatronModel:
    """A bare Megatron model: modules of the engine that a function of yours builds. It knows nothing of modelwright.

    The function is called on every rank, with the engine's process groups and the sizes of the axes. It returns one
    stage for each virtual stage of the rank. A stage is called like the engine's `GPTModel` and `HybridModel`.
    """

    build: MegatronFunction
    """Function that builds the stages of a rank; importable by name, because the ranks are other processes."""
    vocab_size: int = 256
    """Number of tokens in the vocabulary; at least 256, because the data is bytes."""
    seq_length: int = 32
    """Sequence length in tokens."""
    experts: bool = False
    """True if the model has MoE layers, so that layouts of experts are verified."""
    train: TrainConfig = _TRAIN
    """Batch sizes, learning rate and seed."""


@final
class MegatronBuilder(ModelBuilder[nn.Module, MegatronConfig]):
    """Builds the stages of a bare Megatron model in the lifecycle of all families.

    Args:
        config: Sizes of the data.
        build: The user's function.
        hooks: Hooks that run around the data-parallel wrapper.
    """

    def __init__(self, config: MegatronConfig, build: MegatronFunction, hooks: Sequence[Hook] = ()) -> None:
        super().__init__(config, hooks=hooks)
        self._build = build

    @override
    def build_model(
        self,
        pg_collection: "ProcessGroupCollection",
        *,
        parallelism: Parallelism | None = None,
        precision: Precision | None = None,
        pre_process: bool | None = None,
        post_process: bool | None = None,
        vp_stage: int | None = None,
    ) -> nn.Module:
        return self._stages(pg_collection, parallelism or Parallelism())[vp_stage or 0]

    def _stages(self, pg_collection: "ProcessGroupCollection", parallelism: Parallelism) -> list[nn.Module]:
        built = self._build(pg_collection, parallelism)
        stages = [built] if isinstance(built, nn.Module) else list(built)
        if len(stages) != parallelism.virtual_pipeline:
            raise ModelwrightError(
                f"`build` must return one stage for each of the {parallelism.virtual_pipeline} virtual stages of a "
                f"rank, but returned {len(stages)}; return a list of that length."
            )
        return stages

    @override
    def build_distributed_models(
        self,
        pg_collection: "ProcessGroupCollection",
        *,
        parallelism: Parallelism,
        precision: Precision,
        wrap: Wrap,
        seed: int = 1234,
    ) -> list[nn.Module]:
        stages: list[nn.Module] = []

        def build_stage(*, vp_stage: int | None) -> nn.Module:
            if not stages:  # one call of the user's function makes all of them
                stages.extend(self._stages(pg_collection, parallelism))
            return stages[vp_stage or 0]

        return build_stages(
            build_stage,
            config=self.config,
            pg_collection=pg_collection,
            parallelism=parallelism,
            precision=precision,
            wrap=wrap,
            hooks=self.hooks,
            seed=seed,
        )


@final
@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to verify, with everything that a rank needs to build it."""

    run: RunConfig
    """The run. Its layout is replaced by each layout in turn."""
    spec: "StackSpec | None" = None
    """Parts to build the model from. None: those that the run selects."""
    builder: Callable[..., AnyBuilder] | None = None
    """A custom builder class, or function that returns a builder. None: the registered one."""
    megatron: MegatronFunction | None = None
    """Function that builds a bare Megatron model. None: the run has a model config."""
    modules: tuple[str, ...] = ()
    """Modules that register parts; every rank imports them first."""

    def builder_of(self, run: RunConfig, hooks: Sequence[Hook]) -> Any:
        """Return the builder of a run.

        Args:
            run: The run on a layout.
            hooks: Hooks that run around the data-parallel wrapper.

        Raises:
            BuilderError: The builder does not support the spec or the hooks.
        """
        if self.megatron is not None and isinstance(run.model, MegatronConfig):
            return MegatronBuilder(run.model, self.megatron, hooks)
        if self.builder is not None:
            from modelwright.builders import builder_for

            return builder_for(run.model, spec=self.spec, hooks=hooks, builder=self.builder)
        return builder_of(run, spec=self.spec, hooks=hooks)


def subject_of(given: object, *, spec: "StackSpec | None" = None, builder: Any = None) -> Subject:
    """Return the subject that a caller means.

    Args:
        given: A run, or a bare Megatron model.
        spec: Parts to build the model of a run from.
        builder: Builder of the model of a run.

    Raises:
        ModelwrightError: It is neither.
    """
    if isinstance(given, RunConfig):
        return Subject(run=given, spec=spec, builder=builder)
    if isinstance(given, MegatronModel):
        model = MegatronConfig(vocab_size=given.vocab_size, seq_length=given.seq_length, experts=given.experts)
        return Subject(run=RunConfig(model=model, train=given.train), megatron=given.build)
    raise ModelwrightError(
        f"`subject` must be a `RunConfig` or a `MegatronModel`, but is a {type(given).__name__}; load a file with "
        "`modelwright.config.load`, or wrap a function of your own in `MegatronModel`."
    )
