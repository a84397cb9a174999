"""Sizes of the axes of parallelism, and the number of ranks that they need."""

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
    """Sizes of the axes. `tensor` × `pipeline` × `context` ranks contain one copy of the model; `data` counts copies.

    The expert axes do not add ranks: they divide the `tensor` × `context` × `data` ranks of a pipeline stage in another
    way.
    """

    tensor: Count = 1
    """Ranks that split each matrix."""

    sequence: bool = False
    """Split norms and residuals along the sequence over the `tensor` ranks."""

    pipeline: Count = 1
    """Ranks that split the layers."""

    virtual_pipeline: Count = 1
    """Stages on each pipeline rank. Above 1 the pipeline schedule interleaves them."""

    stages: tuple[Count, ...] | None = None
    """Number of blocks in each stage, in the order of the stages; `pipeline` × `virtual_pipeline` numbers. `null`: the
    same number in each stage."""

    context: Count = 1
    """Ranks that split the sequence in attention."""

    expert: Count = 1
    """Ranks that split the experts of an MoE layer."""

    expert_tensor: Count | None = None
    """Ranks that split each expert's matrices. `null`: `tensor`."""

    data: Count | None = None
    """Copies of the model. `null`: as many as the launched processes allow, or the minimum for a local start."""

    @property
    def model_size(self) -> int:
        """Number of ranks that contain one copy of the model."""
        return self.tensor * self.pipeline * self.context

    @property
    def expert_tensor_size(self) -> int:
        """`expert_tensor` with its default resolved."""
        return self.tensor if self.expert_tensor is None else self.expert_tensor

    @property
    def experts_have_own_ranks(self) -> bool:
        """True if experts have other data-parallel ranks than the other parameters, and so their own optimizer."""
        return self.expert > 1 or self.expert_tensor_size != self.tensor

    @property
    def expert_model_size(self) -> int:
        """Number of ranks that contain one copy of the experts."""
        return self.expert_tensor_size * self.expert * self.pipeline

    def data_size(self, launched: int | None = None) -> int:
        """Return the number of copies of the model.

        Args:
            launched: Number of running processes, which must fit (`check_world_size`). None: not started yet.

        Returns:
            `data` if it is given, else the copies in `launched`, else the minimum that the expert axes allow.
        """
        return self.world_size(launched) // self.model_size

    def world_size(self, launched: int | None = None) -> int:
        """Return the number of ranks.

        Args:
            launched: Number of running processes, which must fit (`check_world_size`). None: not started yet.

        Returns:
            `launched` if it is given, else the number of processes to start.
        """
        if launched is not None:
            return launched
        return self.model_size * (self._fewest_copies() if self.data is None else self.data)

    def check_world_size(self, launched: int) -> None:
        """Check that the axes can use a number of running processes.

        Args:
            launched: Number of running processes.

        Raises:
            ConfigError: If `launched` does not fit.
        """
        problems = tuple(self._launch_problems(launched))
        if problems:
            raise ConfigError(problem.under("parallelism") for problem in problems)

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
        """Return the smallest `data` for which the expert axes divide the ranks of a pipeline stage."""
        experts, ranks = self.expert * self.expert_tensor_size, self.tensor * self.context
        return experts // math.gcd(experts, ranks)

    def _launch_problems(self, launched: int) -> Iterator[Problem]:
        """Check the number of running processes."""
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
        """Return the axes of one copy of the model, for a message."""
        return f"`tensor` {self.tensor} × `pipeline` {self.pipeline} × `context` {self.context}"
