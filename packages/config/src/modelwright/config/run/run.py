"""A whole run: what a file with `modelwright: 1` describes."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal, final, override

from pydantic import PlainValidator

from modelwright.config.model.base import ModelConfig
from modelwright.config.model.kind_registry import RegisteredKind
from modelwright.config.problems.problem import BrokenRulesError, Problem
from modelwright.config.problems.pydantic_errors import described
from modelwright.config.problems.rules import multiple_of
from modelwright.config.run.dtypes import Precision
from modelwright.config.run.parallelism import Parallelism
from modelwright.config.run.train import TrainConfig
from modelwright.config.run.wrap import MegatronDDP, MegatronFSDP, NoWrap, TorchFSDP2, Wrap
from modelwright.config.strict.by_kind import OneOf
from modelwright.config.strict.config_class import Config, config_class

__all__ = ["RunConfig"]

FILE_VERSION = 1


def _file_version(value: object) -> object:
    """The rule for `modelwright`: a file of this version, and not `true` or `1.0`."""
    if value == FILE_VERSION and type(value) is int:
        return value
    newer = isinstance(value, int) and value > FILE_VERSION
    end = "; the file needs a newer version of modelwright." if newer else "."
    raise BrokenRulesError(
        (Problem("", f"`modelwright` must be {FILE_VERSION}, but {described(value)} was given{end}"),)
    )


@final
@config_class
class RunConfig(Config):
    """A model, how it is cut over ranks, and how it is trained. Everything but `model` has a default."""

    modelwright: Annotated[Literal[1], PlainValidator(_file_version)] = 1
    """Version of the file format. A file must say it."""

    name: str | None = None
    """Name of the run, for its folder; None: the name of the file."""

    model: Annotated[ModelConfig, RegisteredKind()]
    """What to build: the config of a family, told by `kind`."""

    stack: str | None = None
    """Name of a registered stack spec to build the model from; None: the family's own."""

    backend: Literal["torch", "te", "auto"] = "torch"
    """Which parts fill the generic slots: ours, which run anywhere, or Transformer Engine's (`te`), which need a GPU;
    `auto` takes `te` where it can be used."""

    parallelism: Parallelism = Parallelism()
    """How many ranks stand along each axis."""

    precision: Precision = Precision()
    """Number formats."""

    wrap: Annotated[Wrap, OneOf(NoWrap, MegatronDDP, MegatronFSDP, TorchFSDP2)] = MegatronDDP()
    """How a rank's stages become data-parallel."""

    train: TrainConfig = TrainConfig()
    """How to train."""

    @override
    def problems(self) -> Iterator[Problem]:
        if self.name is not None and not re.fullmatch(r"\w[\w .+-]*", self.name):
            rule = "`name` must start with a letter or digit and hold letters, digits, spaces and `._+-`"
            yield Problem("name", f"{rule}, because it names a folder, but {described(self.name)} was given.")
        yield from (problem.under("model") for problem in self.model.layout_problems(self.parallelism))
        yield from (problem.under("model") for problem in self.model.training_problems(self.parallelism))
        yield from (problem.under("train") for problem in self._batch_problems())

    def _batch_problems(self) -> Iterator[Problem]:
        """Rules between the batch sizes and the axes."""
        train, axes = self.train, self.parallelism
        copies = axes.data_size()
        if copies > 1 and axes.virtual_pipeline == 1:
            of = f"`micro_batch` {train.micro_batch} × {copies} copies of the model"
            yield from multiple_of("global_batch", train.global_batch, train.micro_batch * copies, of)
        if axes.virtual_pipeline > 1:
            of = f"`micro_batch` {train.micro_batch} × {copies} copies of the model × `pipeline` {axes.pipeline}"
            least = train.micro_batch * copies * axes.pipeline
            yield from multiple_of("global_batch", train.global_batch, least, f"{of}, because the stages interleave")
