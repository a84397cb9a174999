"""`OutputRecorder`: records the output of every module in the forward pass, with its place in the unsharded output.

Which part of an output a rank has follows from its shape and the groups: the context ranks cut the sequence, and under
sequence parallelism the tensor ranks cut it again. The channels of a linear layer follow from the sharding map of its
weight.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast, final

import numpy as np
import torch
from megatron.core.transformer.identity_op import IdentityOp
from torch import Tensor, nn

from modelwright.distributed import LocalRange, StageLayout, context_positions, unwrapped
from modelwright.verify.on_ranks.records import Indices, OutputPart

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection

LOSS = "loss"
"""Name of the output of the last stage: the loss of each token."""


def named_modules(stage: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a stage by name.

    Args:
        stage: The stage without a wrapper.
    """
    return dict(cast("Any", stage).named_modules())


def global_names(stage: nn.Module) -> dict[str, str]:
    """Return the names of the modules of a stage in the whole model, by their names in the stage.

    Args:
        stage: The stage without a wrapper.
    """
    modules = named_modules(stage)
    renamed: dict[str, str] = {}
    for name, module in modules.items():
        parent, _, last = name.rpartition(".")
        number: Any = getattr(module, "layer_number", None)
        if last.isdigit() and parent.endswith("layers") and isinstance(number, int):
            renamed[name] = f"{parent}.{number - 1}"
    return {name: _with_prefix(name, renamed) for name in modules}


def _with_prefix(name: str, renamed: dict[str, str]) -> str:
    for prefix, new in renamed.items():
        if name == prefix or name.startswith(f"{prefix}."):
            return new + name[len(prefix) :]
    return name


def _is_layer(name: str) -> bool:
    """Return True for the name of an element of a list, such as `decoder.layers.3`."""
    return name.rpartition(".")[2].isdigit()


@final
class OutputRecorder:
    """Recorder of the outputs of this rank's modules during training.

    A recomputed activation counts once: only calls with gradients are recorded.

    Args:
        stages: The wrapped stages.
        pg_collection: The process groups of this rank.
        seq_length: Length of a whole sequence.
        batch: Sequences in the global batch.
        micro_batch: Sequences in a micro-batch.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        pg_collection: "ProcessGroupCollection",
        *,
        seq_length: int,
        batch: int,
        micro_batch: int,
    ) -> None:
        self._tensor = (pg_collection.tp.rank(), pg_collection.tp.size())
        self._positions = context_positions(seq_length, rank=pg_collection.cp.rank(), size=pg_collection.cp.size())
        share = batch // pg_collection.dp.size()
        self._first, self._micro_batch = pg_collection.dp.rank() * share, micro_batch
        self._calls: dict[int, int] = defaultdict(int)
        self._parts: list[OutputPart] = []
        self.order: list[str] = []
        for wrapped in stages:
            stage = unwrapped(wrapped)
            layout = StageLayout(stage, pg_collection)
            names = global_names(stage)
            layers = [name for name in names.values() if name.rpartition(".")[0].endswith("layers") and _is_layer(name)]
            for local, module in named_modules(stage).items():
                name = names[local]
                skipped = isinstance(module, IdentityOp) or any(layer.startswith(f"{name}.") for layer in layers)
                # Experts receive tokens in an order that depends on the layout.
                skipped = skipped or "experts" in name.split(".")
                if not name or not skipped:
                    module.register_forward_hook(self._hook(name or LOSS, _channels(module, layout)))

    def take(self) -> list[OutputPart]:
        """Return what was recorded since the last call."""
        parts, self._parts = self._parts, []
        self._calls.clear()
        return parts

    def _hook(self, name: str, channels: Indices | None) -> Callable[[nn.Module, Any, Any], None]:
        def record(module: nn.Module, given: Any, output: Any) -> None:
            if not (module.training and torch.is_grad_enabled()):
                return
            if name not in self.order:
                self.order.append(name)
            call = self._calls[id(module)]
            self._calls[id(module)] += 1
            found = self._placed(output, is_loss=name == LOSS)
            if found is not None:
                first = self._first + call * self._micro_batch
                positions, values = found
                fits = channels is not None and len(channels) == values.size(-1)
                self._parts.append(
                    OutputPart(
                        name=name,
                        sequences=tuple(range(first, first + self._micro_batch)),
                        positions=positions.numpy(),
                        channels=channels if fits else None,
                        values=as_array(values),
                    )
                )

        return record

    def _placed(self, output: Any, *, is_loss: bool) -> tuple[Tensor, Tensor] | None:
        """Return positions and values [s, b, c] of an output. None: its shape has another meaning."""
        first = cast("object", output[0]) if isinstance(output, tuple) and output else cast("object", output)
        if not isinstance(first, Tensor) or not first.is_floating_point():
            return None
        batch = self._micro_batch
        if is_loss:
            if tuple(first.shape) != (batch, len(self._positions)):
                return None
            first = first.t()[..., None]
        for positions in self._candidates():
            if first.ndim == 3 and tuple(first.shape[:2]) == (len(positions), batch):
                return positions, first
            if first.ndim == 2 and first.size(0) == len(positions) * batch:
                return positions, first.view(len(positions), batch, -1)
        return None

    def _candidates(self) -> Iterator[Tensor]:
        yield self._positions
        rank, size = self._tensor
        if size > 1 and len(self._positions) % size == 0:
            yield self._positions.chunk(size)[rank]


def as_array(tensor: Tensor) -> Any:
    """Return a copy of a tensor as an array, in float32 if its dtype is narrower.

    Args:
        tensor: On any device.
    """
    plain = tensor.detach().to("cpu", copy=True)
    return (plain if plain.dtype in (torch.float64, torch.float32) else plain.float()).numpy()


def _channels(module: nn.Module, layout: StageLayout) -> Indices | None:
    """Return the index in the unsharded output of each channel of a linear layer. None: not a linear layer."""
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    if weight is None or weight.ndim != 2 or weight.numel() == 0 or "num_embeddings" in vars(module):
        return None
    numbers = torch.arange(weight.size(0)).unsqueeze(1).expand(weight.shape)
    boxes = layout.boxes_of(weight, numbers.contiguous(), LocalRange(first=0, over_data=False))
    rows = [(box, box.local.reshape(-1, box.local.shape[-1])[:, 0].numpy()) for box in boxes]
    found = np.full(weight.size(0), -1, dtype=np.int64)
    # The engine may store parts of the rows under names of their own, which follow each other in the unsharded output.
    first_of: dict[str, int] = {}
    total = 0
    for box, local in sorted(rows, key=lambda entry: int(entry[1].min(initial=0))):
        if box.key not in first_of:
            first_of[box.key], total = total, total + box.global_shape[-2]
        found[local] = first_of[box.key] + box.start[-2] + np.arange(len(local))
    return found if (found >= 0).all() else None
