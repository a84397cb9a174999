"""Commands hide the warnings of other packages, and show those of modelwright."""

import warnings

import pytest

from modelwright.cli.quiet import quiet_engine
from modelwright.protocols import ModelwrightWarning


@pytest.mark.parametrize("debug", [False, True])
def test_only_warnings_of_modelwright_are_shown(debug: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_engine(debug=debug):
            warnings.warn("of another package", UserWarning, stacklevel=1)
            warnings.warn("of ours", ModelwrightWarning, stacklevel=1)
    shown = [str(one.message) for one in caught]
    assert shown == ["of another package", "of ours"] if debug else ["of ours"]
