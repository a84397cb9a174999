"""The CPU runtime answers every request that the engine makes of CUDA, and leaves nothing behind."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib import import_module
from typing import Any

import pytest
import torch

from modelwright.engine import CpuRuntimeError, cpu_runtime, device_runtime
from tests.messages import facts

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="the runtime is for machines without a GPU")

# What entering the runtime imports sets attributes of torch by itself, once.
import_module("megatron.core.models.hybrid.hybrid_model")
random: Any = import_module("megatron.core.tensor_parallel.random")
dispatcher: Any = import_module("megatron.core.transformer.moe.token_dispatcher")

OWNERS: dict[str, Any] = {
    "torch": torch,
    "torch.cuda": torch.cuda,
    "torch.Tensor": torch.Tensor,
    "torch.nn.Module": torch.nn.Module,
    "torch.distributed": torch.distributed,
    "megatron.core.tensor_parallel.random": random,
    "megatron.core.transformer.moe.token_dispatcher": dispatcher,
}
FACTORIES: dict[str, tuple[Any, ...]] = {
    "arange": (3,),
    "as_tensor": ([1.0],),
    "empty": (2,),
    "empty_like": (torch.ones(2),),
    "empty_strided": ((2,), (1,)),
    "eye": (2,),
    "full": ((2,), 1.0),
    "full_like": (torch.ones(2), 1.0),
    "linspace": (0, 1, 3),
    "ones": (2,),
    "ones_like": (torch.ones(2),),
    "rand": (2,),
    "rand_like": (torch.ones(2),),
    "randint": (3, (2,)),
    "randint_like": (torch.ones(2), 3),
    "randn": (2,),
    "randn_like": (torch.ones(2),),
    "randperm": (3,),
    "tensor": ([1.0],),
    "zeros": (2,),
    "zeros_like": (torch.ones(2),),
}


def attributes() -> dict[str, Any]:
    """Every attribute that an owner has of its own, under its dotted name."""
    return {f"{owner}.{name}": value for owner, of in OWNERS.items() for name, value in vars(of).items()}


def differing(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Return what was added, removed or replaced."""
    absent = object()
    return {name for name in before | after if before.get(name, absent) is not after.get(name, absent)}


@without_gpu
def test_everything_is_restored() -> None:
    before = attributes()
    with cpu_runtime():
        inside = attributes()
    changed = differing(before, inside)
    assert {"torch.cuda.Stream", "torch.empty", "torch.Tensor.cuda", "torch.distributed.new_group"} <= changed
    assert {f"torch.{name}" for name in FACTORIES} <= changed
    assert differing(before, attributes()) == set()


@without_gpu
def test_everything_is_restored_after_an_exception() -> None:
    before = attributes()
    with pytest.raises(ZeroDivisionError), cpu_runtime():
        _ = 1 / 0
    assert differing(before, attributes()) == set()


@without_gpu
def test_it_nests() -> None:
    before = attributes()
    with cpu_runtime():
        once = attributes()
        with cpu_runtime():
            assert differing(once, attributes()) == set()
        assert differing(once, attributes()) == set()
        assert torch.cuda.current_device() == torch.device("cpu")
    assert differing(before, attributes()) == set()


@without_gpu
def test_it_can_be_entered_again() -> None:
    for _ in range(2):
        with cpu_runtime():
            assert torch.zeros(1, device="cuda").device.type == "cpu"
        with pytest.raises((AssertionError, RuntimeError)):
            torch.zeros(1, device="cuda")


@without_gpu
def test_the_compiler_is_off_inside_alone() -> None:
    compiled: list[str] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append("compiled")
        return graph.forward

    doubled = torch.compile(lambda x: 2 * x, backend=backend)
    with cpu_runtime():
        assert doubled(torch.ones(1)).item() == 2
        assert compiled == []
    assert doubled(torch.ones(1)).item() == 2
    assert compiled == ["compiled"]


@without_gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")])
@pytest.mark.parametrize("name", FACTORIES)
def test_factories_make_what_is_asked_of_cuda_on_the_cpu(name: str, device: Any) -> None:
    with cpu_runtime():
        assert getattr(torch, name)(*FACTORIES[name], device=device).device.type == "cpu"


@without_gpu
def test_factories_leave_other_devices_alone() -> None:
    with cpu_runtime():
        assert torch.empty(2, device="meta").device.type == "meta"
        assert torch.ones(2, dtype=torch.int32).dtype == torch.int32


@without_gpu
def test_streams_and_events_have_always_finished() -> None:
    with cpu_runtime():
        stream, event = torch.cuda.Stream(priority=-1), torch.cuda.Event(enable_timing=True)
        with torch.cuda.stream(stream), stream:
            event.record(stream)
            stream.wait_event(event)
            stream.wait_stream(torch.cuda.current_stream())
        event.wait()
        event.synchronize()
        stream.synchronize()
        assert stream.query()
        assert event.query()
        assert event.elapsed_time(torch.cuda.Event()) == 0.0
        assert stream.record_event(event) is event
        assert torch.cuda.current_stream() is torch.cuda.default_stream()
        assert isinstance(torch.cuda.current_stream(), torch.cuda.Stream)


@without_gpu
def test_queries_of_the_device() -> None:
    with cpu_runtime():
        assert torch.cuda.current_device() == torch.device("cpu")
        assert torch.cuda.get_device_properties(0).name == "CPU"  # type: ignore[comparison-overlap]
        assert torch.cuda.get_device_capability() == (0, 0)
        assert torch.cuda.is_current_stream_capturing() is False
        torch.cuda.set_device(0)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


