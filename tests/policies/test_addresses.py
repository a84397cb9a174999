"""No committed file knows the machine it was written on, nor one site's package index."""

from pathlib import Path

import pytest

from tests.policies.repository import ROOT, git

# Brackets keep these lines from finding themselves.
INDEXES = "|".join(
    [
        r"py[p]i\.(org|python\.org)",
        r"python[h]osted\.org",
        r"download\.pytorch[.]org",
        r"py[p]i\.nvidia\.com",
        r"registry\.(npm[j]s\.org|yarn[p]kg\.com)",
        r"(deb\.debian|archive\.ubuntu)[.](org|com)",
        r"conda\.anaconda[.]org",
        r"(--(extra-)?index-url|--find-links)[= ]+(http|file|/)",
    ]
)
MACHINE = r"(^|[^[:alnum:]_.:/])/(home|root|Users)/[[:alnum:]]"


@pytest.mark.parametrize("pattern", [INDEXES, MACHINE], ids=["index", "machine"])
def test_no_address_is_committed(pattern: str):
    """An address works at one site, and tells every other where the author sits."""
    assert git("grep", "--cached", "-nIE", pattern).splitlines() == []


def test_no_path_of_this_machine_is_committed():
    """The same, for the places that only this machine knows: where the repository and the home directory are."""
    places = [f"{path}/" for path in (ROOT, Path.home()) if len(path.parts) > 2]
    assert [line for place in places for line in git("grep", "--cached", "-nIF", place).splitlines()] == []
