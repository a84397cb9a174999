"""How many ranks stand along each axis of parallelism, and how many that makes in all."""

import math
from collections.abc import Iterator
from typing import final, override

from modelwright.config.problems.numbers import Count
from modelwright.config.problems.problem import ConfigError, Problem
from modelwright.config.strict.config_class import Config, config_class

__all__ = ["Parallelism"]


@final
@config_class
class Parallelism(Config):
    """Sizes of the axes. `tensor` × `pipeline` × `context` ranks hold one copy of the model; `data` counts the copies.

    The expert axes do not add ranks: they cut the `tensor` × `context` × `data` ranks of a pipeline stage a second way.
    """

    tensor: Count = 1
    """Ranks that split each matrix."""

    sequence: bool = False
    """Split norms and residuals along the sequence over the `tensor` ranks."""

    pipeline: Count = 1
    """Ranks that split the layers."""

    virtual_pipeline: Count = 1
    """Stages that each pipeline rank holds; above 1 the schedule interleaves them."""

    stages: tuple[Count, ...] | None = None
    """Blocks of each stage, the first stage first, `pipeline` × `virtual_pipeline` of them; None: as many in each."""

    context: Count = 1
    """Ranks that split the sequence in attention."""

    expert: Count = 1
    """Ranks that split the experts of a mixture-of-experts layer."""

    expert_tensor: Count | None = None
    """Ranks that split each expert's matrices; None: as many as `tensor`."""

    data: Count | None = None
    """Copies of the model; None: as many as the launched processes leave, the fewest when started locally."""

    @property
    def model_size(self) -> int:
        """Ranks that hold one copy of the model."""
        return self.tensor * self.pipeline * self.context

    @property
    def expert_tensor_size(self) -> int:
        """`expert_tensor`, or what stands for it."""
        return self.tensor if self.expert_tensor is None else self.expert_tensor

    @property
    def expert_model_size(self) -> int:
        """Ranks that hold one copy of the experts."""
        return self.expert_tensor_size * self.expert * self.pipeline

    def data_size(self, launched: int | None = None) -> int:
        """How many copies of the model there are.

        Args:
            launched: Number of processes that are running; None when they are yet to be started.

        Returns:
            `data` where it is given; else what `launched` leaves; else the fewest that the expert axes allow.

        Raises:
            ConfigError: If `launched` does not fit.
        """
        return self.world_size(launched) // self.model_size

    def world_size(self, launched: int | None = None) -> int:
        """How many ranks this needs.

        Args:
            launched: Number of processes that are running; None when they are yet to be started.

        Returns:
            The number of ranks; `launched` where it is given.

        Raises:
            ConfigError: If `launched` does not fit.
        """
        if launched is None:
            return self.model_size * (self._fewest_copies() if self.data is None else self.data)
        problems = tuple(self._launch_problems(launched))
        if problems:
            raise ConfigError(problem.under("parallelism") for problem in problems)
        return launched

    @override
    def problems(self) -> Iterator[Problem]:
        if self.sequence and self.tensor == 1:
            yield Problem(
                "sequence",
                "`sequence` needs `tensor` above 1, but `tensor` is 1; set `sequence: false` or raise `tensor`.",
            )
        if self.virtual_pipeline > 1 and self.pipeline == 1:
            yield Problem(
                "virtual_pipeline",
                f"`virtual_pipeline` above 1 needs `pipeline` above 1, but {self.virtual_pipeline} was given and"
                " `pipeline` is 1; set `virtual_pipeline: 1` or raise `pipeline`.",
            )
        count = self.pipeline * self.virtual_pipeline
        if self.stages is not None and len(self.stages) != count:
            rule = f"`stages` must have `pipeline` × `virtual_pipeline` = {count} numbers"
            yield Problem("stages", f"{rule}, but has {len(self.stages)}; give one for each stage.")
        fewest = self._fewest_copies()
        if self.data is not None and self.data % fewest:
            experts = f"`expert` {self.expert} × `expert_tensor` {self.expert_tensor_size}"
            rule = f"`data` must be a multiple of {fewest}, so that {experts} divides `tensor` × `context` × `data`"
            yield Problem("data", f"{rule}, but {self.data} is not; use {fewest} or leave it out.")

    def _fewest_copies(self) -> int:
        """The least `data` with which the expert axes divide a pipeline stage's ranks."""
        experts, ranks = self.expert * self.expert_tensor_size, self.tensor * self.context
        return experts // math.gcd(experts, ranks)

    def _launch_problems(self, launched: int) -> Iterator[Problem]:
        """What keeps this from running on `launched` processes."""
        if self.data is not None:
            needed = self.model_size * self.data
            if launched != needed:
                product = f"{self._product()} × `data` {self.data} = {needed}"
                rule = f"the number of processes must be {product}, but {launched} were launched"
                yield Problem("data", f"{rule}; launch {needed}, or leave `data` out.")
            return
        needed = self.model_size * self._fewest_copies()
        if launched < 1 or launched % needed:
            product = f"{self._product()} = {self.model_size}"
            if needed != self.model_size:
                product += f", and of {needed} for `expert` {self.expert} × `expert_tensor` {self.expert_tensor_size}"
            rule = f"the number of processes must be a multiple of {product}, but {launched} were launched"
            yield Problem("", f"{rule}; launch {max(launched // needed, 1) * needed}, or change an axis.")

    def _product(self) -> str:
        """The axes that hold one copy of the model, for a message."""
        return f"`tensor` {self.tensor} × `pipeline` {self.pipeline} × `context` {self.context}"
