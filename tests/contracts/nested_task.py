"""A task whose batches are mappings: texts of different lengths, filled up, with a mask, for a small encoder."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from evaluators.tasks.loader_task import LoaderTask
from spaces.networks import encoder_small

LENGTH, WORDS, CLASSES = 6, 12, 3


class Texts(Dataset[Any]):
    """Rows of tokens, of 2 to ``LENGTH`` of them; the class is the first token's remainder."""

    def __init__(self, samples: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(1, WORDS, (samples, LENGTH), generator=generator)
        lengths = torch.randint(2, LENGTH + 1, (samples, 1), generator=generator)
        self.mask = torch.arange(LENGTH) < lengths
        self.ids = self.ids * self.mask

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], int]:
        return {"ids": self.ids[index], "mask": self.mask[index]}, int(self.ids[index, 0]) % CLASSES


def encoder() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return encoder_small(WORDS, CLASSES, blocks=1, width=8, heads=2, hidden=48, length=LENGTH).eval()


@cache
def nested_task() -> LoaderTask:
    train, search = (DataLoader(Texts(count, seed), batch_size=8) for seed, count in enumerate((48, 24)))
    return LoaderTask(encoder(), train, search)
