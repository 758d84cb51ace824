"""Drawn texts of different lengths, filled up, and the order of three letters in them; nothing is read or fetched."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import ClassVar

import torch

from evaluators.task import Batch
from evaluators.tasks.data import DataSettings
from evaluators.tasks.drawn_set import DrawnSet, DrawnSettings

LETTERS = 26
MARKS = 3
"""Letters whose order is asked for, tokens 1 to 3."""


@dataclass(frozen=True)
class LetterOrderSettings(DrawnSettings):
    """Options of :class:`LetterOrder`; a sample is a text.

    Attributes:
        length: Tokens of the longest texts, to which the others are filled up; the shortest have a quarter of it.
    """

    samples: int = 2304
    length: int = 24

    def __post_init__(self) -> None:
        """Check the ranges of the options."""
        super().__post_init__()
        if self.length < 4 * MARKS:
            raise ValueError(f"length: expected at least {4 * MARKS} tokens, got {self.length}")


class LetterOrder(DrawnSet):
    """Texts with a mask: in which of six orders the letters a, b and c come, once each, among others.

    Letters are tokens 1 to 26; 0 fills a text up. Networks are called with ``ids`` and ``mask``.
    """

    Settings: ClassVar[type[DataSettings]] = LetterOrderSettings
    settings: LetterOrderSettings
    classes = 6

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """Return ``{ids, mask}``, int64 and boolean of shape ``(N, length)``, and classes, int64 of shape ``(N,)``."""
        length = self.settings.length
        ends = torch.randint(length // 4, length + 1, (count, 1), generator=generator)
        mask = torch.arange(length) < ends
        ids = torch.randint(MARKS + 1, LETTERS + 1, (count, length), generator=generator)
        # Three places of the text, in random order.
        places = torch.rand(count, length, generator=generator).masked_fill(~mask, 2.0).argsort(dim=1)[:, :MARKS]
        ids.scatter_(1, places, torch.arange(1, MARKS + 1).expand(count, MARKS))
        orders = torch.tensor(list(permutations(range(MARKS))))
        targets = (places.argsort(dim=1)[:, None] == orders).all(dim=2).long().argmax(dim=1)
        return {"ids": ids * mask, "mask": mask}, targets
