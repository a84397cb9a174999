"""Every check of the workspace, one session each: `uv run nox` runs those that `uv run nox --list` marks with a star.

The packages are read from `packages/*/pyproject.toml`, so a new one needs no edit here. Sessions that look at the
workspace as a whole run in the environment of `uv run`. `tests` and `build` make environments of their own, because
what is *not* installed there is their point. Any of them completes a neutral `uv.lock` (see CONTRIBUTING.md).
"""

import re
import shutil
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import nox

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))
from tests.policies import lockfile  # noqa: E402 - nox does not put the folder of the noxfile on the path

nox.needs_version = ">=2026.4.10"
nox.options.default_venv_backend = "uv"
nox.options.error_on_external_run = True

LIGHT_PACKAGES = ("config", "protocols")  # without torch, which alone takes minutes to download
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
CANARY = "tests/typing/canary.py"
# Two ranks share two cores in the tests; more threads a rank would only wait for each other.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
NO_PROOFS = ("-m", "not proof")


def uv(session: nox.Session, *command: str, env: dict[str, str] | None = None) -> None:
    """Run a uv command."""
    session.run("uv", *command, env=env or {}, external=True)


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Check everything with ruff: rules and format."""
    uv(session, "run", "ruff", "check")
    uv(session, "run", "ruff", "format", "--check")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Check sources, examples and typing tests with mypy and pyright, both strict; both must reject the canary."""
    sources = [f"packages/{package}/src" for package in PACKAGES]
    sources += [str(path.relative_to(ROOT)) for path in ROOT.glob("tests/typing/**/*.py") if not path.match(CANARY)]
    sources += [str(path.relative_to(ROOT)) for path in ROOT.glob("docs/examples/*.py")]
    sources += [str(path.relative_to(ROOT)) for path in ROOT.glob("docs/examples/downstream/*/src")]
    for checker in ("mypy", "pyright"):
        uv(session, "run", checker, *sources)
        check_canary(session, checker)


def check_canary(session: nox.Session, checker: str) -> None:
    """Require errors in the marked lines of the canary and in no other."""
    lines = (ROOT / CANARY).read_text(encoding="utf-8").splitlines()
    marked = {number for number, line in enumerate(lines, start=1) if "# canary" in line}
    output = str(session.run("uv", "run", checker, CANARY, external=True, silent=True, success_codes=[0, 1]))
    reported = {int(number) for number in re.findall(r"canary\.py:(\d+):.*?\berror\b", output)}
    if not marked or reported != marked:
        session.error(f"{checker} must reject the lines {sorted(marked)} of {CANARY}, but rejects {sorted(reported)}.")


@nox.session(venv_backend="none")
def layers(session: nox.Session) -> None:
    """Check with import-linter that imports only point down the layers, and that light packages stay light."""
    uv(session, "run", "lint-imports")


@nox.session(venv_backend="none", default=False)
def lock(session: nox.Session) -> None:
    """Write uv.lock in its index-neutral form; with `-- --check`, only compare as `lock_check` does."""
    if session.posargs == ["--check"]:
        session.notify("lock_check", posargs=[])
        return
    if session.posargs:
        session.error(f"`lock` takes `--check` or nothing, but was given {' '.join(session.posargs)}.")
    uv(session, "lock")
    path = ROOT / "uv.lock"
    path.write_text(lockfile.neutralize(path.read_text(encoding="utf-8")), encoding="utf-8")


@nox.session(venv_backend="none")
def lock_check(session: nox.Session) -> None:
    """Compare versions and hashes of the committed (or staged) uv.lock with what resolving gives here."""
    uv(session, "lock")
    committed = session.run("git", "show", ":uv.lock", external=True, silent=True)
    found = lockfile.differences(str(committed), (ROOT / "uv.lock").read_text(encoding="utf-8"))
    if found:
        session.error(
            "The committed `uv.lock` is not what resolving gives:\n  "
            + "\n  ".join(found)
            + "\nIf the change is wanted, run `uv run nox -s lock` and commit `uv.lock`."
        )


@nox.session
def build(session: nox.Session) -> None:
    """Build every wheel and sdist, install the wheels into an empty environment, import each, run the command."""
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder / "dist", ignore_errors=True)
    uv(session, "build", "--quiet", "--all-packages", "--no-sources", "--out-dir", str(folder / "dist"))
    wheels = sorted((folder / "dist").glob("*.whl"))
    for wheel in wheels:
        check_wheel(session, wheel)
    if len(wheels) != len(PACKAGES):
        session.error(f"{len(PACKAGES)} packages gave {len(wheels)} wheels.")
    # Third-party packages at their locked versions; ours as files, so that no index can offer another.
    locked = str(folder / "locked.txt")
    export = ("--no-hashes", "--no-emit-workspace", "--no-default-groups", "--all-packages", "--all-extras")
    uv(session, "export", "--quiet", "--frozen", *export, "--output-file", locked)
    uv(session, "pip", "install", "--constraint", locked, *map(str, wheels))
    session.chdir(folder)
    imports = ", ".join(f"modelwright.{package}" for package in PACKAGES)
    session.run("python", "-I", "-c", f"import {imports}")
    session.run("modelwright", "--help")


