"""`cpu_runtime`: the engine, as installed, on a machine without a GPU.

Megatron-Core asks CUDA for a device, streams, events and random states while it builds, communicates and steps. None
of that carries the mathematics. Inside the context each of those requests is answered by the CPU: `torch.cuda`'s
queries and streams by stand-ins, `device="cuda"` in a factory by the CPU, an explicit `nccl` group by gloo, and the few
places of the engine that look at the type of a tensor by the CPU's names. On exit every attribute is what it was, and
all the while another thread gets what it always got: the attributes are the process's, so each replacement asks first
whether its thread has entered.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Generator, Iterator
from importlib import import_module
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import torch

from modelwright.protocols import ModelwrightError


class CpuRuntimeError(ModelwrightError):
    """The CPU runtime was asked for where it does not belong."""


_CPU = torch.device("cpu")
# The factories of torch that take `device=`; torch keeps the same list for `with torch.device(...)`.
_FACTORIES = (
    "arange", "as_tensor", "empty", "empty_like", "empty_strided", "eye", "full", "full_like", "linspace", "ones",
    "ones_like", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm", "tensor", "zeros",
    "zeros_like",
)  # fmt: skip


@contextlib.contextmanager
def cpu_runtime(*, force: bool = False) -> Generator[None]:
    """Let the engine run without a GPU for as long as the context lasts; nests.

    It holds for the thread that enters; a thread that is started inside enters for itself.

    Args:
        force: Enter although CUDA is usable, for tests of the runtime itself.

    Raises:
        CpuRuntimeError: CUDA is usable here and `force` is not set.
    """
    if torch.cuda.is_available() and not force:
        raise CpuRuntimeError(
            "`cpu_runtime` is for machines without a GPU, but CUDA is usable here; leave it out, or pass force=True."
        )
    with _lock:
        if not _depth.value:
            changes = tuple(_changes())
            _undo.extend(_swap(*change) for change in changes)
            _undo.append(_eager())
        _depth.value += 1
        _thread.depth += 1
    try:
        yield
    finally:
        with _lock:
            _thread.depth -= 1
            _depth.value -= 1
            while not _depth.value and _undo:
                _undo.pop()()


def device_runtime() -> contextlib.AbstractContextManager[None]:
    """`cpu_runtime()` where there is no usable GPU, else a context that does nothing: the same program on both."""
    return contextlib.nullcontext() if torch.cuda.is_available() else cpu_runtime()


class _Entered(threading.local):
    depth = 0


_lock = threading.RLock()
_thread = _Entered()
_depth = SimpleNamespace(value=0)
_undo: list[Callable[[], None]] = []


def _swap(owner: Any, name: str, replacement: Callable[..., Any]) -> Callable[[], None]:
    """Set an attribute and return what puts it back, inherited ones by removing the override."""
    own = name in vars(owner)
    before = getattr(owner, name)
    setattr(owner, name, replacement if isinstance(replacement, type) else _in_this_thread(replacement, before))
    return functools.partial(setattr, owner, name, before) if own else functools.partial(delattr, owner, name)


def _in_this_thread(replacement: Callable[..., Any], before: Callable[..., Any]) -> Callable[..., Any]:
    """The replacement for threads that have entered the runtime, what was there before for the others."""

    @functools.wraps(before)
    def chosen(*args: Any, **kwargs: Any) -> Any:
        return (replacement if _thread.depth else before)(*args, **kwargs)

    return chosen


def _eager() -> Callable[[], None]:
    """Functions that the engine compiles for the GPU run as they are written; returns what ends that."""
    stance = torch.compiler.set_stance("force_eager")
    stance.__enter__()
    return lambda: stance.__exit__(None, None, None)


def _changes() -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    yield from _engine()
    yield from _torch_cuda()
    yield from _device_requests()
    yield from _process_groups()


def _torch_cuda() -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    """Queries, streams and random states of `torch.cuda`."""
    cuda = torch.cuda
    stream = _Stream()
    properties = SimpleNamespace(
        name="CPU", major=0, minor=0, total_memory=0, multi_processor_count=torch.get_num_threads()
    )
    yield cuda, "current_device", _always(_CPU)
    yield cuda, "current_stream", _always(stream)
    yield cuda, "default_stream", _always(stream)
    yield cuda, "Stream", _Stream
    yield cuda, "Event", _Event
    yield cuda, "stream", contextlib.nullcontext
    yield cuda, "synchronize", _request()
    yield cuda, "set_device", _request()
    yield cuda, "empty_cache", _request()
    yield cuda, "is_current_stream_capturing", _always(answer=False)
    yield cuda, "get_device_properties", _always(properties)
    yield cuda, "get_device_capability", _always((0, 0))
    yield cuda, "get_rng_state", _rng_state
    yield cuda, "set_rng_state", _set_rng_state
    # torch.manual_seed would call torch.cuda again.
    yield cuda, "manual_seed", torch.default_generator.manual_seed


def _device_requests() -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    """Everything that names the device a tensor or module shall live on, or asks for memory that a GPU can read."""
    for name in _FACTORIES:
        yield torch, name, _on_cpu(getattr(torch, name))
    yield torch.Tensor, "cuda", _itself()
    yield torch.Tensor, "pin_memory", _itself()
    yield torch.nn.Module, "cuda", _itself()


def _on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def redirected(*args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device")
        if device is not None and not isinstance(device, int) and torch.device(device).type == "cuda":
            kwargs["device"] = _CPU
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        return factory(*args, **kwargs)

    return redirected


def _process_groups() -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    """Groups whose backend is named outright, and what gloo does less of than nccl."""
    dist = torch.distributed
    for name in ("init_process_group", "new_group", "new_subgroups", "new_subgroups_by_enumeration"):
        yield dist, name, _over_gloo(getattr(dist, name))
    yield dist, "all_gather", _gather_uneven(dist.all_gather)
    yield dist, "reduce_scatter", _scatter_uneven(dist.reduce_scatter)


# Gloo gathers and scatters parts of one size, nccl of any; ranks that split experts have as many rows as were routed.
def _gather_uneven(gather: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(gather)
    def gathered(tensor_list: list[torch.Tensor], tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if _even(tensor_list) or kwargs.get("async_op"):
            return gather(tensor_list, tensor, *args, **kwargs)
        padded = tensor.new_zeros(max(part.size(0) for part in tensor_list), *tensor.shape[1:])
        padded[: tensor.size(0)] = tensor
        room = [torch.empty_like(padded) for _ in tensor_list]
        gather(room, padded, *args, **kwargs)
        for part, filled in zip(tensor_list, room, strict=True):
            part.copy_(filled[: part.size(0)])
        return None

    return gathered


def _scatter_uneven(scatter: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(scatter)
    def scattered(output: torch.Tensor, input_list: list[torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        if _even(input_list) or kwargs.get("async_op"):
            return scatter(output, input_list, *args, **kwargs)
        longest = max(part.size(0) for part in input_list)
        padded = [part.new_zeros(longest, *part.shape[1:]) for part in input_list]
        for room, part in zip(padded, input_list, strict=True):
            room[: part.size(0)] = part
        filled = torch.empty_like(padded[0])
        scatter(filled, padded, *args, **kwargs)
        output.copy_(filled[: output.size(0)])
        return None

    return scattered


def _even(parts: list[torch.Tensor]) -> bool:
    return all(part.shape == parts[0].shape for part in parts)


def _over_gloo(make_group: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(make_group)
    def redirected(*args: Any, **kwargs: Any) -> Any:
        args = tuple("gloo" if arg == "nccl" else arg for arg in args)
        if kwargs.get("backend") == "nccl":
            kwargs["backend"] = "gloo"
        return make_group(*args, **kwargs)

    return redirected


def _engine() -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    """Where the engine reaches below `torch.cuda`'s public functions, or compares the name of a tensor's type."""
    # The engine, and the compiler that it imports, must be loaded before anything is replaced under them.
    import_module("megatron.core.models.hybrid.hybrid_model")
    random = import_module("megatron.core.tensor_parallel.random")

    yield random, "_get_cuda_rng_state", _rng_state
    yield random, "_set_cuda_rng_state", _set_rng_state
    dispatcher = import_module("megatron.core.transformer.moe.token_dispatcher")
    yield dispatcher, "maybe_move_tensor_to_cpu", _on_the_host(dispatcher.maybe_move_tensor_to_cpu)
    yield torch.Tensor, "type", _cuda_type_name(torch.Tensor.type)


def _on_the_host(move: Callable[..., Any]) -> Callable[..., Any]:
    """What all-to-all reads as sizes becomes an array only on its way from a GPU; a tensor it would not take."""

    @functools.wraps(move)
    def moved(tensor: Any, **options: Any) -> Any:
        if options.get("as_numpy") and isinstance(tensor, torch.Tensor) and not tensor.is_cuda:
            return tensor.numpy()
        return move(tensor, **options)

    return moved


def _cuda_type_name(tensor_type: Callable[..., Any]) -> Callable[..., Any]:
    """The optimizer and gradient clipping accept `torch.cuda.FloatTensor` and its like only."""

    @functools.wraps(tensor_type)
    def named(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        answer = tensor_type(self, *args, **kwargs)
        return answer.replace("torch.", "torch.cuda.", 1) if isinstance(answer, str) else answer

    return named


# torch's compiler keeps a table of functions and refuses one that stands under two names, so each of these is new.
def _always[T](answer: T) -> Callable[..., T]:
    """A question whose answer does not change."""

    def answered(*args: object, **kwargs: object) -> T:
        return answer

    return answered


def _request() -> Callable[..., None]:
    """A request without meaning on the CPU, where every operation has finished when it returns."""
    return _always(None)


def _itself() -> Callable[..., object]:
    """A move to where the tensor or module is already."""

    def moved(self: object, *args: object, **kwargs: object) -> object:
        return self

    return moved


def _rng_state(*args: object, **kwargs: object) -> torch.Tensor:
    return torch.get_rng_state()


def _set_rng_state(state: torch.Tensor, *args: object, **kwargs: object) -> None:
    torch.set_rng_state(state)


class _Event:
    """An event that has always happened."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    record, wait, synchronize = _request(), _request(), _request()

    def query(self) -> bool:
        return True

    def elapsed_time(self, end_event: object) -> float:
        return 0.0


class _Stream:
    """A stream on which everything has already run; also its own context."""

    cuda_stream = 0
    device = _CPU

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    wait_stream, wait_event, synchronize = _request(), _request(), _request()

    def record_event(self, event: _Event | None = None) -> _Event:
        return event or _Event()

    def query(self) -> bool:
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
