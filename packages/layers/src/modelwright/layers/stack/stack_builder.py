"""`StackModelBuilder`: what the builders of all families share, since every family is a pattern over one stack.

A family says what stands around the stack (`shape`) and which parts fill it by default (`default_spec`); the rest, one
stage or all stages of a rank, is here.
"""

import abc
from collections.abc import Iterable
from typing import TYPE_CHECKING, override

from megatron.core.models.hybrid.hybrid_model import HybridModel
from torch import nn

from modelwright.builders import Hook, ModelBuilder
from modelwright.config import ExpertsConfig, ModelConfig, Parallelism, Precision, Wrap
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
    """Builds the engine's `HybridModel` from a family's config.

    Args:
        config: What to build.
        spec: What fills every slot, or the name that it was registered under; the family's own when None.
        backend: Which parts the family's own spec is made of: `torch`, `te` or `auto`.
        hooks: Run around the wrap, in order.
        meta: Build on the meta device first, then materialize; the model is the same.

    Raises:
        ModelwrightError: There is no such backend or spec, or the backend, or a part that the config asks for, cannot
            be used here.
    """

    def __init__(
        self,
        config: ConfigT,
        *,
        spec: StackSpec | str | None = None,
        backend: str = "torch",
        hooks: Iterable[Hook] = (),
        meta: bool = False,
    ) -> None:
        _check_latent_experts(config)
        super().__init__(config, hooks=hooks)
        self.meta = meta
        self.backend = find_backend(backend)
        self.spec = registered_stack(spec, config) if isinstance(spec, str) else spec or self.default_spec()

    @abc.abstractmethod
    def default_spec(self) -> StackSpec:
        """What fills every slot when the caller says nothing, made of the parts of `self.backend`."""

    @abc.abstractmethod
    def shape(self, parallelism: Parallelism) -> LanguageModelShape:
        """What stands around the stack, with the pattern cut into the stages of the parallelism."""

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
        return build_stage(
            self.shape(parallelism),
            resolve(self.config, parallelism, precision or Precision()),
            self.spec,
            pg_collection,
            pre_process=first if pre_process is None else pre_process,
            post_process=last if post_process is None else post_process,
            vp_stage=vp_stage,
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
            lambda vp_stage: self.build_model(
                pg_collection, parallelism=parallelism, precision=precision, vp_stage=vp_stage
            ),
            config=self.config,
            pg_collection=pg_collection,
            parallelism=parallelism,
            precision=precision,
            wrap=wrap,
            hooks=self.hooks,
            seed=seed,
            meta=self.meta,
        )


def _check_latent_experts(config: ModelConfig) -> None:
    """The engine has one part for the projections around them, whatever fills the slots."""
    latent = config.expert_latent_size if isinstance(config, ExpertsConfig) and "E" in config.symbols else None
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
