"""`python -m modelwright.cli`, the form that a launcher such as torchrun starts."""

import sys
from pathlib import Path

# `python -m` puts the working folder first on the path of modules. Nothing is imported from there unless `--import`
# says so.
if not sys.flags.safe_path and sys.path and Path(sys.path[0] or ".").resolve() == Path.cwd():
    del sys.path[0]

from modelwright.cli import main

if __name__ == "__main__":
    main()
