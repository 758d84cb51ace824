"""The stage: one step of a pipeline, a network in and a network out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from search.run.network import Network

if TYPE_CHECKING:
    from search.run.stage_run import StageRun

S = TypeVar("S")


class Stage(ABC, Generic[S]):
    """One step of a pipeline. Made from its frozen ``Settings``, kept as ``settings``; any other state is a cache.

    Class attributes:
        Settings: Frozen dataclass of the options that the configuration may give.
        compresses: Whether compression starts here: the network that enters the first such stage is the reference.
        trains: Whether the baselines and the dense network pass through this stage as the result does.
        searches: Whether the stage removes something, so that the networks after it differ from the reference.
        rewrites: Whether the stage changes how the result is computed, but not what.
    """

    Settings: ClassVar[type[Any]]
    compresses: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    searches: ClassVar[bool] = False
    rewrites: ClassVar[bool] = False

    def __init__(self, settings: S) -> None:
        """Keep the settings."""
        self.settings = settings

    @abstractmethod
    def run(self, network: Network, run: StageRun) -> Network:
        """Return the network that leaves the stage; ``network`` is left unchanged.

        A stage that was cut off goes on from what it left in ``run.folder`` and ends as if it had not been.
        """

    def depends_on(self, variant: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what of the stage's settings (plain data) decides the network of ``variant``."""
        return settings

    def check(self, network: Network, run: StageRun) -> Network:
        """Find what is wrong before anything is written, and return a network of about the structure that will leave the stage.

        Raises:
            SecateursError: The stage cannot work on this network.
        """
        return network
