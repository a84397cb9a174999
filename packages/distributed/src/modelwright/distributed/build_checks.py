"""Checks of config, process groups and wrapper that need no built model, made before anything is allocated."""

import dataclasses
import hashlib
from collections.abc import Iterator

from megatron.core.process_groups_config import ProcessGroupCollection

from modelwright.config import MegatronDDP, ModelConfig, Parallelism, Precision, Wrap
from modelwright.distributed.wrappers.data_parallel import wrap_problems


def build_problems(
    config: ModelConfig,
    pg_collection: ProcessGroupCollection,
    *,
    parallelism: Parallelism,
    precision: Precision,
    wrap: Wrap,
) -> Iterator[str]:
    """Yield every problem that keeps a model from being built on these groups.

    Args:
        config: Config of the model.
        pg_collection: The process groups of this rank.
        parallelism: Sizes of the axes.
        precision: Dtype of the parameters.
        wrap: Data-parallel wrapper of the stages.

    Yields:
        A sentence for each problem.
    """
    yield from group_problems(pg_collection, parallelism)
    yield from (str(problem) for problem in config.layout_problems(parallelism))
    yield from wrap_problems(wrap, precision)
    if isinstance(wrap, MegatronDDP) and wrap.average_in_collective and config.engine.get("calculate_per_token_loss"):
        yield (
            "`wrap.average_in_collective` averages gradients over the data ranks, but "
            "`engine.calculate_per_token_loss` needs their sum; leave one of them out."
        )


def group_problems(pg_collection: ProcessGroupCollection, parallelism: Parallelism) -> Iterator[str]:
    """Compare the process groups with the sizes of the axes.

    The engine's own check uses `hasattr`, which is true for a group that is None.

    Args:
        pg_collection: The groups of this rank.
        parallelism: Sizes of the axes.

    Yields:
        One sentence that lists every group that is missing or has another size. Nothing if all groups fit.
    """
    found = [f"`{name}` is not set" for name in _NEEDED if _size(pg_collection, name) is None]
    for name, wanted in _sizes(pg_collection, parallelism).items():
        given = _size(pg_collection, name)
        if given is not None and given != wanted:
            found.append(f"`{name}` has {given} ranks where the parallelism needs {wanted}")
    if found:
        yield (
            f"`pg_collection` must contain the groups of the parallelism, but {'; '.join(found)}; "
            "pass the result of `modelwright.distributed.initialize(parallelism)`."
        )


_NEEDED = ("tp", "pp", "cp", "ep", "dp", "dp_cp")


def _sizes(pg_collection: ProcessGroupCollection, parallelism: Parallelism) -> dict[str, int]:
    """Return the size that each group must have. If `data` is None, the size of the given `dp` group is used for it."""
    sizes = {"tp": parallelism.tensor, "pp": parallelism.pipeline, "cp": parallelism.context, "ep": parallelism.expert}
    data = parallelism.data or _size(pg_collection, "dp")
    if data is None:
        return sizes
    sizes |= {"dp": data, "dp_cp": data * parallelism.context}
    if parallelism.expert > 1 or parallelism.expert_tensor is not None:
        ranks, tensor = parallelism.tensor * parallelism.context * data, parallelism.expert_tensor_size
        sizes |= {"expt_tp": tensor, "expt_dp": ranks // (parallelism.expert * tensor)}
    return sizes


def _size(pg_collection: ProcessGroupCollection, name: str) -> int | None:
    """Return the number of ranks of a group. None: it is not set, which the engine's annotation does not allow for."""
    group = getattr(pg_collection, name)
    return None if group is None else int(group.size())


def facts(**values: object) -> dict[str, str]:
    """Return a digest of each value that must be the same on every rank, short enough to send.

    Args:
        **values: Dataclasses and integers by name. Of any other object only the class is compared.

    Returns:
        Hexadecimal digests by name.
    """
    return {name: hashlib.sha256(_written(value).encode()).hexdigest() for name, value in values.items()}


def _written(value: object) -> str:
    plain = dataclasses.is_dataclass(value) or isinstance(value, int)
    return repr(value) if plain else type(value).__qualname__
