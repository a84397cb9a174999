"""Layouts that a GPT does not fit, in addition to those in `test_config.py`."""

import pytest

from modelwright.config import ConfigError, Parallelism, check_layout
from modelwright.gpt import gpt_tiny
from tests.messages import facts


def test_uneven_stages_must_add_up_to_the_blocks() -> None:
    check_layout(gpt_tiny(), Parallelism(pipeline=2, stages=(1, 3)))
    with pytest.raises(ConfigError) as caught:
        check_layout(gpt_tiny(), Parallelism(pipeline=2, stages=(2, 3)))
    assert facts(caught.value) == "`num_layers` `parallelism.stages` 4 5"


def test_there_is_one_number_for_each_stage() -> None:
    with pytest.raises(ConfigError) as caught:
        Parallelism(pipeline=2, virtual_pipeline=2, stages=(2, 2))
    assert facts(caught.value) == "`stages` `pipeline` `virtual_pipeline` 4 2"
