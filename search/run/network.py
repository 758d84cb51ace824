"""The network that flows from stage to stage."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.task import Task
from evaluators.training.moments import TrainingMoments
from spaces.channels.surgery import Cut
from spaces.cloning.clone import clone
from spaces.cloning.plain_network import without_wrappers
from spaces.errors import NetworkWarning
from spaces.quantization.record import PACK, is_quantized, pack_weights
from spaces.transformation import apply, cuts_among


@dataclass(frozen=True)
class Network:
    """A network and how its structure came from the original factory's.

    Attributes:
        model: The network.
        transformations: JSON data of every change of structure, in order; see :func:`spaces.transformation.apply`.
        moments: Second moments of the training just done; None where none was done since the structure last changed.
    """

    model: nn.Module
    transformations: tuple[dict[str, Any], ...] = ()
    moments: TrainingMoments | None = None

    def copy(self) -> Network:
        """Return the same network with weights of its own."""
        return Network(clone(self.model), self.transformations, self.moments)

    def stored(self) -> Network:
        """Return the network in its stored form: quantized weights packed as integers; a float network is returned as it is."""
        if not is_quantized(self.model):
            return self
        return Network(pack_weights(self.model), (*self.transformations, PACK))

    def cuts_since(self, reference: Network) -> tuple[Cut, ...]:
        """Return the cuts between ``reference``, which this network was made from, and this network, in order."""
        return tuple(cuts_among(self.transformations[len(reference.transformations) :]))

    def digest(self) -> str:
        """Return a hash of structure, weights, moments and memory layout: networks with equal digests give equal results."""
        found = hashlib.sha256(f"{type(self.model)} {self.model} {json.dumps(self.transformations)}".encode())
        for name, tensor in self.model.state_dict().items():
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.stride()}".encode())
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        if self.moments is not None:
            found.update(f"{self.moments.optimizer} {self.moments.batch_size} {self.moments.steps}".encode())
            for name, tensor in self.moments.values.items():
                found.update(name.encode() + tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that is saved, contiguous, on the CPU, by name."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}


def rebuild(model: nn.Module, transformations: Sequence[dict[str, Any]], tensors: dict[str, Tensor]) -> Network:
    """Return the network with the structure of the original ``model``, changed, and the weights ``tensors``."""
    with warnings.catch_warnings():
        # Told at the start of the run.
        warnings.simplefilter("ignore", NetworkWarning)
        model = transformed(without_wrappers(model), transformations)
    model.load_state_dict(tensors)
    return Network(model.eval(), tuple(transformations))


def transformed(model: nn.Module, transformations: Sequence[dict[str, Any]]) -> nn.Module:
    """Return ``model`` with the recorded ``transformations`` applied in order; its weights are then loaded over."""
    for transformation in transformations:
        model = apply(model, transformation)
    return model


def restore(task: Task, transformations: Sequence[dict[str, Any]], tensors: dict[str, Tensor]) -> Network:
    """Return a network of ``task`` with changed structure and the weights ``tensors``."""
    return rebuild(task.build(), transformations, tensors)
