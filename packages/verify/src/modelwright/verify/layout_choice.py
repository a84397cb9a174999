"""The layouts of a verification: each axis alone, each pair, every wrapper, and options that must not matter.

A `Layout` is a name and the change that makes it of a run. Whether it is legal is decided by the config, which refuses
the others with a reason.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final, final

from modelwright.config import (
    MOE,
    DecoderConfig,
    ExpertsConfig,
    MegatronDDP,
    ModelConfig,
    Parallelism,
    RunConfig,
    TorchFSDP2,
    Wrap,
    replace,
)
from modelwright.protocols import ModelwrightError, did_you_mean
from modelwright.verify.on_ranks.build_options import DISPATCHER, META, SEQUENTIAL
from modelwright.verify.subject import MegatronConfig

_AXES: Final = ("tensor", "pipeline", "context", "expert", "expert_tensor", "data")


@final
@dataclass(frozen=True, kw_only=True)
class Layout:
    """One layout of the ranks, or an option that must not change what is computed."""

    name: str
    """Name, such as `tensor=2 sequence`."""
    parallelism: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Sizes of the axes that differ from one rank."""
    wrap: Wrap = field(default_factory=MegatronDDP)
    """Data-parallel wrapper."""
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields of the model config to replace."""
    engine: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields of the engine to set."""
    micro_batch: int | None = None
    """Sequences in a micro-batch. None: as in the run."""
    build: str | None = None
    """Another way to build the same model. None: as the run."""

    def applied(self, run: RunConfig) -> RunConfig:
        """Return a run on this layout.

        Args:
            run: The run on one rank.

        Raises:
            ConfigError: The layout is not legal for the run.
        """
        model = run.model
        if self.model or self.engine:
            model = replace(model, **dict(self.model), engine={**model.engine, **self.engine})
        train = run.train if self.micro_batch is None else replace(run.train, micro_batch=self.micro_batch)
        # In two steps, because an intermediate run must be legal too.
        return replace(run, model=model, train=train, parallelism=Parallelism(**self.parallelism), wrap=self.wrap)

    def _size(self, axis: str) -> int:
        return int(self.parallelism.get(axis, 1))

    def splits_sequences(self) -> bool:
        """Return True if ranks have different positions of one sequence."""
        return self._size("context") > 1 or bool(self.parallelism.get("sequence"))

    def splits_batches(self) -> bool:
        """Return True if ranks have different sequences of one step."""
        return self._size("data") > 1


def _named(parallelism: Mapping[str, Any], *, wrap: Wrap | None = None, suffix: str = "", **more: Any) -> Layout:
    parts = [name if value is True else f"{_SHORT.get(name, name)}={value}" for name, value in parallelism.items()]
    name = " ".join([*parts, *([suffix] if suffix else [])])
    return Layout(name=name, parallelism=dict(parallelism), wrap=wrap or MegatronDDP(), **more)


_SHORT: Final = {"virtual_pipeline": "virtual"}
_WRAPS: Final[Mapping[str, Wrap]] = {
    "distributed-optimizer": MegatronDDP(distributed_optimizer=True),
    "overlapped": MegatronDDP(overlap_grad_reduce=True, bucket_size=10_000),
    "averaged-in-collective": MegatronDDP(average_in_collective=True),
    "fsdp2": TorchFSDP2(),
}
_RECOMPUTATION: Final[Mapping[str, Mapping[str, Any]]] = {
    "recompute-full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
    "recompute-selective": {"recompute_granularity": "selective"},
}


def layouts_of(run: RunConfig, ranks: int) -> list[Layout]:
    """Return every layout of at most a number of ranks that a run may have, legal or not.

    Args:
        run: The run.
        ranks: Largest number of ranks.
    """
    found = {layout.name: layout for layout in (*_axes(run, ranks), *_wrapped(run, ranks), *_options(run))}
    return [layout for layout in found.values() if Parallelism(**layout.parallelism).world_size() <= ranks]


def _has_experts(run: RunConfig) -> bool:
    model = run.model
    if isinstance(model, MegatronConfig):
        return model.experts
    return isinstance(model, ExpertsConfig) and model.has(MOE)


def _axes(run: RunConfig, ranks: int) -> Iterator[Layout]:
    """Yield each axis alone, each pair, and the variants of each."""
    names = [axis for axis in _AXES if _has_experts(run) or not axis.startswith("expert")]
    sizes = range(2, ranks + 1)
    chosen_axes: list[dict[str, Any]] = [{axis: size} for size in sizes for axis in names]
    for one, other in itertools.combinations(names, 2):
        chosen_axes += [{one: first, other: second} for first, second in itertools.product(sizes, repeat=2)]
    for axes in chosen_axes:
        for variant in _variants(axes, experts=_has_experts(run)):
            complete = _with_data(variant)
            if complete is not None:
                yield _named(complete)


