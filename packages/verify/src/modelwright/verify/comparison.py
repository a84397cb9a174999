"""`compare`: the recordings of all ranks of a layout against those of one rank."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, final

import numpy as np

from modelwright.verify.deviations import KINDS, Deviation, Kind
from modelwright.verify.explanations import AXES, Copies, Explanation, explain_norm, explain_number, explain_tensor
from modelwright.verify.on_ranks.layer_outputs import LOSS
from modelwright.verify.on_ranks.records import Array, Indices, OutputPart, Piece, RankRecording, StepRecording

_FLOOR: Final = 1e-2
"""Scale of the smallest tensors, as a fraction of the largest value of all tensors: rounding does not respect them."""


@final
@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Largest differences that count as rounding, each relative to the largest value of the tensor on one rank."""

    value: float
    """Outputs, gradients and losses."""
    norm: float
    """Gradient norms, sums of which the rounding of each element averages out."""
    update: float
    """Changes of parameters since the start, which the optimizer computes from quotients of gradients."""


TOLERANCES: Final = {
    "float64": Tolerance(value=2e-6, norm=1e-6, update=4e-5),
    "float32": Tolerance(value=1e-4, norm=1e-5, update=2e-3),
    "float16": Tolerance(value=2e-2, norm=2e-2, update=1e-1),
    "bfloat16": Tolerance(value=1e-1, norm=1e-1, update=3e-1),
}
"""Tolerances by the dtype of the computation. In float64 the engine still computes losses in float32."""


def assembled(pieces: Iterable[Piece]) -> dict[str, Array]:
    """Return the unsharded tensors by key.

    Args:
        pieces: Pieces of one rank that has all of the model.
    """
    found: dict[str, Array] = {}
    for piece in pieces:
        if piece.key not in found:
            found[piece.key] = np.zeros(piece.global_shape, dtype=piece.values.dtype)
        found[piece.key][piece.where] = piece.values
    return found


@final
class Reference:
    """The recording of one rank, with unsharded tensors.

    Args:
        recording: The recording.
    """

    def __init__(self, recording: RankRecording) -> None:
        self.recording = recording
        self.initial = assembled(recording.initial)
        self.modules = {name: index for index, name in enumerate(recording.order)}
        self.parameters = {name: index for index, name in enumerate(dict.fromkeys(p.name for p in recording.initial))}
        self._names: dict[str, list[Piece]] = defaultdict(list)
        for piece in recording.initial:
            self._names[piece.key].append(piece)

    @cached_property
    def steps(self) -> list["ReferenceStep"]:
        """Return the steps."""
        return [ReferenceStep(step, self.initial) for step in self.recording.steps]

    def name_of(self, piece: Piece) -> str:
        """Return the name of the parameter that a piece is part of, as one rank has it.

        Args:
            piece: Piece of any rank.
        """
        for known in self._names[piece.key]:
            inside = zip(known.start, piece.start, known.values.shape, strict=True)
            if all(low <= start < low + size for low, start, size in inside):
                return known.name
        return piece.name


@final
class ReferenceStep:
    """The measurements of one step on one rank, unsharded.

    Args:
        step: The measurements.
        initial: Unsharded initial values.
    """

    def __init__(self, step: StepRecording, initial: Mapping[str, Array]) -> None:
        self.numbers = step
        self.gradients = assembled(step.gradients)
        self.parameters = assembled(step.parameters)
        self.updates = {key: value - initial[key] for key, value in self.parameters.items() if key in initial}
        self.outputs = _whole_outputs(step.outputs)
        self.output_scales = {name: largest(value) for name, value in self.outputs.items()}
        self.gradient_scales = _scales(self.gradients)
        self.update_scales = _scales(self.updates)

    def is_finite(self) -> bool:
        """Return True if the loss, the gradient norm and all gradients are finite."""
        numbers = (self.numbers.loss, self.numbers.grad_norm)
        return all(map(math.isfinite, numbers)) and all(np.isfinite(it).all() for it in self.gradients.values())


def largest(values: Array) -> float:
    """Return the largest absolute value."""
    return float(np.abs(values).max(initial=0.0))


