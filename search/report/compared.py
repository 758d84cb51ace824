"""Answers and costs of the network before and of the one after, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

MOST_CONFUSIONS = 12
"""Pairs of classes that are told, those first whose number changed most."""


def compared_answers(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return how the answers to the samples of the test split changed, for report.json; None where they are not known.

    Args:
        before: What :meth:`.Answers.to_json` returned of the reference.
        after: The same of the result.

    Returns:
        ``became_wrong``, ``became_right`` and ``other`` (both wrong, in two ways): numbers of samples; ``classes``: per class
        ``label``, ``samples``, ``before`` and ``after``, the samples that were right; ``confusions``: ``label``, ``guess``,
        ``before`` and ``after``, the samples of a class that were taken for another one, where the two numbers differ;
        ``samples``: some that changed; ``names``: those of the classes by number, null where they have none.
    """
    if before is None or after is None or before["labels"] != after["labels"]:
        return None
    triples = list(zip(after["labels"], before["guesses"], after["guesses"], strict=True))
    sizes = Counter(label for label, _, _ in triples)
    was = Counter(label for label, first, _ in triples if first == label)
    now = Counter(label for label, _, last in triples if last == label)
    confused = [Counter((row[0], row[place]) for row in triples if row[place] != row[0]) for place in (1, 2)]
    pairs = sorted(
        (pair for pair in {*confused[0], *confused[1]} if confused[0][pair] != confused[1][pair]),
        key=lambda pair: (-abs(confused[1][pair] - confused[0][pair]), -confused[1][pair], pair),
    )
    return {
        "became_wrong": sum(first == label != last for label, first, last in triples),
        "became_right": sum(last == label != first for label, first, last in triples),
        "other": sum(label != first != last != label for label, first, last in triples),
        "classes": [
            {"label": label, "samples": size, "before": was[label], "after": now[label]}
            for label, size in sorted(sizes.items())
        ],
        "confusions": [
            {"label": pair[0], "guess": pair[1], "before": confused[0][pair], "after": confused[1][pair]}
            for pair in pairs[:MOST_CONFUSIONS]
        ],
        "samples": list(after["samples"]),
        "names": after.get("names"),
    }


def compared_modules(before: Mapping[str, int] | None, after: Mapping[str, int] | None) -> Sequence[Mapping[str, Any]]:
    """Return the MACs of every module before and after, for report.json; none where they are not known."""
    if not before or not after:
        return []
    return [
        {"name": name, "before": before.get(name, 0), "after": after.get(name, 0)} for name in dict.fromkeys([*before, *after])
    ]
