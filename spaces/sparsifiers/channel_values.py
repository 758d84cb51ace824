"""Values of channels in and out of use: what is out is zero in the network, and its last values are remembered."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from spaces.channels.groups import ChannelGroups
from spaces.errors import SecateursError
from spaces.importance.criterion import places_on, writers


class ChannelValues:
    """The tensors of a network along whose dimensions channels lie.

    A weight is in use with all its channels; one that no channel writes or reads is always in use.

    Args:
        model: The network.
        groups: Its channel groups.

    Attributes:
        used: True for every coupled channel in use, boolean of shape ``(groups.width,)``.
    """

    def __init__(self, model: nn.Module, groups: ChannelGroups) -> None:
        """Begin with all channels in use."""
        self._groups, self._model = groups, model
        self._device = next(model.parameters()).device
        self._optimizer: torch.optim.Optimizer | None = None
        state = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
        first: dict[int, str] = {}
        self._tensors: dict[str, Tensor] = {}
        self._ties: dict[str, list[tuple[int, np.ndarray]]] = {}
        for name, dims in groups.ties.items():
            if name in state and state[name].is_floating_point():
                # A tensor that several modules hold is one tensor, with the channels of all its names.
                own = first.setdefault(id(state[name]), name)
                self._tensors[own] = state[own]
                self._ties.setdefault(own, []).extend(dims.items())
        self._last = {name: tensor.detach().clone() for name, tensor in self._tensors.items()}
        self.used = torch.ones(groups.width, dtype=torch.bool, device=self._device)
        self._masks: dict[str, Tensor] = {}

    def bind(self, optimizer: torch.optim.Optimizer) -> None:
        """Receive the optimizer whose moments leave with a channel."""
        self._optimizer = optimizer

    @torch.no_grad()
    def use(self, used: Tensor) -> None:
        """Take channels out of use, remembering their values, and give those that come back their last ones.

        Args:
            used: True for every channel that is in use from now on, boolean of shape ``(groups.width,)``.
        """
        before, self.used = self._masks, used.to(self._device)
        self._masks = self._masks_of(self.used)
        for name, tensor in self._tensors.items():
            last = self._last[name]
            last.copy_(torch.where(before[name], tensor, last) if before else tensor)
            tensor.copy_(torch.where(self._masks[name], last, 0.0))
            came = self._masks[name] if not before else self._masks[name] & before[name]
            for moment in self._moments(tensor):
                moment.mul_(came)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of what is out of use to zero."""
        for name, mask in self._masks.items():
            if (gradient := self._tensors[name].grad) is not None:
                gradient.mul_(mask)

    @torch.no_grad()
    def mask_weights(self) -> None:
        """Set what is out of use to zero, whatever the optimizer has added."""
        for name, mask in self._masks.items():
            if isinstance(self._tensors[name], nn.Parameter):
                self._tensors[name].mul_(mask)

    @torch.no_grad()
    def grams(self, used: Tensor | None) -> dict[str, Tensor]:
        """Return products of the filters that write the channels of a group, float64 of shape ``(size, size)``, on the CPU.

        Those of a coupled channel are one row: of every layer that writes it, over the norm of all of that layer's.

        Args:
            used: Channels whose filters count, the others are zero; None for all, with their last values where they are out.
        """
        found = {group.name: torch.zeros(group.size, group.size, dtype=torch.float64) for group in self._groups.groups}
        for module, tensor, dim, places in writers(self._groups):
            name = f"{module}.{tensor}".lstrip(".")
            if name not in self._tensors or self._tensors[name].dim() < 2:
                continue
            values = self._tensors[name]
            if used is None and self._masks:
                values = torch.where(self._masks[name], values, self._last[name])
            rows, along = values.detach().movedim(dim, 0).flatten(1).to("cpu", torch.float64), torch.from_numpy(places)
            for group in self._groups.groups:
                own = ((along >= group.offset) & (along < group.offset + group.size)).nonzero().flatten()
                if not len(own) or len(own) % group.size:
                    continue
                # A channel with several rows, such as an attention head, has them side by side.
                order = own[along[own].argsort(stable=True)]
                filters = rows[order].reshape(group.size, -1)
                square = filters.square().sum()
                if square > 0:
                    found[group.name] += filters @ filters.T / square
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """Return the channels in use, and the last values of all."""
        return {"used": self.used.clone(), **{f"last.{name}": tensor.clone() for name, tensor in self._last.items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state_dict`; weights are those of the network.

        Raises:
            SecateursError: The state is of a network with other channels.
        """
        expected, found = tuple(self.used.shape), tuple(state["used"].shape)
        if found != expected:
            raise SecateursError(f"the state chooses channels of shape {found}, this network's are of shape {expected}")
        self.used = state["used"].to(self.used)
        self._masks = {} if bool(self.used.all()) else self._masks_of(self.used)
        for name, tensor in self._last.items():
            tensor.copy_(state[f"last.{name}"])

    def _masks_of(self, used: Tensor) -> dict[str, Tensor]:
        extended, masks = torch.cat([used, used.new_ones(1)]), {}
        for name, tensor in self._tensors.items():
            mask = torch.ones((), dtype=torch.bool, device=self._device)
            for dim, places in self._ties[name]:
                shape = [-1 if own == dim else 1 for own in range(tensor.dim())]
                mask = mask & extended[places_on(self._device, places)].reshape(shape)
            masks[name] = mask
        return masks

    def _moments(self, tensor: Tensor) -> list[Tensor]:
        if self._optimizer is None:
            return []
        state = self._optimizer.state.get(tensor, {})
        return [one for one in state.values() if isinstance(one, Tensor) and one.shape == tensor.shape]