def _scales(tensors: Mapping[str, Array]) -> dict[str, float]:
    sizes = {key: largest(tensor) for key, tensor in tensors.items()}
    floor = _FLOOR * max(sizes.values(), default=0.0)
    return {key: max(size, floor) for key, size in sizes.items()}


def _grid(part: OutputPart) -> tuple[Indices, Indices]:
    """Return the index of a part of an output: positions as rows, sequences as columns."""
    return part.positions[:, None], np.asarray(part.sequences, dtype=np.int64)[None, :]


def _whole_outputs(parts: Sequence[OutputPart]) -> dict[str, Array]:
    found: dict[str, Array] = {}
    sequences = 1 + max((number for part in parts for number in part.sequences), default=0)
    for part in parts:
        length, _, channels = part.values.shape
        if part.name not in found:
            found[part.name] = np.zeros((length, sequences, channels), dtype=part.values.dtype)
        found[part.name][_grid(part)] = part.values
    return found


def compare(reference: Reference, ranks: Sequence[RankRecording], tolerance: Tolerance) -> list[Deviation]:
    """Compare a layout with one rank, step by step, up to the first step that differs.

    Args:
        reference: Recording of one rank.
        ranks: Recording of each rank of the layout.
        tolerance: Largest differences that count as rounding.

    Returns:
        The differences of the first step that has any, the most likely cause first; empty if there is none.
    """
    for index, step in enumerate(reference.steps):
        found = list(_Step(reference, step, ranks, index, tolerance).deviations())
        if found:
            return sorted(found, key=lambda deviation: _rank(deviation, reference))
    return []


def _rank(deviation: Deviation, reference: Reference) -> tuple[int, float]:
    """Return the sort key: forward order for outputs, backward order for gradients, size for updates."""
    place: float = -deviation.error
    if deviation.kind == "output":
        place = reference.modules.get(deviation.name, len(reference.modules))
    elif deviation.kind == "gradient":
        place = -reference.parameters.get(deviation.name, -1)
    return KINDS.index(deviation.kind), place


