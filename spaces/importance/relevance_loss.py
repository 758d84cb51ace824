"""Importance from two angles: task relevance, and effect on the loss."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from spaces.channels.groups import ChannelGroups
from spaces.importance.criterion import Criterion, CriterionOptions, Gather, relative
from spaces.importance.loss_effect import Taylor
from spaces.importance.task_relevance import TaskRelevance


class RelevanceLoss(Criterion):
    """The product ``(T / mean T) * (D / mean D) ** a`` of the loss's :class:`Taylor` term and :class:`TaskRelevance`.

    Means are over the group, ``a`` is the option ``exponent``. The two angles are the method's (Gao, Wang, Jing, Yu,
    Scientia Sinica Informationis 2022), this formula is our reading: the source's is lost.
    """

    labels = True
    gradients = True

    def __init__(self, model: nn.Module, groups: ChannelGroups, options: CriterionOptions | None = None) -> None:
        super().__init__(model, groups, options)
        self.loss_effect = Taylor(model, groups, options)
        self.relevance = TaskRelevance(model, groups, options)

    def begin(self, labels: Tensor | None) -> None:
        """Start the relevance term on a batch with class labels of shape ``(N,)``."""
        self.relevance.begin(labels)

    def join(self, gather: Gather) -> None:
        """Hand the gathering of rows to the relevance term: the other has the gradients of all rows."""
        self.relevance.join(gather)

    def part(self, rows: int) -> None:
        """Start the relevance term on the next ``rows`` samples."""
        self.relevance.part(rows)

    def end(self) -> None:
        """Add the batch to both terms, after its backward pass."""
        self.loss_effect.end()
        self.relevance.end()

    def values(self) -> Tensor:
        """Return the products of both terms, float64 of shape ``(groups.width,)``."""
        effect = relative(self.groups, self.loss_effect.values())
        relevance = relative(self.groups, self.relevance.values())
        return effect * relevance**self.options.exponent

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of both terms, prefixed by their names."""
        parts = {"loss_effect": self.loss_effect, "relevance": self.relevance}
        return {f"{part}.{name}": value for part, own in parts.items() for name, value in own.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load both terms from the state that :meth:`state_dict` returned."""
        for part, own in (("loss_effect", self.loss_effect), ("relevance", self.relevance)):
            own.load_state_dict({n.removeprefix(f"{part}."): v for n, v in state.items() if n.startswith(f"{part}.")})
