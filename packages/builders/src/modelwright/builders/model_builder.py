"""`ModelBuilder`: builds modules from a config, either one stage or all stages of a rank.

Its two abstract methods are the extension points of modelwright. A custom builder overrides `build_model` (another
module, the same lifecycle), `build_distributed_models` (another lifecycle), or both.
"""

import abc
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from torch import nn

from modelwright.builders.build_hooks import Hook, ordered_hooks
from modelwright.config import ModelConfig, NoWrap, Parallelism, Precision, Wrap
from modelwright.protocols import ModelwrightError

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection


class BuilderError(ModelwrightError):
    """A config without a builder, a class that is not a builder, or an argument that a builder does not support."""


class ModelBuilder[ModelT: nn.Module, ConfigT: ModelConfig](abc.ABC):
    """Builds the model that one config describes; keeps no state beyond its arguments.

    A builder that supports specs or backends accepts `spec` and `backend` in its own `__init__` and does not pass them
    on to this one, which refuses them.

    Args:
        config: Config of the model; never changed.
        spec: Parts for the slots, or the name under which they were registered. None: the builder's own parts.
        backend: Name of the library that the builder's own parts come from. None or `torch`: the default parts.
        hooks: Hooks that run around the data-parallel wrapper, in order.

    Raises:
        BuilderError: The builder does not support the given `spec` or `backend`.
        HookError: The phase of a hook does not exist.
    """

    def __init__(
        self, config: ConfigT, *, spec: object = None, backend: str | None = None, hooks: Iterable[Hook] = ()
    ) -> None:
        if spec is not None:
            raise BuilderError(_unsupported(type(self).__name__, "spec", spec))
        if backend not in (None, "torch"):
            raise BuilderError(_unsupported(type(self).__name__, "backend", backend))
        self.config = config
        self.hooks: Sequence[Hook] = ordered_hooks(hooks)

    @abc.abstractmethod
    def build_model(
        self,
        pg_collection: "ProcessGroupCollection",
        *,
        parallelism: Parallelism | None = None,
        precision: Precision | None = None,
        pre_process: bool | None = None,
        post_process: bool | None = None,
        vp_stage: int | None = None,
    ) -> ModelT:
        """Build one stage without a data-parallel wrapper.

        Args:
            pg_collection: Process groups of this rank.
            parallelism: Sizes of the axes. None: those of the process groups.
            precision: Dtype of the parameters. None: float32.
            pre_process: Build the embedding. None: on the first stage of the pipeline only.
            post_process: Build the output layer. None: on the last stage of the pipeline only.
            vp_stage: Virtual stage of this rank, from 0. None: no virtual stages.

        Returns:
            The stage.
        """

    @abc.abstractmethod
    def build_distributed_models(
        self,
        pg_collection: "ProcessGroupCollection",
        *,
        parallelism: Parallelism,
        precision: Precision,
        wrap: Wrap,
        seed: int = 1234,
    ) -> list[nn.Module]:
        """Build, initialize and wrap all stages of this rank.

        Args:
            pg_collection: Process groups of this rank.
            parallelism: Sizes of the axes.
            precision: Dtype of the parameters.
            wrap: Data-parallel wrapper of the stages.
            seed: Seed of the initialization. Initial values depend on the seed and the full name of a parameter only.

        Returns:
            One wrapped module per virtual stage, in the order of the pipeline.
        """

    def build_for_inference(
        self,
        pg_collection: "ProcessGroupCollection",
        *,
        parallelism: Parallelism,
        precision: Precision,
        seed: int = 1234,
    ) -> list[nn.Module]:
        """Build all stages of this rank in eval mode, without a data-parallel wrapper and without gradients.

        Args:
            pg_collection: Process groups of this rank.
            parallelism: Sizes of the axes.
            precision: Dtype of the parameters.
            seed: Seed of the initialization, which counts until weights are loaded.

        Returns:
            One module per virtual stage, in the order of the pipeline.
        """
        stages = self.build_distributed_models(
            pg_collection, parallelism=parallelism, precision=precision, wrap=NoWrap(), seed=seed
        )
        return [stage.eval().requires_grad_(requires_grad=False) for stage in stages]


def _unsupported(builder: str, argument: str, value: object) -> str:
    """Return the message about an argument that a builder does not support."""
    given = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
    in_a_run_file = "stack" if argument == "spec" else argument
    return (
        f"`{argument}` must be left out for `{builder}`, which does not support it, but is {given}; remove it"
        f" (`{in_a_run_file}` in a run file), or accept `{argument}` in `{builder}.__init__`."
    )
