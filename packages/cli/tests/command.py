"""The command in a subprocess, and custom parts for it: a family and a stack."""

import os
import subprocess
import sys
from pathlib import Path

# Custom modules: one with a kind and a preset, which need no engine, and one with a stack, which does.
PARTS = '''\
from typing import ClassVar

from modelwright.config import ModelConfig, config_class, register_config, register_preset


@register_config
@config_class
class BytesConfig(ModelConfig):
    kind: ClassVar[str] = "bytes"

    vocab_size: int = 256
    seq_length: int = 16


@register_preset
def bytes_small() -> BytesConfig:
    """A small one."""
    return BytesConfig(seq_length=8)
'''
STACK = """\
from modelwright.layers import StackSpec, register_stack

register_stack("mine", lambda config: StackSpec())
"""
BYTES = "modelwright: 1\nmodel:\n  kind: bytes\n  seq_length: 8\n"


def modelwright(*args: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command, and wait for its end."""
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return subprocess.run(
        [sys.executable, "-m", "modelwright.cli", *args],
        cwd=cwd,
        env=clean | {"COLUMNS": "200", "NO_COLOR": "1"} | env,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