def _variants(axes: dict[str, Any], *, experts: bool) -> Iterator[dict[str, Any]]:
    """Yield axes, and axes with virtual stages, sequence parallelism or unsplit experts where that is possible."""
    yield axes
    if "tensor" in axes:
        in_order = {"tensor": axes["tensor"], "sequence": True} | axes
        yield in_order
        if experts and "expert_tensor" not in axes:
            yield in_order | {"expert_tensor": 1}
    if "pipeline" in axes:
        yield {"pipeline": axes["pipeline"], "virtual_pipeline": 2} | axes


def _with_data(axes: dict[str, Any]) -> dict[str, Any] | None:
    """Return axes with as many copies of the model as the experts need. None: there are not so many."""
    copies = Parallelism(**{name: size for name, size in axes.items() if name != "data"}).data_size()
    if "data" in axes:
        return None if axes["data"] % copies else axes
    return axes | ({"data": copies} if copies > 1 else {})


def _wrapped(run: RunConfig, ranks: int) -> Iterator[Layout]:
    """Yield every wrapper that runs here, over the data ranks and beside another axis."""
    for name, wrap in _WRAPS.items():
        yield _named({"data": 2}, wrap=wrap, suffix=name)
    for name in ("distributed-optimizer", "fsdp2"):
        for axis in ("tensor", "context", "pipeline"):
            sizes = {axis: 2} if ranks < 4 else {axis: 2, "data": 2}
            yield _named(sizes, wrap=_WRAPS[name], suffix=name)
        if _has_experts(run):
            yield _named({"expert": 2, "data": 2}, wrap=_WRAPS[name], suffix=name)


def _options(run: RunConfig) -> Iterator[Layout]:
    """Yield options that must not change what is computed."""
    whole, half = run.train.global_batch, run.train.micro_batch // 2
    for size in sorted({whole, half} - {0, run.train.micro_batch}):
        yield _named({}, suffix=f"micro-batch={size}", micro_batch=size)
    if not isinstance(run.model, MegatronConfig):  # its function does not read the fields of a config
        yield from _model_options(run.model)


def _model_options(model: ModelConfig) -> Iterator[Layout]:
    """Yield fields of the engine that affect no value, and other ways to build the model."""
    sequence, pipeline = {"tensor": 2, "sequence": True}, {"pipeline": 2}
    for name, fields in _RECOMPUTATION.items():
        for axes in ({}, sequence, pipeline):
            yield _named(axes, suffix=name, engine=fields)
    for axes in ({"data": 2}, sequence):
        yield _named(axes, suffix="per-token-loss", engine={"calculate_per_token_loss": True})
    if isinstance(model, DecoderConfig):
        for axes in ({}, sequence, pipeline):
            yield _named(axes, suffix=META, build=META)
    if isinstance(model, ExpertsConfig) and model.has(MOE):
        yield from _expert_options(model)


def _expert_options(model: ExpertsConfig) -> Iterator[Layout]:
    """Yield other ways to compute experts and to exchange tokens."""
    experts = {"expert": 2, "data": 2}
    other = {"alltoall": "allgather", "allgather": "alltoall"}[model.dispatcher]
    yield _named(experts, suffix=f"dispatcher={other}", model={"dispatcher": other})
    yield _named({}, suffix=DISPATCHER, build=DISPATCHER)
    for axes in ({}, experts):
        yield _named(axes, suffix=SEQUENTIAL, build=SEQUENTIAL)


def chosen(layouts: Sequence[Layout], names: Sequence[str]) -> list[Layout]:
    """Return the layouts that patterns select.

    Args:
        layouts: All layouts.
        names: Names or shell patterns; `all` selects every layout.

    Raises:
        ModelwrightError: A pattern selects nothing.
    """
    found: list[Layout] = []
    for name in names:
        matching = [layout for layout in layouts if name == "all" or fnmatchcase(layout.name, name)]
        if not matching:
            known = [layout.name for layout in layouts]
            raise ModelwrightError(
                f"`layouts` must be `all` or the names of layouts, but {name!r} names none"
                f"{did_you_mean(name, known) or '.'} There are {', '.join(f'`{one}`' for one in known)}."
            )
        found += [layout for layout in matching if layout not in found]
    return found