def check_wheel(session: nox.Session, wheel: Path) -> None:
    """Refuse a wheel that is not typed, hides its siblings or depends on a file of this workspace."""
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    portions = {name.split("/")[1] for name in names if name.startswith("modelwright/")}
    for portion in portions:
        if portion.endswith(".py"):
            session.error(f"{wheel.name} holds modelwright/{portion}, which hides every other package.")
        if f"modelwright/{portion}/py.typed" not in names:
            session.error(f"{wheel.name} has no modelwright/{portion}/py.typed, so type checkers ignore its types.")
    if not portions:
        session.error(f"{wheel.name} holds nothing under modelwright/.")
    if " @ " in "".join(line for line in metadata.splitlines() if line.startswith("Requires-Dist")):
        session.error(f"{wheel.name} depends on a fixed place, not on a name and a range.")


@nox.session(reuse_venv=True)
@nox.parametrize("package", [nox.param(package, id=package) for package in PACKAGES])
def tests(session: nox.Session, package: str) -> None:
    """Test one package with nothing installed but it, what it declares, and pytest."""
    if not any((ROOT / "packages" / package / "tests").rglob("test_*.py")):
        session.error(f"packages/{package} has no tests; add packages/{package}/tests/test_*.py")
    declared = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text(encoding="utf-8"))
    groups = ["--group", "test"] if "test" in declared.get("dependency-groups", {}) else []
    here = {"UV_PROJECT_ENVIRONMENT": session.virtualenv.location}
    uv(session, "sync", "--package", declared["project"]["name"], "--no-default-groups", *groups, env=here)
    pytest = str(Path(session.create_tmp()).resolve() / "pytest.txt")
    uv(session, "export", "--quiet", "--frozen", "--only-group", "test", "--output-file", pytest)
    uv(session, "pip", "install", "--quiet", "--requirements", pytest)
    session.run("python", "-m", "pytest", f"packages/{package}/tests", *NO_PROOFS, *session.posargs, env=ONE_THREAD)


@nox.session
def lowest(session: nox.Session) -> None:
    """Test the light packages with the lowest versions of the dependencies that they declare."""
    folders = [word for package in LIGHT_PACKAGES for word in ("--editable", f"packages/{package}")]
    uv(session, "pip", "install", "--quiet", "--resolution", "lowest-direct", *folders)
    pytest = str(Path(session.create_tmp()).resolve() / "pytest.txt")
    uv(session, "export", "--quiet", "--frozen", "--only-group", "test", "--output-file", pytest)
    uv(session, "pip", "install", "--quiet", "--requirements", pytest)
    uv(session, "pip", "freeze", "--exclude-editable")
    session.run("python", "-m", "pytest", *(f"packages/{package}/tests" for package in LIGHT_PACKAGES), env=ONE_THREAD)


@nox.session(venv_backend="none")
def integration(session: nox.Session) -> None:
    """Test the packages together, everything installed; the policies; and the protocols against mypy and torch."""
    targets = [
        path
        for path in ("tests/integration", "tests/config", "tests/policies", "packages/protocols/tests")
        if (ROOT / path).is_dir()
    ]
    uv(session, "run", "python", "-m", "pytest", *targets, *NO_PROOFS, *session.posargs, env=ONE_THREAD)


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """Build the documentation site from docs/ into .nox/docs-site; a warning is an error."""
    options = ("-q", "-E", "-W", "--keep-going")
    uv(session, "run", "python", "-m", "sphinx", *options, "docs", ".nox/docs-site", env=ONE_THREAD)


@nox.session(venv_backend="none", default=False)
def parity(session: nox.Session) -> None:
    """Train on every layout of four ranks and compare each step with one rank."""
    uv(session, "run", "python", "-m", "pytest", "tests/parity", *session.posargs, env=ONE_THREAD)


@nox.session(venv_backend="none", default=False)
def proofs(session: nox.Session) -> None:
    """Run the proofs that take too long for every change: `tests/proofs`, and tests with the mark `proof`."""
    targets = ("tests/proofs", "tests/integration", "tests/config", "packages")
    uv(session, "run", "python", "-m", "pytest", *targets, "-m", "proof", *session.posargs, env=ONE_THREAD)


@nox.session(venv_backend="none", default=False)
def chaos(session: nox.Session) -> None:
    """Kill runs, cut the power, fill disks and damage files, many times, and print a table."""
    uv(session, "run", "python", "-m", "pytest", "tests/chaos", *session.posargs, env=ONE_THREAD)


@nox.session(venv_backend="none", default=False)
def fuzz(session: nox.Session) -> None:
    """Read 100,000 mangled configs; anything that is not a `ConfigError` is a failure."""
    env = {**ONE_THREAD, "MODELWRIGHT_FUZZ": "100000"}
    uv(session, "run", "python", "-m", "pytest", "tests/config/test_fuzz.py", *session.posargs, env=env)
