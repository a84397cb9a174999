"""`ModelBuilder`: turns a config into modules, one stage or all stages of this rank.

The two methods are the extension points of modelwright: a user's builder overrides `build_model` (another module, the
same lifecycle), `build_distributed_models` (another lifecycle), or both.
"""

import abc
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from torch import nn

from modelwright.builders.build_hooks import Hook, ordered_hooks
from modelwright.config import ModelConfig, NoWrap, Parallelism, Precision, Wrap

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection


class ModelBuilder[ModelT: nn.Module, ConfigT: ModelConfig](abc.ABC):
    """Builds the model that one config describes; holds no state beyond what it was given.

    Args:
        config: What to build; never changed.
        hooks: Run around the wrap, in order; see `Hook`.
    """

    def __init__(self, config: ConfigT, *, hooks: Iterable[Hook] = ()) -> None:
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
        """Make one stage, not wrapped.

        Args:
            pg_collection: The process groups of this rank.
            parallelism: Sizes of the axes; read off the groups when None.
            precision: Number format of the parameters; float32 when None.
            pre_process: Whether the stage holds the embedding; by its place in the pipeline when None.
            post_process: Whether the stage holds the output layer; by its place in the pipeline when None.
            vp_stage: Which virtual stage of this rank, or None without virtual stages.

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
        """Make all stages of this rank, initialized and wrapped.

        Args:
            pg_collection: The process groups of this rank.
            parallelism: Sizes of the axes.
            precision: Number format of the parameters.
            wrap: How the stages become data-parallel.
            seed: What the values of the parameters are a function of, with their names.

        Returns:
            One wrapped module per virtual stage, the first stage first.
        """

    def build_for_inference(
        self,
        pg_collection: "ProcessGroupCollection",
        *,
        parallelism: Parallelism,
        precision: Precision,
        seed: int = 1234,
    ) -> list[nn.Module]:
        """Make all stages of this rank in eval mode, without a wrap and without gradients.

        Args:
            pg_collection: The process groups of this rank.
            parallelism: Sizes of the axes.
            precision: Number format of the parameters.
            seed: What the values of the parameters are a function of, until weights are loaded.

        Returns:
            One module per virtual stage, the first stage first.
        """
        stages = self.build_distributed_models(
            pg_collection, parallelism=parallelism, precision=precision, wrap=NoWrap(), seed=seed
        )
        return [stage.eval().requires_grad_(requires_grad=False) for stage in stages]