@without_gpu
def test_random_states_are_those_of_the_cpu() -> None:
    with cpu_runtime():
        torch.cuda.manual_seed(3)
        expected = torch.rand(2)
        torch.manual_seed(3)
        for get, put in (
            (torch.cuda.get_rng_state, torch.cuda.set_rng_state),
            (random._get_cuda_rng_state, random._set_cuda_rng_state),
        ):
            state = get()
            assert torch.equal(torch.rand(2), expected)
            put(state)
    assert torch.equal(torch.rand(2), expected)


@without_gpu
def test_moves_to_cuda_stay() -> None:
    tensor, module = torch.ones(1), torch.nn.Linear(1, 1)
    with cpu_runtime():
        assert tensor.cuda() is tensor
        assert tensor.cuda(0, non_blocking=True) is tensor
        assert module.cuda() is module


@without_gpu
def test_sizes_of_an_all_to_all_are_arrays_as_they_are_from_a_gpu() -> None:
    sizes = torch.tensor([3, 5])
    with cpu_runtime():
        assert dispatcher.maybe_move_tensor_to_cpu(sizes, as_numpy=True).tolist() == [3, 5]
        assert not torch.is_tensor(dispatcher.maybe_move_tensor_to_cpu(sizes, as_numpy=True))
        assert dispatcher.maybe_move_tensor_to_cpu(sizes) is sizes
        assert dispatcher.maybe_move_tensor_to_cpu(None, as_numpy=True) is None
    assert dispatcher.maybe_move_tensor_to_cpu(sizes, as_numpy=True) is sizes


@without_gpu
def test_tensors_name_the_type_that_the_optimizer_accepts() -> None:
    tensor = torch.ones(1)
    with cpu_runtime():
        assert tensor.type() == "torch.cuda.FloatTensor"
        assert tensor.bfloat16().type() == "torch.cuda.BFloat16Tensor"
        assert tensor.type(torch.float64).dtype == torch.float64
    assert tensor.type() == "torch.FloatTensor"


@without_gpu
@pytest.mark.parametrize("by_name", [False, True])
def test_groups_of_nccl_become_groups_of_gloo(by_name: bool) -> None:
    backend: dict[str, Any] = {"backend": "nccl"} if by_name else {}
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    with cpu_runtime():
        positional = () if by_name else ("nccl",)
        torch.distributed.init_process_group(*positional, store=store, rank=0, world_size=1, **backend)
        try:
            groups = [
                torch.distributed.group.WORLD,
                torch.distributed.new_group([0], backend="nccl"),
                torch.distributed.new_subgroups(1, backend="nccl")[0],
                torch.distributed.new_subgroups_by_enumeration([[0]], backend="nccl")[0],
            ]
            assert [torch.distributed.get_backend(group) for group in groups] == ["gloo"] * 4
        finally:
            torch.distributed.destroy_process_group()


def test_it_refuses_where_cuda_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = attributes()
    with pytest.raises(CpuRuntimeError) as caught, cpu_runtime():
        pass
    assert facts(caught.value) == "`cpu_runtime` True"
    assert differing(before, attributes()) == set()


@without_gpu
def test_it_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with cpu_runtime(force=True):
        assert torch.cuda.current_device() == torch.device("cpu")


def test_the_device_runtime_does_nothing_where_cuda_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = attributes()
    with device_runtime():
        assert differing(before, attributes()) == set()


@without_gpu
def test_the_device_runtime_is_the_cpu_runtime_elsewhere() -> None:
    with device_runtime():
        assert torch.cuda.current_device() == torch.device("cpu")


@without_gpu
def test_other_threads_are_left_alone() -> None:
    """Their CUDA calls and the names of their tensor types are unchanged."""

    def ask(name: str) -> object:
        questions: dict[str, Callable[[], object]] = {
            "factory": lambda: torch.zeros(1, device="cuda"),
            "move": lambda: torch.zeros(1).cuda(),
            "module": lambda: torch.nn.Linear(1, 1).cuda(),
            "device": torch.cuda.current_device,
        }
        try:
            return questions[name]()
        except (AssertionError, RuntimeError) as error:
            return type(error)

    questions = ("factory", "move", "module", "device")
    with ThreadPoolExecutor(1) as other:
        before = [other.submit(ask, name).result() for name in questions]
        assert all(isinstance(answer, type) for answer in before)
        with cpu_runtime():
            assert [other.submit(ask, name).result() for name in questions] == before
            assert not any(isinstance(ask(name), type) for name in questions)
            assert torch.zeros(1).type() == "torch.cuda.FloatTensor"
            assert other.submit(lambda: torch.zeros(1).type()).result() == "torch.FloatTensor"


@without_gpu
def test_two_threads_enter_and_leave_in_any_order() -> None:
    before = attributes()
    with ThreadPoolExecutor(1) as other, ExitStack() as theirs:
        with cpu_runtime():
            other.submit(theirs.enter_context, cpu_runtime()).result()
        with pytest.raises((AssertionError, RuntimeError)):
            torch.zeros(1, device="cuda")
        assert other.submit(lambda: torch.zeros(1, device="cuda").device.type).result() == "cpu"
        other.submit(theirs.close).result()
    assert differing(before, attributes()) == set()
