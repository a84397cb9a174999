"""`StackModelBuilder`: the common base of the builders of all families, since every family is a pattern over one stack.

A family defines the arguments around the stack (`shape`) and its default parts (`default_spec`). Building one stage, or
all stages of a rank, is defined here.
"""

import abc
import copy
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, cast, override

from megatron.core.models.hybrid.hybrid_model import HybridModel
from torch import nn

from modelwright.builders import Hook, ModelBuilder
from modelwright.config import MOE, ExpertsConfig, ModelConfig, Parallelism, Precision, Wrap, replace
from modelwright.distributed import build_stages
from modelwright.layers.stack.assembly import LanguageModelShape, build_stage
from modelwright.layers.stack.backends import find_backend, missing_for_te
from modelwright.layers.stack.resolution import resolve
from modelwright.layers.stack.spec import StackSpec
from modelwright.layers.stack.stack_registry import registered_stack
from modelwright.protocols import ModelwrightError

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection


class StackModelBuilder[ConfigT: ModelConfig](ModelBuilder[HybridModel, ConfigT], abc.ABC):
    """Builds Megatron-Core's `HybridModel` from the config of a family.

    Args:
        config: Config of the model; never changed.
        spec: Builders of all parts, or the name under which they were registered. None: `default_spec`.
        backend: Backend of the parts in `default_spec`: `torch`, `te` or `auto`. None: `torch`.
        hooks: Hooks that run around the data-parallel wrapper, in order.
        meta: True to build on the meta device first and to materialize afterwards. The model is the same.

    Raises:
        ModelwrightError: The backend or spec does not exist, or the backend, or a part that the config needs, cannot
            be used here.
    """

    def __init__(
        self,
        config: ConfigT,
        *,
        spec: StackSpec | str | None = None,
        backend: str | None = None,
        hooks: Iterable[Hook] = (),
        meta: bool = False,
    ) -> None:
        _check_latent_experts(config)
        super().__init__(config, hooks=hooks)
        self.meta = meta
        self.backend = find_backend(backend or "torch")
        self.spec = registered_stack(spec, config) if isinstance(spec, str) else spec or self.default_spec()

    @abc.abstractmethod
    def default_spec(self) -> StackSpec:
        """Return the spec for a caller who passes none, made of the parts of `self.backend`."""

    @abc.abstractmethod
    def shape(self, parallelism: Parallelism) -> LanguageModelShape:
        """Return the arguments around the stack.

        Args:
            parallelism: Sizes of the axes; the pattern must have a `|` between its stages.

        Returns:
            Pattern, vocabulary and positions of the model.
        """

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
    ) -> HybridModel:
        parallelism = parallelism or _parallelism_of(pg_collection)
        stage, stages = vp_stage or 0, parallelism.virtual_pipeline
        first = pg_collection.pp.rank() == 0 and stage == 0
        last = pg_collection.pp.rank() == pg_collection.pp.size() - 1 and stage == stages - 1
        shape = self.shape(parallelism)
        engine_config = resolve(
            self.config,
            parallelism,
            precision or Precision(),
            spec=self.spec,
            backend=self.backend.name,
            pattern=shape.pattern,
        )
        return build_stage(
            shape,
            engine_config,
            self.spec,
            pg_collection,
            pre_process=first if pre_process is None else pre_process,
            post_process=last if post_process is None else post_process,
            vp_stage=vp_stage,
        )

    @override
    def build_for_inference(
        self,
        pg_collection: "ProcessGroupCollection",
        *,
        parallelism: Parallelism,
        precision: Precision,
        seed: int = 1234,
    ) -> list[nn.Module]:
        builder = copy.copy(self)
        builder.config = cast("ConfigT", _without_capacity(self.config))
        return super(StackModelBuilder, builder).build_for_inference(
            pg_collection, parallelism=parallelism, precision=precision, seed=seed
        )

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
        return build_stages(
            partial(self.build_model, pg_collection, parallelism=parallelism, precision=precision),
            config=self.config,
            pg_collection=pg_collection,
            parallelism=parallelism,
            precision=precision,
            wrap=wrap,
            hooks=self.hooks,
            seed=seed,
            meta=self.meta,
        )


def _without_capacity(config: ModelConfig) -> ModelConfig:
    """Return the config without an expert capacity.

    A capacity counts the tokens of a call, so a text that is read token by token would lose others than one that is
    read at once.
    """
    if isinstance(config, ExpertsConfig) and config.capacity_factor is not None:
        return replace(config, capacity_factor=None, pad_to_capacity=False, drop_policy="probs")
    return config


def _check_latent_experts(config: ModelConfig) -> None:
    """Refuse experts in a latent space without Transformer Engine, whose linears the engine projects with."""
    latent = config.expert_latent_size if isinstance(config, ExpertsConfig) and config.has(MOE) else None
    if latent is not None and (missing := missing_for_te()):
        raise ModelwrightError(
            f"`expert_latent_size` must be null where the engine cannot project with Transformer Engine, but is"
            f" {latent} and {' and '.join(missing)}; leave it out."
        )


def _parallelism_of(pg_collection: "ProcessGroupCollection") -> Parallelism:
    return Parallelism(
        tensor=pg_collection.tp.size(),
        pipeline=pg_collection.pp.size(),
        context=pg_collection.cp.size(),
        expert=pg_collection.ep.size(),
    )
