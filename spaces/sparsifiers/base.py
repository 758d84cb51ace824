"""The sparsifier: hooks by which the training loop drives a network towards sparsity."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spaces.channels.groups import ChannelGroups
from spaces.execution.batch import Nested
from spaces.execution.forward import Forward
from spaces.importance.criterion import Gather


class Sparsifier(ABC):
    """Drives a network towards sparsity while the training loop trains it.

    The loop calls, once: :meth:`trace`, :meth:`start`, :meth:`bind` and, in one of several processes, :meth:`join`; then in
    every step, in this order: :meth:`before_forward`, the forward pass, :meth:`penalty` (added to the loss), the backward
    pass, :meth:`after_backward`, the optimizer's step, :meth:`after_step`; and at the end :meth:`finish`. Every hook does
    nothing unless overridden. Plain tensors in, nothing from the evaluators.

    Where several processes train a network together, each has a sparsifier of its own, and all must decide alike. Weights,
    gradients in :meth:`after_backward`, the batch in :meth:`before_forward` and draws from torch's global generator in a hook
    are the same in all of them; activations are those of a part of the batch, and are put together by :meth:`join`.

    Made as ``Sparsifier(settings)``, with the frozen dataclass ``Settings`` of its class.

    Attributes:
        settings: Options of the sparsifier; None for one without options.

    Class attributes:
        Settings: Frozen dataclass of the options that the configuration may give.
        removes: True if the sparsifier itself decides the channels to remove (:meth:`channel_groups`, :meth:`keep_masks`), so
            that they are removed when training ends; otherwise a search follows.
        lossless: True if the channels that :meth:`keep_masks` leaves out have no effect any more at the end, so that
            removing them must not change the network's outputs.
    """

    Settings: ClassVar[type[Any]]
    settings: Any = None
    removes: ClassVar[bool] = False
    lossless: ClassVar[bool] = False

    def __init__(self, settings: Any = None) -> None:
        """Keep the settings; nothing is known of the network before :meth:`trace` and :meth:`start`."""
        self.settings = settings

    @property
    def importance(self) -> str | None:
        """Name of the importance criterion that ranks the channels; None for a sparsifier without one."""
        return None

    def trace(self, model: nn.Module, inputs: Nested, forward: Forward) -> None:
        """Trace the structure of ``model``, on its device, with ``inputs``, one sample of shape ``(1, ...)``."""

    @abstractmethod
    def start(self, model: nn.Module, total_steps: int) -> None:
        """Bind to ``model``, which is trained for ``total_steps`` optimizer steps."""

    def bind(self, optimizer: torch.optim.Optimizer) -> None:
        """Receive the optimizer, after :meth:`start`, for sparsifiers that keep its moments from moving."""

    def join(self, gather: Gather) -> None:
        """Receive the gathering of a batch's rows over the processes that train the network together, after :meth:`start`."""

    def before_forward(self, inputs: Nested, targets: Tensor | None) -> None:
        """Receive the batch before the forward pass; ``targets`` is None for a task without class labels."""

    def before_part(self, rows: int) -> None:
        """Receive the number of samples of the next forward pass, before each of a batch that is computed in parts."""

    def penalty(self) -> Tensor | None:
        """Return the scalar added to the loss, or None."""
        return None

    def after_backward(self) -> None:
        """Change gradients, after the backward pass and before the limit on their norm."""

    def after_step(self) -> None:
        """Change weights, after the optimizer's step."""

    def finish(self) -> None:
        """Complete the sparsification if training ended before it was reached; the network is judged next."""

    @property
    def finished(self) -> bool:
        """True once the sparsity asked for is reached, so that training with this sparsifier may stop."""
        return False

    @property
    def complete(self) -> bool:
        """True if the network in training is the final one: only then do epochs count for early stopping."""
        return True

    @property
    def channel_groups(self) -> ChannelGroups | None:
        """The channel groups that :meth:`keep_masks` decides on, if these channels are to be removed; else None."""
        return None

    def keep_masks(self) -> Mapping[str, Tensor]:
        """Return the boolean keep-masks decided so far, by group name; empty where none are."""
        return {}

    @property
    def remark(self) -> str:
        """A caveat about the result for the user, one sentence; empty for none."""
        return ""

    @property
    def schedule(self) -> dict[str, Any]:
        """Numbers of the schedule that is really used, known once started, with ``text``, a line in words; empty for none."""
        return {}

    def shares(self) -> list[dict[str, Any]]:
        """Return, by layer whose channels may go, the share of them asked for and the share removed so far.

        Each has ``name``, ``channels`` (a number), ``asked`` (None where only the whole network has a share) and ``reached``.
        """
        return []

    def record(self) -> dict[str, Any]:
        """Return the course of the sparsification as plain data, for the report; empty if there is nothing to show."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """Return all state that :meth:`load_state_dict` needs to go on exactly."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state_dict`; called after :meth:`start`."""
