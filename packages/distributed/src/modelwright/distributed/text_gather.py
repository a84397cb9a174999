"""Gathering of text from ranks, as tensors of bytes.

torch's own collectives of objects unpickle what arrives, so whoever reaches the network between hosts could run code.
"""

import torch
from torch.distributed import ProcessGroup


def gather_texts(text: str, group: ProcessGroup | None = None) -> list[str]:
    """Return the text of every rank of a group, by rank.

    Args:
        text: The text of this rank.
        group: The ranks. None: all ranks of the job.
    """
    device = torch.cuda.current_device()
    content = torch.tensor(list(text.encode()), dtype=torch.uint8, device=device)
    ranks = torch.distributed.get_world_size(group)
    lengths = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(ranks)]
    torch.distributed.all_gather(lengths, torch.tensor([content.numel()], device=device), group=group)
    longest = max(int(length) for length in lengths)
    padded = torch.zeros(longest, dtype=torch.uint8, device=device)
    padded[: content.numel()] = content
    found = [torch.empty_like(padded) for _ in range(ranks)]
    if longest:
        torch.distributed.all_gather(found, padded, group=group)
    numbers: list[list[int]] = [one.tolist() for one in found]
    arrived = [bytes(one) for one in numbers]
    return [one[: int(length)].decode(errors="replace") for one, length in zip(arrived, lengths, strict=True)]