@final
class _Step:
    """One step of a layout beside that of one rank."""

    def __init__(
        self,
        reference: Reference,
        step: ReferenceStep,
        ranks: Sequence[RankRecording],
        index: int,
        tolerance: Tolerance,
    ) -> None:
        self.reference, self.expected, self.tolerance = reference, step, tolerance
        self.number = index + 1
        self.ranks = [(rank.steps[index], rank.coordinates) for rank in ranks]
        self.sizes = {axis: size for axis, size in ranks[0].sizes.items() if size > 1 and axis in AXES}
        self._unknown: set[str] = set()

    def deviations(self) -> Iterator[Deviation]:
        """Yield every difference."""
        yield from self._outputs()
        yield from self._router_numbers()
        yield from self._number("loss", [found.loss for found, _ in self.ranks], self.expected.numbers.loss)
        gradients = list(self._gradients())
        yield from gradients
        yield from self._norm(explained=bool(gradients))
        yield from self._copies()
        yield from self._updates()

    def _deviation(
        self, kind: Kind, name: str, error: float, explanation: Explanation, shape: tuple[int, ...] = ()
    ) -> Deviation:
        return Deviation(
            step=self.number,
            kind=kind,
            name=name,
            error=error if math.isfinite(error) else math.inf,
            ratio=explanation.ratio,
            axis=explanation.axis,
            explanation=explanation.clause,
            shape=shape,
            groups=dict(self.sizes),
        )

    def _number(
        self,
        kind: Kind,
        found: Sequence[float],
        expected: float,
        name: str = "",
        *,
        tolerance: float | None = None,
    ) -> Iterator[Deviation]:
        allowed = self.tolerance.value if tolerance is None else tolerance
        beyond = [value for value in found if not within(value, expected, relative=allowed)]
        if beyond:
            value = max(beyond, key=lambda number: math.inf if math.isnan(number) else abs(number - expected))
            worst = abs(value - expected) / (abs(expected) or 1.0)
            explanation = explain_number(value, expected, self.sizes)
            clause = explanation.clause if explanation.axis else f"is {value:.6g}, not {expected:.6g}"
            yield self._deviation(kind, name, worst, Explanation(clause, explanation.ratio, explanation.axis))

    def _outputs(self) -> Iterator[Deviation]:
        errors: dict[str, float] = defaultdict(float)
        parts: dict[str, list[Copies]] = defaultdict(list)
        for found, coordinates in self.ranks:
            for part in found.outputs:
                expected = self._expected_output(part, coordinates)
                if expected is None:
                    continue
                scale = self.expected.output_scales[part.name] or 1.0
                errors[part.name] = max(errors[part.name], difference(part.values, expected) / scale)
                parts[part.name].append(Copies([part.values], expected, [coordinates]))
        for name, error in errors.items():
            if not error <= self.tolerance.value:
                shape = self.expected.outputs[name].shape
                explanation = explain_tensor(parts[name], self.sizes)
                if name == LOSS:
                    last = [module for module in self.reference.recording.order if module != LOSS][-1]
                    yield self._deviation("token loss", last, error, explanation, shape)
                else:
                    yield self._deviation("output", name, error, explanation, shape)

    def _expected_output(self, part: OutputPart, coordinates: Mapping[str, int]) -> Array | None:
        """Return the part of the unsharded output. None: it has no such part."""
        whole = self.expected.outputs.get(part.name)
        if whole is None:
            return None
        rows: Array = whole[_grid(part)]
        local = part.values.shape[2]
        if local == whole.shape[2]:
            return rows
        if part.channels is not None:
            return rows[..., part.channels]
        if local * self.sizes.get("tensor", 1) == whole.shape[2]:
            first = coordinates["tensor"] * local
            return rows[..., first : first + local]
        return None

    def _router_numbers(self) -> Iterator[Deviation]:
        expected = self.expected.numbers
        for layer, counts in expected.tokens_per_expert.items():
            found = self.ranks[0][0].tokens_per_expert.get(layer, ())
            if found != counts:
                clause = f"are {list(found)}, not {list(counts)}"
                yield self._deviation("tokens per expert", f"decoder.layers.{layer - 1}", 1.0, Explanation(clause))
        for name, losses in expected.router_losses.items():
            per_layer = [self._router_loss(name, layer) for layer in range(len(losses))]
            for layer, loss in enumerate(losses):
                yield from self._number("router loss", [per_layer[layer]], loss, f"decoder.layers.{layer} {name}")

    def _router_loss(self, name: str, layer: int) -> float:
        """Return the auxiliary loss of a layer. Only one pipeline rank has it."""
        first: dict[int, float] = {}
        for found, coordinates in self.ranks:
            values = found.router_losses.get(name, ())
            if layer < len(values):
                first.setdefault(coordinates["pipeline"], values[layer])
        return sum(first.values())

    def _by_tensor(self, kind: str) -> dict[str, tuple[str, list[Copies]]]:
        """Return the name and all copies of the parts of each tensor, by the name of the parameter."""
        whole = self.expected.gradients if kind == "gradients" else self.expected.parameters
        places: dict[tuple[str, tuple[int, ...], tuple[int, ...]], list[tuple[Piece, Mapping[str, int]]]]
        places = defaultdict(list)
        for found, coordinates in self.ranks:
            for piece in found.gradients if kind == "gradients" else found.parameters:
                if piece.key in whole:
                    places[piece.key, piece.start, piece.values.shape].append((piece, coordinates))
                else:
                    self._unknown.add(piece.name)
        tensors: dict[str, tuple[str, list[Copies]]] = {}
        for (key, _, _), copies in places.items():
            name = self.reference.name_of(copies[0][0])
            expected = whole[key][copies[0][0].where]
            part = Copies([piece.values for piece, _ in copies], expected, [where for _, where in copies])
            tensors.setdefault(name, (key, []))[1].append(part)
        return tensors

    @cached_property
    def _gradient_parts(self) -> dict[str, tuple[str, list[Copies]]]:
        return self._by_tensor("gradients")

    def _gradients(self) -> Iterator[Deviation]:
        for name, (key, parts) in self._gradient_parts.items():
            scale = self.expected.gradient_scales[key] or 1.0
            error = 0.0
            for part in parts:
                for values in part.values:
                    error = max(error, difference(values, part.expected) / scale)
            if not error <= self.tolerance.value:
                shape = self.expected.gradients[key].shape
                yield self._deviation("gradient", name, error, explain_tensor(parts, self.sizes), shape)
        yield from self._missing("gradient", self._gradient_parts, self.expected.numbers.gradients)

    def _missing(
        self, kind: Kind, found: Mapping[str, tuple[str, list[Copies]]], expected: Sequence[Piece]
    ) -> Iterator[Deviation]:
        """Yield tensors of one rank of which the ranks lack elements."""
        sizes: dict[str, int] = defaultdict(int)
        for piece in expected:
            sizes[self.reference.name_of(piece)] += piece.values.size
        for name, size in sorted(sizes.items()):
            _, parts = found.get(name, ("", []))
            there = sum(part.expected.size for part in parts)
            if there < size:
                clause = f"is missing: the ranks have {there:,} of its {size:,} elements"
                yield self._deviation(kind, name, math.inf, Explanation(clause))

    def _norm(self, *, explained: bool) -> Iterator[Deviation]:
        found = [step.grad_norm for step, _ in self.ranks]
        tolerance = self.tolerance.value if explained else self.tolerance.norm
        for deviation in self._number("gradient norm", found, self.expected.numbers.grad_norm, tolerance=tolerance):
            if explained:
                yield deviation
                continue
            squares = {
                name: [float(np.vdot(part.expected, part.expected)) for part in parts]
                for name, (_, parts) in self._gradient_parts.items()
            }
            copies = {name: len(parts[0].values) for name, (_, parts) in self._gradient_parts.items()}
            cause = explain_norm(found[0], squares, copies)
            if cause is None:
                yield deviation
            else:
                clause = f"is {found[0]:.6g}, not {self.expected.numbers.grad_norm:.6g}: its gradient is {cause[1]}"
                yield self._deviation("gradient norm", cause[0], deviation.error, Explanation(clause, deviation.ratio))

    @cached_property
    def _parameter_parts(self) -> dict[str, tuple[str, list[Copies]]]:
        return self._by_tensor("parameters")

    def _copies(self) -> Iterator[Deviation]:
        for name, (key, parts) in self._parameter_parts.items():
            for part in parts:
                first, *others = part.values
                if any(first.tobytes() != other.tobytes() for other in others):
                    error = max(difference(first, other) for other in others) / (largest(first) or 1.0)
                    axis = _axis_of_copies(part.coordinates)
                    over = f" on the ranks of `{axis}`" if axis else ""
                    clause = f"of the parameter differ{over} after the step"
                    shape = self.expected.parameters[key].shape
                    yield self._deviation("copies", name, error, Explanation(clause, None, axis), shape)
                    break

    def _updates(self) -> Iterator[Deviation]:
        for name, (key, parts) in self._parameter_parts.items():
            scale = self.expected.update_scales.get(key, 0.0) or 1.0
            error = 0.0
            for part in parts:
                for values in part.values:
                    error = max(error, difference(values, part.expected) / scale)
            if not error <= self.tolerance.update:
                shape = self.expected.parameters[key].shape
                clause = f"after the step differs by {error:.1e} of its update"
                yield self._deviation("parameter", name, error, Explanation(clause), shape)
        yield from self._missing("parameter", self._parameter_parts, self.expected.numbers.parameters)
        for name in sorted(self._unknown):
            yield self._deviation("parameter", name, math.inf, Explanation("does not exist on one rank"))


def _axis_of_copies(coordinates: Sequence[Mapping[str, int]]) -> str | None:
    """Return the first axis along which the ranks of copies differ."""
    return next((axis for axis in AXES if len({where[axis] for where in coordinates}) > 1), None)


def within(found: float, expected: float, *, absolute: float = 0.0, relative: float = 0.0) -> bool:
    """Return True if two numbers differ by at most a tolerance; nan differs from every number.

    Args:
        found: Number on a layout.
        expected: Number on one rank.
        absolute: Tolerance.
        relative: Further tolerance as a fraction of the expected number.
    """
    return abs(found - expected) <= absolute + relative * abs(expected)


def difference(found: Array, expected: Array) -> float:
    """Return the largest absolute difference; infinite where a value is not finite on either side.

    Args:
        found: Values of a layout.
        expected: Values of one rank.
    """
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return math.inf
    return largest(found - expected)
