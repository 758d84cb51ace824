"""Task, network and spaces at the start of a run, built once for its checks and for the run itself."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from search.run.built import BuiltOnce
from search.run.network import Network
from spaces.cloning.plain_network import without_wrappers

if TYPE_CHECKING:
    from evaluators.task import Task
    from search.config.loading import Config


class Start:
    """Task, network and spaces of a configuration, each built when it is first asked for, and once.

    Args:
        config: The configuration.

    Attributes:
        config: The configuration.
        built: Spaces and contexts, for the stages.
    """

    def __init__(self, config: Config) -> None:
        """Build nothing yet."""
        self.config = config
        self.built = BuiltOnce()

    @cached_property
    def task(self) -> Task:
        """Data, loss and score."""
        return self.config.build_task()

    @cached_property
    def network(self) -> Network:
        """The network that the task starts from, in evaluation mode; the checks leave it unchanged."""
        return Network(without_wrappers(self.task.reference_model()).eval())
