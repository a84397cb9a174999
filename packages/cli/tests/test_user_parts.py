"""`--import`: custom parts, from the working folder or the path, imported only if they are named."""

from pathlib import Path

from packages.cli.tests.command import modelwright
from tests.messages import facts


def test_a_module_of_the_working_folder(folder: Path) -> None:
    done = modelwright("config", "show", "bytes.yaml", "--import", "my_parts", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (folder / "bytes.yaml").read_text()


def test_a_file_alone_imports_nothing(folder: Path) -> None:
    done = modelwright("config", "show", "bytes.yaml", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert facts(done.stderr).startswith("error bytes.yaml:3:9 `model.kind`")
    assert "`bytes`" in done.stderr


def test_a_module_that_does_not_exist(folder: Path) -> None:
    done = modelwright("config", "show", "bytes.yaml", "--import", "my_part", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert facts(done.stderr) == "error `--import` 'my_part' ModuleNotFoundError 'my_part'\n"


def test_a_module_that_fails(folder: Path) -> None:
    (folder / "broken.py").write_text("1 / 0\n")
    done = modelwright("train", "bytes.yaml", "--import", "broken", cwd=folder)
    assert done.returncode == 2
    assert facts(done.stderr) == "error `--import` 'broken' ZeroDivisionError\n"


def test_two_modules(folder: Path) -> None:
    (folder / "more.py").write_text(
        "from my_parts import BytesConfig\nfrom modelwright.config import register_preset\n\n\n"
        "@register_preset\ndef bytes_big() -> BytesConfig:\n    return BytesConfig(seq_length=512)\n"
    )
    words = ("--preset", "bytes_big", "--import", "my_parts", "--import", "more")
    done = modelwright("config", "show", *words, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "seq_length: 512" in done.stdout


def test_a_module_that_loads_the_engine_is_as_quiet(folder: Path) -> None:
    (folder / "check.py").write_text(
        "import my_stack\n"
        "from modelwright.layers import StackSpec, registered_stack\n"
        "assert isinstance(registered_stack('mine', None), StackSpec)\n"
    )
    words = ("--import", "my_parts", "--import", "check", "--set", "stack=mine")
    done = modelwright("config", "show", "bytes.yaml", *words, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "stack: mine" in done.stdout
