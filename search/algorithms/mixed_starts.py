"""Starting points of a search over channels and bits: channels by importance first, then bits for these channels."""

from __future__ import annotations

import numpy as np

from search.algorithms.encoding.bit_encoding import BitEncoding
from search.algorithms.encoding.channel_encoding import (
    ChannelEncoding,
    UnreachableTargetError,
    best_first_ranks,
)
from search.algorithms.encoding.level_allocation import uniform_allocation
from search.algorithms.encoding.repair import nearest_count
from search.algorithms.encoding.uniform import branches_alone
from search.algorithms.integer_program import IntegerProgramSettings, MixedIntegerProgram
from search.study.problem import Problem
from spaces.candidate import Candidate, Value, mask_text
from spaces.levels.levels import NoLevelsError

SHARES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25)
"""Shares of kept channels for which bits are chosen."""
NODES = 200
"""Largest number of branch-and-bound nodes of an integer program for one choice of channels."""


def mixed_starts(problem: Problem) -> list[Candidate]:
    """Return candidates of a space of channels and bits that keep the targets; [] for any other space, or without targets.

    At each of :data:`SHARES` the most important channels are kept, within each layer or over the whole network. Their bits are
    the integer program's optimum, if there is a table of Omega; for shares within each layer there is also, later in the list,
    a candidate with the same bits everywhere. Shares at which no bits keep the targets, or the most bits do, are left out.
    """
    if not any(domain.channels for domain in problem.space.domains.values()) or not _bits(problem):
        return []
    try:
        encoding = ChannelEncoding(problem)
    except NoLevelsError:
        return []
    if not encoding.constrained:
        return []
    channels = [(globally, kept_channels(encoding, share, globally)) for share in SHARES for globally in (False, True)]
    most = {name: problem.space.domains[name].numbers[-1] for name in _bits(problem)}
    # If the most bits keep the targets, fewer channels only lose more.
    bound = [one for one in channels if encoding.load_of(Candidate({**one[1], **most})) > 1.0] or channels[:1]
    found = [optimal_bits(problem, masks) for _, masks in bound]
    found += [_uniform(problem, masks) for globally, masks in bound if not globally]
    return list(dict.fromkeys(one for one in found if one is not None))


def branch_starts(problem: Problem) -> list[Candidate]:
    """Return candidates without the least influential branches or blocks that keep the targets; [] for a space without any.

    Of the first all that must go have gone, and the rest is whole; of the second half as many, and the rest is cut uniformly.
    There are none either where depth is all that is decided, or where there are no targets.
    """
    try:
        found = [branches_alone(problem, share) for share in (1.0, 0.5)] if problem.space.removable else []
    except (NoLevelsError, UnreachableTargetError):
        return []
    return list(dict.fromkeys(one for one in found if one is not None))


def _bits(problem: Problem) -> list[str]:
    """Return the decisions on numbers, such as bits, but for those on parts that leave whole."""
    parts = {part.name for part in problem.space.removable}
    return [name for name, domain in problem.space.domains.items() if domain.numbers and name not in parts]


def optimal_bits(problem: Problem, masks: dict[str, Value]) -> Candidate | None:
    """Return ``masks`` with the bits of least Omega under the targets; None without a table of Omega or a feasible choice."""
    if "omega" not in problem.tables:
        return None
    try:
        program = MixedIntegerProgram(BitEncoding(problem, masks), IntegerProgramSettings(gap=1e-3, nodes=NODES))
        return program.solve(()).candidate
    except UnreachableTargetError:
        return None


def _uniform(problem: Problem, masks: dict[str, Value]) -> Candidate | None:
    try:
        return uniform_allocation(problem, masks)
    except UnreachableTargetError:
        return None


def kept_channels(encoding: ChannelEncoding, share: float, globally: bool) -> dict[str, Value]:
    """Return the keep-masks of the most important channels.

    Args:
        encoding: Masks and their importance; decisions with levels are left out.
        share: Share of kept channels, rounded to the nearest legal count.
        globally: Whether to rank all channels together by importance / mean importance of the layer; else within each layer.

    Returns:
        The keep-masks, and 1 for every part that could leave whole.
    """
    layers = [layer for layer in range(len(encoding.names)) if not encoding.is_level(layer)]
    relative = [encoding.importance[layer] / max(float(np.abs(encoding.importance[layer]).mean()), 1e-30) for layer in layers]
    overall = np.split(best_first_ranks(np.concatenate(relative)), np.cumsum([len(values) for values in relative])[:-1])
    masks: dict[str, Value] = {encoding.names[layer]: 1 for layer in encoding.wholes}
    for layer, ranks in zip(layers, overall, strict=True):
        wanted = int((ranks > 1.0 - share).sum()) if globally else round(share * len(ranks))
        masks[encoding.names[layer]] = mask_text(encoding.strongest(layer, nearest_count(encoding.counts[layer], wanted)))
    return masks
