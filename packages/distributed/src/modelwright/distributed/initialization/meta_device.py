"""Building on the meta device: a model without memory is built first and materialized later, equal to a direct build.

Inside `MetaBuild.recording()` every tensor that a module makes is a meta tensor, and every call that makes or fills one
is recorded. `materialize` repeats the calls in order on the requested devices, and replaces the meta tensors by the
real ones. Parameters stay the same objects, so tied weights stay tied and tensor-parallel attributes are kept.
Recording reproduces values that no `reset_parameters` sets: the ones of a norm, the zeros of a bias, the tables of a
rotary embedding. (The idea is from torchdistX's deferred_init.)

Seam: `untyped_storage()._cdata` identifies the storage of a meta tensor, and `_buffers` contains a module's buffers.
"""

import contextlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast, final, override

import torch
from torch import Tensor, nn
from torch.distributed import Work
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

from modelwright.protocols import ModelwrightError

_META = torch.device("meta")


class MetaError(ModelwrightError):
    """A meta tensor of a model that was not recorded, or a second call of `materialize`."""


@dataclass(frozen=True)
class _Call:
    """A recorded call of torch that made or changed a meta tensor."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[Any, ...]
    random: tuple[Tensor, ...] | None
    """The random states before the call. None: the call is not random."""


@final
class MetaBuild:
    """The recorded calls of a build on the meta device."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    @contextlib.contextmanager
    def recording(self) -> Generator[None]:
        """Build modules without memory for their tensors inside the block."""
        with _Recorder(self._calls):
            yield

    def materialize(self, stages: Iterable[nn.Module]) -> None:
        """Allocate every tensor of the stages and compute its values; can be called once.

        Args:
            stages: The modules that were built while recording, changed in place.

        Raises:
            MetaError: A tensor was not made while recording.
        """
        stages = list(stages)
        real = _Real()
        with torch.no_grad():
            for call in self._calls:
                real.repeat(call)
            self._calls.clear()
            for name, parameter in _unique(stage.named_parameters() for stage in stages):
                if parameter.is_meta:
                    made = nn.Parameter(real.tensor(parameter, name), requires_grad=parameter.requires_grad)
                    attributes = dict(vars(parameter))
                    torch.utils.swap_tensors(parameter, made)  # the same object, for all code that refers to it
                    vars(parameter).update(attributes)
            for owner, held in (pair for stage in stages for module in stage.modules() for pair in _held(module)):
                for name, value in held.items():
                    if isinstance(value, Tensor) and value.is_meta:
                        held[name] = real.tensor(value, f"{name}` of `{type(owner).__name__}")


def _held(module: nn.Module) -> Iterator[tuple[object, dict[str, Any]]]:
    """Yield the attributes of a module, and those of its parts that are no modules, such as a token dispatcher."""
    yield module, module._buffers  # pyright: ignore[reportPrivateUsage]
    yield module, vars(module)
    for name, part in vars(module).items():
        inner: object = getattr(part, "__dict__", None)
        if isinstance(inner, dict) and not isinstance(part, nn.Module | type) and name != "config":
            yield part, cast("dict[str, Any]", inner)


@final
class _Recorder(TorchDispatchMode):
    """Sends every new tensor to the meta device and records the call."""

    def __init__(self, calls: list[_Call]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls = calls

    @override
    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        placed = any(argument.name == "device" for argument in func._schema.arguments)
        if any(isinstance(arg, Tensor) and arg.is_meta for arg in tree_iter((args, kwargs))):
            on_meta = tree_map_only(Tensor, lambda tensor: tensor.to(_META), (args, kwargs))
        elif placed:
            on_meta = (args, kwargs)
        else:
            return func(*args, **kwargs)
        random = _random_states() if torch.Tag.nondeterministic_seeded in func.tags else None
        result = func(*on_meta[0], **(on_meta[1] | ({"device": _META} if placed else {})))
        self._calls.append(_Call(func, args, kwargs, tuple(tree_iter(result)), random))
        return result


class _Real:
    """The real tensors that replace meta tensors. Views of the same memory stay views of the same memory."""

    def __init__(self) -> None:
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._followed: dict[bytes, tuple[Tensor, ...]] = {}

    def repeat(self, call: _Call) -> None:
        """Repeat a call with real tensors."""
        args, kwargs = tree_map_only(Tensor, self._of, (call.args, call.kwargs))
        with self._random(call.random):
            results = call.function(*args, **kwargs)
        for meta, made in zip(call.results, tree_iter(results), strict=True):
            if isinstance(meta, Tensor):
                self._storages[_storage(meta)] = made.untyped_storage()
            elif isinstance(made, torch.ScriptObject):  # handle of a collective, such as the one that ties embeddings
                Work.unbox(made).wait()

    def tensor(self, meta: Tensor, where: str) -> Tensor:
        """Return the real tensor for a meta tensor of a module."""
        if _storage(meta) not in self._storages:
            raise MetaError(
                f"`{where}` must be made while the build is recorded, but is another meta tensor; make it in "
                "the module's own constructor, and materialize a build once."
            )
        return self._of(meta)

    def _of(self, tensor: Tensor) -> Tensor:
        if not tensor.is_meta:
            return tensor
        storage = self._storages[_storage(tensor)]
        empty = torch.empty(0, dtype=tensor.dtype, device=storage.device)
        return empty.set_(storage, tensor.storage_offset(), tensor.size(), tensor.stride())

    @contextlib.contextmanager
    def _random(self, found: tuple[Tensor, ...] | None) -> Generator[None]:
        """Set the random states that a call has in a direct build.

        A random call on the meta device does not advance the states, so several calls may be recorded with the same
        ones. Each of them continues where the one before it ended.
        """
        if found is None:
            yield
            return
        key = b"".join(state.numpy().tobytes() for state in found)
        _set_random_states(self._followed.get(key, found))
        yield
        self._followed[key] = _random_states()


def _random_states() -> tuple[Tensor, ...]:
    """Return the random states of the CPU, and of the GPU where there is one."""
    return (torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_available() else []))


def _set_random_states(states: tuple[Tensor, ...]) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state)


def _storage(tensor: Tensor) -> int:
    """Return an identifier of a tensor's storage, since that of a meta tensor has no address."""
    return int(tensor.untyped_storage()._cdata)  # pyright: ignore[reportPrivateUsage]


def _unique(named: Iterable[Iterable[tuple[str, nn.Parameter]]]) -> Iterable[tuple[str, nn.Parameter]]:
    """Return each parameter once, even if stages share it."""
    return {id(parameter): (name, parameter) for stage in named for name, parameter in stage}.values()
