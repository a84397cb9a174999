"""The committed `uv.lock` is neutral: locked versions and hashes for everybody, the index of nobody."""

from tests.policies import lockfile
from tests.policies.repository import ROOT, git

FULL = """\
version = 1

[manifest]
members = [
    "ours",
]

[[package]]
name = "theirs"
version = "1.0"
source = { registry = "https://a.example/simple" }
sdist = { url = "https://a.example/b/theirs-1.0.tar.gz", hash = "sha256:aa", size = 3, upload-time = "2026-01-01" }
"""
NEUTRAL = """\
version = 1

[[package]]
name = "theirs"
version = "1.0"
source = { registry = "https://index.invalid/simple" }
sdist = { url = "https://index.invalid/theirs-1.0.tar.gz", hash = "sha256:aa" }
"""


def test_the_committed_lock_is_neutral():
    """Each site resolves through its own index. The working copy is no witness: `uv run` has completed it."""
    committed = git("show", ":uv.lock")
    places = {part.partition("/")[0].strip('"') for part in committed.split("://")[1:]}
    assert places == {"index.invalid"}
    assert committed == lockfile.neutralize(committed), "run `uv run nox -s lock`, then commit `uv.lock`"


def test_the_committed_lock_is_what_the_working_copy_resolves_to():
    """A dependency that was added without its lock would be chosen by each machine for itself."""
    assert lockfile.differences(git("show", ":uv.lock"), (ROOT / "uv.lock").read_text(encoding="utf-8")) == []


def test_neutralize():
    """Places go, and what only some indexes tell; the rest stays as it is."""
    assert lockfile.neutralize(FULL) == NEUTRAL
    assert lockfile.neutralize(NEUTRAL) == NEUTRAL


def test_differences():
    """Two indexes agree if versions and hashes do."""
    assert lockfile.differences(NEUTRAL, FULL) == []
    assert lockfile.differences(NEUTRAL, FULL.replace("sha256:aa", "sha256:bb")) == ["theirs 1.0: different hashes"]
    assert lockfile.differences(NEUTRAL, FULL.replace('"1.0"', '"1.1"')) == [
        "theirs 1.0: committed, but resolving does not need it",
        "theirs 1.1: needed, but not in the committed lock",
    ]
