"""Extras of the installation: the packages of each, and the settings that need one."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import Any

from spaces.errors import SecateursError

EXTRAS: dict[str, tuple[str, ...]] = {
    "report": ("matplotlib", "jinja2"),
    "onnx": ("onnx", "onnx_ir", "onnxscript", "onnxruntime"),
    "dashboard": ("optuna_dashboard",),
    "digits": ("sklearn",),
    "text": ("tokenizers",),
    "metrics": ("torchmetrics", "pycocotools"),
    "ray": ("ray",),
    "postgresql": ("psycopg",),
    "mlflow": ("mlflow",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
}
"""Modules of each extra; pyproject.toml lists the packages under the same names."""

_WORKERS = "execution.training_workers"
_LAUNCHED = "TORCHELASTIC_RUN_ID"
"""Set by torchrun, which starts the training workers itself."""

_NEEDS = (
    ("task.data.name", "digits", "digits"),
    ("task.data.tokenizer", "*.json", "text"),
    ("task.score.name", "torchmetrics.*", "metrics"),
    ("execution.executor", "ray", "ray"),
    (_WORKERS, "[2-9]", "ray"),
    (_WORKERS, "[1-9][0-9]*", "ray"),
    ("storage", "postgresql*", "postgresql"),
    ("execution.trackers.*.name", "mlflow", "mlflow"),
    ("execution.trackers.*.name", "tensorboard", "tensorboard"),
    ("execution.trackers.*.name", "wandb", "wandb"),
    ("stages.*.formats.*", "onnx", "onnx"),
    ("stages.*.backend", "onnxruntime", "onnx"),
    ("stages.*.resource", "?*", "ray"),
)
"""Pattern of a setting's path, pattern of its value, and the extra that such a value needs."""


class MissingExtraError(SecateursError):
    """Extra that is needed and not installed; the message has the command that installs it."""


def is_installed(extra: str) -> bool:
    """Return True where all modules of an extra can be imported."""
    return all(find_spec(module) is not None for module in EXTRAS[extra])


def install_command(extras: Collection[str]) -> str:
    """Return the command that installs extras."""
    return f'pip install "secateurs[{",".join(sorted(extras))}]"'


def require_extra(extra: str, what: str) -> None:
    """Raise unless an extra is installed.

    Args:
        extra: Key of :data:`EXTRAS`.
        what: What needs it, as the message begins.

    Raises:
        MissingExtraError: It is not installed.
    """
    if not is_installed(extra):
        raise MissingExtraError(f"{what} needs the extra `{extra}`, which is not installed here: {install_command([extra])}")


def require_extras(config: Mapping[str, Any]) -> None:
    """Raise unless all extras that a configuration needs are installed.

    Args:
        config: The configuration as plain data, defaults filled in.

    Raises:
        MissingExtraError: Some are not; the message names each with the settings that need it, and one command for all.
    """
    missing: dict[str, list[str]] = {}
    for path, value in _settings(config, ""):
        for path_pattern, value_pattern, extra in _NEEDS:
            if path_pattern == _WORKERS and _LAUNCHED in os.environ:
                continue
            if fnmatchcase(path, path_pattern) and fnmatchcase(value, value_pattern) and not is_installed(extra):
                missing.setdefault(extra, []).append(f"{path}: {value.partition('://')[0]}")
    if missing:
        lines = [f"  {extra}, for {', '.join(settings)}" for extra, settings in missing.items()]
        raise MissingExtraError(
            "\n".join(["this configuration needs extras that are not installed here:", *lines, f"  {install_command(missing)}"])
        )


def _settings(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted path and the text of every value; null has none."""
    entries: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, Mapping):
        entries = iter(value.items())
    elif isinstance(value, list):
        entries = iter(enumerate(value))
    elif value is not None:
        yield path, str(value)
    for key, below in entries:
        yield from _settings(below, f"{path}.{key}" if path else str(key))
