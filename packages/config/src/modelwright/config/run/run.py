"""Config of a run: the content of a file with `modelwright: 1`."""

import copy
import re
from collections.abc import Iterator
from typing import Annotated, Literal, final, override

from pydantic import PlainValidator

from modelwright.config.model.base import ModelConfig
from modelwright.config.model.kind_registry import RegisteredKind
from modelwright.config.problems.problem import BrokenRulesError, ConfigError, Problem
from modelwright.config.problems.rules import multiple_of
from modelwright.config.problems.wording import described
from modelwright.config.run.dtypes import Precision
from modelwright.config.run.parallelism import Parallelism
from modelwright.config.run.train import TrainConfig
from modelwright.config.run.wrap import MegatronDDP, MegatronFSDP, NoWrap, TorchFSDP2, Wrap
from modelwright.config.strict.by_kind import OneOf
from modelwright.config.strict.config_class import Config, config_class, replace

__all__ = ["FILE_VERSION", "RunConfig"]

FILE_VERSION = 1
"""Version of the file format that this package writes."""


def _file_version(value: object) -> object:
    """Validate `modelwright`: the version of the file format, but not `true` or `1.0`."""
    if value == FILE_VERSION and type(value) is int:
        return value
    newer = isinstance(value, int) and value > FILE_VERSION
    end = "; the file needs a newer version of modelwright." if newer else "."
    message = f"`modelwright` must be {FILE_VERSION}, but {described(value)} was given{end}"
    raise BrokenRulesError((Problem("", message, code="wrong_version"),))


@final
@config_class
class RunConfig(Config):
    """A model, its parallelism, and its training. Everything but `model` has a default."""

    modelwright: Annotated[Literal[1], PlainValidator(_file_version)] = 1
    """Version of the file format. Required in a file."""

    name: str | None = None
    """Name of the run and of its folder. `null`: the name of the file."""

    model: Annotated[ModelConfig, RegisteredKind(ModelConfig)]
    """Config of the model; its `kind` selects the family."""

    stack: str | None = None
    """Name of a registered stack spec to build the model from. `null`: the family's default spec."""

    backend: Literal["torch", "te", "auto"] = "torch"
    """Set of parts for the generic slots: `torch` runs anywhere, `te` (Transformer Engine) needs a GPU, `auto` selects
    `te` where it can be used."""

    parallelism: Parallelism = Parallelism()
    """Number of ranks along each axis."""

    precision: Precision = Precision()
    """Dtypes."""

    wrap: Annotated[Wrap, OneOf(NoWrap, MegatronDDP, MegatronFSDP, TorchFSDP2)] = MegatronDDP()
    """Data-parallel wrapper of the stages."""

    train: TrainConfig = TrainConfig()
    """Training: steps, batches, optimizer, evaluation, checkpoints, data."""

    def with_data_size(self, data: int) -> "RunConfig":
        """Return a copy with the number of copies of the model that the started job has.

        Only the rules that depend on that number are checked, because everything else is as it was.

        Args:
            data: Size of the data-parallel group.

        Returns:
            The copy; its `parallelism.data` is `data`.

        Raises:
            ConfigError: If the batch sizes or the model do not fit that number.
        """
        if data == self.parallelism.data:
            return self
        run = copy.copy(self)
        object.__setattr__(run, "parallelism", replace(self.parallelism, data=data))
        problems = tuple(run.problems())
        if problems:
            raise ConfigError(problems)
        return run

    @override
    def problems(self) -> Iterator[Problem]:
        if self.name is not None and not re.fullmatch(r"\w[\w .+-]*", self.name):
            rule = "`name` must start with a letter or digit and contain only letters, digits, spaces and `._+-`"
            yield Problem("name", f"{rule}, because it names a folder, but {described(self.name)} was given.")
        yield from (problem.under("model") for problem in self.model.layout_problems(self.parallelism))
        yield from (problem.under("model") for problem in self.model.training_problems(self.parallelism))
        yield from (problem.under("precision") for problem in self.model.precision_problems(self.precision))
        yield from (problem.under("train") for problem in self._batch_problems())

    def _batch_problems(self) -> Iterator[Problem]:
        """Check the batch sizes against the axes."""
        train, axes = self.train, self.parallelism
        copies = axes.data_size()
        if copies > 1 and axes.virtual_pipeline == 1:
            of = f"`micro_batch` {train.micro_batch} × {copies} copies of the model"
            yield from multiple_of("global_batch", train.global_batch, train.micro_batch * copies, of)
        if axes.virtual_pipeline > 1:
            of = f"`micro_batch` {train.micro_batch} × {copies} copies of the model × `pipeline` {axes.pipeline}"
            least = train.micro_batch * copies * axes.pipeline
            yield from multiple_of("global_batch", train.global_batch, least, f"{of}, because the stages interleave")
