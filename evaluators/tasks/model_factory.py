"""The user's network: built by a factory with an import path, with weights of a plain checkpoint."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from spaces.errors import SecateursError
from spaces.registry import resolve_named


class ModelFactoryError(SecateursError):
    """The factory can't be called, or returns no ``nn.Module``."""


class WeightsError(SecateursError):
    """A checkpoint cannot be read, or does not fit the network."""


@dataclass(frozen=True)
class ModelSettings:
    """Factory, arguments and checkpoint of the network.

    Attributes:
        factory: Import path of a callable that returns an ``nn.Module`` (``spaces.networks.resnet20``).
        arguments: Its keyword arguments.
        checkpoint: File of plain weights (safetensors, or ``torch.save`` of a state dict), or None.
        init_seed: Seed of the initial weights.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    init_seed: int = 0

    def __post_init__(self) -> None:
        """Check the range of the seed."""
        if self.init_seed < 0:
            raise ValueError(f"init_seed: expected at least 0, got {self.init_seed}")


def build_model(settings: ModelSettings) -> nn.Module:
    """Return a new network from the factory; its initial weights depend on ``init_seed`` only.

    Raises:
        UnknownNameError: The import path leads nowhere.
        ModelFactoryError: The factory fails, or returns something else.
    """
    factory = resolve_named(settings.factory)
    if not callable(factory):
        raise ModelFactoryError(f"model.factory {settings.factory}: expected a callable, got a {type(factory).__name__}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.init_seed)
        try:
            model = factory(**settings.arguments)
        except (Exception, SystemExit) as error:
            raise ModelFactoryError(
                f"model.factory {settings.factory} called with {dict(settings.arguments)} failed: "
                f"{type(error).__name__}: {error}; check model.arguments"
            ) from error
    if not isinstance(model, nn.Module):
        raise ModelFactoryError(
            f"model.factory {settings.factory}: expected it to return a torch.nn.Module, got a {type(model).__name__}"
        )
    return model


def read_weights(path: str) -> dict[str, Tensor]:
    """Return the state dict in a file, without the wrappers and prefixes of training scripts.

    ``{"state_dict": ...}`` and ``{"model": ...}`` are opened, ``module.`` (data parallel) and ``_orig_mod.`` (compiled)
    prefixes taken off. Nothing but tensors is ever unpickled.

    Raises:
        WeightsError: There is no such file, or it holds no plain weights.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise WeightsError(f"model.checkpoint: there is no file {file.absolute()}")
    expected = "expected plain weights (safetensors, or torch.save of model.state_dict())"
    try:
        if file.suffix == ".safetensors":
            return _without_prefix(safetensors.torch.load_file(file))
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        objects = "it holds other Python objects, such as a whole module, which are never unpickled; save model.state_dict()"
        reason = objects if "GLOBAL" in str(error) else "reading it failed: it is no file that torch.save wrote"
        raise WeightsError(f"model.checkpoint {file}: {expected}; {reason}") from error
    except (safetensors.SafetensorError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"model.checkpoint {file}: {expected}; reading it failed: {reason}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(v, Tensor) for v in loaded.values()):
        keys = f" with the keys {', '.join(map(str, list(loaded)[:5]))}" if isinstance(loaded, Mapping) else ""
        raise WeightsError(
            f"model.checkpoint {file}: expected a state dict of tensors, got a {type(loaded).__name__}{keys}; save "
            "model.state_dict()"
        )
    return _without_prefix(dict(loaded))


def _without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in ("module.", "_orig_mod."):
        if weights and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def load_weights(model: nn.Module, path: str) -> None:
    """Load the file's weights into ``model``, in place; names and shapes must be equal.

    Raises:
        WeightsError: Names or shapes differ; the message names the first of them.
    """
    weights, expected = read_weights(path), model.state_dict()
    # torch saved no counters before 2017, and some tools drop them still.
    absent = [name for name in expected if name not in weights and not name.endswith("num_batches_tracked")]
    unknown = [name for name in weights if name not in expected]
    differing = [name for name in weights if name in expected and weights[name].shape != expected[name].shape]
    problems = [_named("missing", absent), _named("not in the network", unknown)]
    problems += [
        f"{name}: the network has shape {tuple(expected[name].shape)}, the file {tuple(weights[name].shape)}"
        for name in differing[:3]
    ]
    if any(problems):
        raise WeightsError(
            f"model.checkpoint {path} does not fit {type(model).__name__}: {'; '.join(filter(None, problems))}; "
            "check model.factory and model.arguments"
        )
    model.load_state_dict(weights, strict=False)


def _named(problem: str, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{problem}: {', '.join(names[:3])}{more}" if names else ""


def model_fingerprint(settings: ModelSettings) -> str:
    """Return a hash of factory, arguments, seed and the checkpoint's content."""
    digest = hashlib.sha256()
    described = [settings.factory, dict(settings.arguments), settings.init_seed]
    digest.update(json.dumps(described, sort_keys=True, default=repr).encode())
    if settings.checkpoint is not None:
        file = Path(settings.checkpoint).expanduser()
        if not file.is_file():
            raise WeightsError(f"model.checkpoint: there is no file {file.absolute()}")
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]
