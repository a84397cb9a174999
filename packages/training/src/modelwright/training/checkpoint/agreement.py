"""Agreement of the ranks of a model: all go on, or all raise the same error.

What ranks tell each other are numbers and text in tensors. Nothing that came over the network is unpickled.
"""

import contextlib
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

import torch

from modelwright.distributed import gather_texts
from modelwright.protocols import ModelwrightError
from modelwright.training.checkpoint.files.manifest import CheckpointError, DamagedCheckpointError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_LONGEST_MESSAGE = 4096


def gathered(numbers: Sequence[int], group: "ProcessGroup") -> list[list[int]]:
    """Return the numbers of every rank of a group.

    Args:
        numbers: The numbers of this rank, as many as on the others.
        group: The ranks.
    """
    mine = torch.tensor(list(numbers), dtype=torch.int64, device=torch.cuda.current_device())
    found = [torch.empty_like(mine) for _ in range(group.size())]
    torch.distributed.all_gather(found, mine, group=group)
    return [one.tolist() for one in found]


@contextlib.contextmanager
def agreed(group: "ProcessGroup") -> Generator[None]:
    """Run a block on every rank. If it raises a `ModelwrightError` or an `OSError` on one, raise on all of them.

    Args:
        group: The ranks.

    Raises:
        CheckpointError: The block failed on a rank. The message is that of the first such rank.
        DamagedCheckpointError: The same, if that rank found damage.
    """
    error: ModelwrightError | OSError | None = None
    try:
        yield
    except (ModelwrightError, OSError) as caught:
        error = caught
    kind = 0 if error is None else 2 if isinstance(error, DamagedCheckpointError) else 1
    if not any(state for (state,) in gathered([kind], group)):
        return
    answers = gather_texts("" if error is None else f"{kind}{_described(error)}"[:_LONGEST_MESSAGE], group)
    rank, answer = next((rank, answer) for rank, answer in enumerate(answers) if answer)
    where = "" if len(answers) == 1 else f" (rank {torch.distributed.get_process_group_ranks(group)[rank]})"
    raise (DamagedCheckpointError if answer[0] == "2" else CheckpointError)(f"{answer[1:]}{where}") from error


def _described(error: ModelwrightError | OSError) -> str:
    if isinstance(error, OSError):
        name = error.filename if isinstance(error.filename, str) else "a file of the run"
        return f"`{name}` cannot be written: {error.strerror or error}."
    return str(error)
