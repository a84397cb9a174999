"""What keeps a GPT from being cut as its parallelism says, beside what `test_config.py` holds."""

import pytest

from modelwright.config import ConfigError, Parallelism, check_layout
from modelwright.gpt import gpt_tiny


def test_uneven_stages_must_add_up_to_the_blocks() -> None:
    check_layout(gpt_tiny(), Parallelism(pipeline=2, stages=(1, 3)))
    with pytest.raises(ConfigError) as caught:
        check_layout(gpt_tiny(), Parallelism(pipeline=2, stages=(2, 3)))
    assert str(caught.value) == (
        "`num_layers` must be the sum of `parallelism.stages`, but 4 is not 5; change one of them."
    )


def test_there_is_one_number_for_each_stage() -> None:
    with pytest.raises(ConfigError) as caught:
        Parallelism(pipeline=2, virtual_pipeline=2, stages=(2, 2))
    assert str(caught.value) == (
        "`stages` must have `pipeline` × `virtual_pipeline` = 4 numbers, but has 2; give one for each stage."
    )
