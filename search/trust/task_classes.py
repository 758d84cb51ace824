"""The task classes shipped with this project that a run folder may name, and their paths in earlier versions."""

from __future__ import annotations

MADE_FROM_OBJECTS = (
    "evaluators.tasks.loader_task:LoaderTask",
    "evaluators.tasks.imported_data:ImportedDataTask",
    "evaluators.tasks.classification:Classification",
    "evaluators.tasks.next_token:NextToken",
    "evaluators.tasks.segmentation:Segmentation",
    "evaluators.tasks.regression:Regression",
    "evaluators.tasks.labels:Labels",
)
"""Shipped task classes that programs make from a network or data sets, so that plain data can't make them again."""

MOVED = {
    "evaluators.loader_task:LoaderTask": "evaluators.tasks.loader_task:LoaderTask",
    "evaluators.classification:Classification": "evaluators.tasks.classification:Classification",
}
"""Paths of shipped task classes in earlier versions, and the present ones."""


def present_path(path: str) -> str:
    """Return the path under which a shipped task class is known today; others as they are, with a colon or without."""
    written = {name.replace(":", "."): name for name in MADE_FROM_OBJECTS}
    written |= {name.replace(":", "."): present for name, present in MOVED.items()}
    return written.get(path.replace(":", "."), path)


def why_not(path: str) -> str:
    """Return why a task class can't be made from a run folder without trust, in words."""
    if path in MADE_FROM_OBJECTS:
        return "it was made from a network and data that a program had, which no file holds"
    return "it is a task class of a person's own"
