"""Masks of dropout: independent where elements differ, equal where they are the same, restored by recomputation."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from megatron.core import tensor_parallel
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

from modelwright.layers import clear_dropout_draw, set_dropout_draw
from modelwright.layers.dropout import HiddenDropout, HiddenPlace, dropped, keep_mask

SEQUENCES, POSITIONS, CHANNELS = 4, 64, 96


@pytest.fixture(autouse=True)
def draw() -> Iterator[None]:
    """No draw is left for the next test."""
    yield
    clear_dropout_draw()


def mask(
    *, seed: int = 1, step: int = 1, place: str = "layers.0", p: float = 0.5, first: int = 0, draw: bool = True
) -> Tensor:
    """A mask [b, s, c] of one place."""
    if draw:
        set_dropout_draw(seed=seed, step=step, sequences_B=torch.arange(first, first + SEQUENCES))
    indices = (
        torch.arange(SEQUENCES)[:, None, None],
        torch.arange(POSITIONS)[:, None],
        torch.arange(CHANNELS),
    )
    return keep_mask(place, p, SEQUENCES, *indices)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_share_that_is_kept(groups: ProcessGroupCollection, p: float):
    """Within five standard deviations of a binomial distribution, in the whole and along each axis."""
    keep = mask(p=p).double()
    for dims in [(0, 1, 2), (0, 1), (1, 2), (0, 2)]:
        count = keep.numel() / keep.mean(dims).numel()
        bound = 5 * (p * (1 - p) / count) ** 0.5 + 1e-12
        assert (keep.mean(dims) - (1 - p)).abs().max() <= bound


def test_masks_of_different_elements_are_independent(groups: ProcessGroupCollection):
    """Two masks agree at half of their elements, within five standard deviations; so do neighbors in one mask."""
    different = {
        "one": mask(),
        "seed": mask(seed=2),
        "step": mask(step=2),
        "place": mask(place="layers.1"),
        "sequences": mask(first=SEQUENCES),
    }
    bound = 5 * 0.5 / (SEQUENCES * POSITIONS * CHANNELS) ** 0.5
    for (_, here), (_, there) in itertools.combinations(different.items(), 2):
        assert abs((here == there).double().mean() - 0.5) < bound
    one = different["one"]
    for dim in range(3):
        for shift in (1, 2, 3):
            assert abs((one == one.roll(shift, dim)).double().mean() - 0.5) < 2 * bound


def test_the_mask_of_an_element_does_not_depend_on_the_others(groups: ProcessGroupCollection):
    """A rank that holds sequences 2 and 3, some positions and some channels has its part of the whole mask."""
    whole = mask()
    set_dropout_draw(seed=1, step=1, sequences_B=torch.arange(2, 4))
    part = keep_mask(
        "layers.0",
        0.5,
        2,
        torch.arange(2)[:, None, None],
        torch.arange(8, 24)[:, None],
        torch.arange(48, 96),
    )
    assert torch.equal(part, whole[2:4, 8:24, 48:96])


def test_values_are_scaled(groups: ProcessGroupCollection):
    values = torch.ones(SEQUENCES, POSITIONS, CHANNELS, dtype=torch.bfloat16)
    result = dropped(values, mask(p=0.75), 0.75)
    assert result.dtype == torch.bfloat16
    assert set(result.unique().tolist()) == {0.0, 4.0}
    assert dropped(values, mask(p=1.0), 1.0).abs().max() == 0


def test_without_a_draw_the_default_generator_decides(groups: ProcessGroupCollection):
    clear_dropout_draw()
    torch.manual_seed(5)
    first, second = mask(draw=False), mask(draw=False)
    torch.manual_seed(5)
    assert torch.equal(first, mask(draw=False))
    assert not torch.equal(first, second)


def test_a_draw_for_other_sequences_is_refused(groups: ProcessGroupCollection):
    set_dropout_draw(seed=1, step=1, sequences_B=torch.arange(3))
    with pytest.raises(ValueError, match=r"`set_dropout_draw` .* 4 .* 3"):
        mask(draw=False)


@pytest.mark.parametrize("with_draw", [True, False])
def test_recomputation_repeats_the_mask(groups: ProcessGroupCollection, with_draw: bool):
    """The engine's checkpoint restores the random states, and with them the draw, although another one is set."""
    dropout = HiddenDropout(HiddenPlace("layers.0", groups, sequence_parallel=False), 0.5)
    hidden = torch.ones(8, 2, 16, requires_grad=True)
    clear_dropout_draw()
    if with_draw:
        set_dropout_draw(seed=1, step=1, sequences_B=torch.arange(2))
    result = tensor_parallel.checkpoint(dropout, False, hidden)
    if with_draw:
        set_dropout_draw(seed=1, step=1, sequences_B=torch.arange(2, 4))
    result.sum().backward()
    assert hidden.grad is not None
    assert torch.equal(hidden.grad, result)


def test_no_dropout_outside_training(groups: ProcessGroupCollection):
    hidden = torch.ones(8, 2, 16)
    dropout = HiddenDropout(HiddenPlace("layers.0", groups, sequence_parallel=False), 0.5)
    assert torch.equal(dropout.eval()(hidden), hidden)
    assert (dropout.train()(hidden) == 0).any()
