"""The import of torch under guards: Ctrl-C waits, and the working folder is another one."""

import subprocess
import sys
from pathlib import Path

TORCH = """
import os, signal
os.kill(os.getpid(), signal.SIGINT)
print("executed in", os.getcwd())
"""
PROGRAM = """
import os, signal, sys
from modelwright.engine import guard_torch_import
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a script started the tests with `&`
guard_torch_import()
sys.path.insert(0, sys.argv[1])
try:
    import torch
except KeyboardInterrupt:
    print("interrupted in", os.getcwd())
"""


def test_ctrl_c_waits_for_the_end_of_the_import(tmp_path: Path) -> None:
    """In the middle of it, torch's C++ code ends the process with SIGABRT, in one of about 200 tries."""
    (tmp_path / "torch.py").write_text(TORCH)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines() == ["executed in /", f"interrupted in {tmp_path}"]
