"""The commands in hostile surroundings: other runs, other files, other jobs, modules in the way, full disks."""

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import psutil
import pytest

from modelwright.training import checkpoint_path, checkpoints
from tests.integration.command import COMMAND, modelwright, tiny_file
from tests.messages import facts


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four steps, with two checkpoints."""
    folder = tmp_path_factory.mktemp("safety")
    words = ["--steps", "4", "--set", "train.checkpoint_interval=2", "--out", folder / "run"]
    done = modelwright("train", tiny_file(folder), *words)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "run"


def refused(*words: object, code: int = 2, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """The facts of the one line on stderr of a command that refuses."""
    done = modelwright(*words, env=os.environ | (env or {}), **({} if cwd is None else {"cwd": cwd}))
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return facts(done.stderr)


def test_out_overwrites_nothing_that_the_run_did_not_write(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine")
    assert refused("train", tiny_file(tmp_path), "--out", tmp_path) == f"error `--out` `{tmp_path}` `config.yaml`\n"
    assert (tmp_path / "config.yaml").read_text() == "mine"
    assert refused("train", tiny_file(tmp_path), "--out", trained).startswith(f"error `--out` `{trained}`")
    (tmp_path / "split.svg").write_text("mine")
    drawing = tmp_path / "split.svg"
    assert refused("build", tiny_file(tmp_path), "--svg", drawing) == f"error `--svg` `{drawing}`\n"
    assert drawing.read_text() == "mine"


def test_a_name_leads_nowhere_else(tmp_path: Path) -> None:
    told = refused("train", tiny_file(tmp_path), "--set", "name=../elsewhere", cwd=tmp_path)
    assert '"../elsewhere"' in told
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path: Path) -> None:
    """`modelwright train FILE | head -1`."""
    words = ["train", str(tiny_file(tmp_path)), "--steps", "20", "--out", str(tmp_path / "run")]
    process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("step 1/20")
    process.stdout.close()
    stderr = process.stderr.read() if process.stderr is not None else ""
    assert (process.wait(timeout=600), facts(stderr)) == (0, facts(f"warning: see {tmp_path}/run/metrics.jsonl\n"))
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 20
    assert 20 in [step for step, _ in checkpoints(tmp_path / "run")]


def test_a_damaged_checkpoint_and_the_way_back(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    subprocess.run(["cp", "-r", trained, run], check=True)
    file = checkpoint_path(run, 4) / "weights-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[-10] ^= 1
    file.write_bytes(content)
    told = refused("train", "--resume", run, "--steps", "6")
    assert told.startswith(f"error `{file}`")
    assert told.endswith(f"`step-00000002` `--resume {run} --fall-back`\n")
    done = modelwright("train", "--resume", run, "--steps", "6", "--fall-back")
    assert done.returncode == 0
    assert facts(done.stderr).startswith(f"`damaged-step-00000004` `{file}`")
    assert [step for step, _ in checkpoints(run)] == [2, 4, 6]
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]


def test_nothing_in_the_working_folder_is_imported(tmp_path: Path) -> None:
    """Neither by the command nor by its ranks: each of these names is imported by one of them, or by Python itself."""
    file = tiny_file(tmp_path)
    names = "json numpy torch socket multiprocessing pickle matplotlib rich typer resource psutil ruamel sitecustomize"
    for name in names.split():
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w').write('{name}')")
    os.mkfifo(tmp_path / "libcuda.so.1")  # a library of torch looks for it here: whoever opens a pipe waits forever
    script = str(Path(COMMAND[0]).with_name("modelwright"))
    words = ["train", str(file), "--steps", "1", "--out", "run", "--set", "parallelism.data=2"]
    done = subprocess.run([script, *words], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "mark").exists()


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text('modelwright: 1\nmodel: {kind: "\\x1b]0;owned\\x07\\x1b[2J"}\n')
    done = modelwright("config", "validate", file)
    assert done.returncode == 2
    assert not [letter for letter in done.stdout + done.stderr if not letter.isprintable() and letter != "\n"]


@pytest.mark.parametrize("place", ["config", "data", "manifest"])
def test_a_pipe_in_the_place_of_a_file(place: str, trained: Path, tmp_path: Path) -> None:
    file = tiny_file(tmp_path)
    pipe = tmp_path / "pipe.yaml"
    if place == "manifest":
        run = tmp_path / "run"
        subprocess.run(["cp", "-r", trained, run], check=True)
        pipe = checkpoint_path(run, 4) / "modelwright.json"
        pipe.unlink()
        words: tuple[object, ...] = ("generate", run)
    else:
        words = ("train", pipe) if place == "config" else ("train", file, "--set", f"train.data={pipe}")
    os.mkfifo(pipe)
    refused(*words)


def test_the_environment_of_half_a_job(tmp_path: Path) -> None:
    done = modelwright("train", tiny_file(tmp_path), env=os.environ | {"RANK": "0", "WORLD_SIZE": "4"}, cwd=tmp_path)
    assert done.returncode == 2
    assert facts(done.stderr).endswith("MASTER_PORT MASTER_ADDR `RANK` `WORLD_SIZE`\n")


def test_generate_ignores_the_job_around_it(trained: Path) -> None:
    surroundings = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    done = modelwright("generate", trained, "--tokens", "1", env=os.environ | surroundings)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_module_that_exits(tmp_path: Path) -> None:
    (tmp_path / "leaving.py").write_text("import sys; sys.exit(0)")
    told = refused("train", tiny_file(tmp_path), "--import", "leaving", env={"PYTHONPATH": str(tmp_path)})
    assert told.startswith("error `--import` 'leaving'")


def test_what_cannot_fit_is_refused_before_it_is_built(tmp_path: Path) -> None:
    deep = ["model.num_layers=1000000", "train.global_batch=8"]
    told = refused("train", tiny_file(tmp_path), *(word for change in deep for word in ("--set", change)))
    assert "`--no-memory-check`" in told
    wide = ["parallelism.data=100000", "train.micro_batch=1", "train.global_batch=100000"]
    told = refused("train", tiny_file(tmp_path), *(word for change in wide for word in ("--set", change)))
    assert "`--no-memory-check`" in told


@pytest.mark.parametrize(
    "delays",
    [(0.4, 1.5, 2.6), pytest.param(tuple(0.3 + 0.4 * i for i in range(12)), marks=pytest.mark.proof)],
    ids=["three", "twelve"],
)
def test_control_c_at_any_time_of_the_start(delays: tuple[float, ...], tmp_path: Path) -> None:
    """One line, whenever it is pressed, and no process is left."""
    for delay in delays:
        words = [*COMMAND, "train", str(tiny_file(tmp_path)), "--steps", "100000", "--out", str(tmp_path / f"{delay}")]
        process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        timer = threading.Timer(delay, os.killpg, (process.pid, signal.SIGINT))
        timer.start()
        _, stderr = process.communicate(timeout=300)
        assert process.returncode in (130, -signal.SIGINT)
        assert stderr in ("error: interrupted\n", "")  # before Python runs our code it says nothing
        assert [child for child in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(child.info)] == []
