"""Facts about a stage that the configuration and the pipeline read, so that a new stage needs no new rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from search.config.block import Block
from search.config.document import Path

if TYPE_CHECKING:
    from evaluators.training.settings import TrainingSettings

S = TypeVar("S")


@dataclass(frozen=True)
class Surroundings:
    """Facts outside a stage that its settings must fit.

    Attributes:
        own_scores: True for a task of the user's own class, whose scores are not known before it is built.
        several_workers: True if trials may run beside each other on one machine.
    """

    own_scores: bool = False
    several_workers: bool = False


class StageKind(Generic[S]):
    """A stage's place among the others, and the parts of its settings that others read. Every default is that of a stage that
    changes weights at most.

    A property may be overridden by a class attribute, where the answer is the same for all settings.

    Class attributes:
        Settings: Frozen dataclass of the options that the configuration may give.
        compresses: Compression starts here: the network that enters the first such stage is the reference.
        trains: The baselines and the dense network pass through this stage as the result does.
        searches: The stage runs trials, and makes the baselines that its settings name from the network that enters it.
        for_inference: The network that leaves can't be trained or searched: no stage but a last one may follow.
        last: The stage hands on the network as it is, and no stage may follow.
        needs_removal: A stage that removes something must come before.
        goes_on: The stage goes on with a training that the one before it has begun (:attr:`begins_training`).
        purpose: The stage's work as a verb phrase, for messages: ``prepares a search``.
        instead: Name of the stage that does the same where this one must not stand; empty for none.
        grows: Dotted paths of the options that a resumed run may raise: a number to a larger one or to null, which is no limit;
            a list to one with more entries. The stage then runs again, and those behind it.
        float_option: Option whose work needs a network of floats: no stage that quantizes may come before; empty for none.
    """

    Settings: ClassVar[type[Any]]
    compresses: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    searches: ClassVar[bool] = False
    for_inference: ClassVar[bool] = False
    last: ClassVar[bool] = False
    needs_removal: ClassVar[bool] = False
    goes_on: ClassVar[bool] = False
    purpose: ClassVar[str] = ""
    instead: ClassVar[str] = ""
    grows: ClassVar[tuple[str, ...]] = ()
    float_option: ClassVar[str] = ""

    def __init__(self, settings: S) -> None:
        """Keep the settings."""
        self.settings = settings

    @property
    def removes(self) -> bool:
        """True if channels or bits go here, so that the networks after it differ in structure from the reference."""
        return False

    @property
    def needs_search(self) -> bool:
        """True if the stage is of use only with a search somewhere behind it."""
        return False

    @property
    def begins_training(self) -> str:
        """Dotted path of the option that makes the stage begin the training of the one behind it; empty if none does."""
        return ""

    @property
    def passes(self) -> tuple[S, ...]:
        """Settings of the stages that this one stands for, one after the other; its own for a stage that is one."""
        return (self.settings,)

    @property
    def trains_between(self) -> str:
        """Dotted path of the option that repeats the stage behind after each of :attr:`passes`; empty if none does."""
        return ""

    @property
    def passes_by(self) -> bool:
        """True for a search that goes on with what one before has left, whose baselines stay as they are."""
        return False

    @property
    def quantizes(self) -> bool:
        """True if the network that leaves has quantized weights."""
        return False

    @property
    def space(self) -> Block | None:
        """The space that is searched."""
        return None

    @property
    def evaluators(self) -> tuple[Block, ...]:
        """The evaluators of candidates."""
        return ()

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names of the baselines that are put beside the result."""
        return ()

    @property
    def recorded(self) -> tuple[str, ...]:
        """The variants, ``result`` or a baseline, of which a study records trials."""
        return ()

    @property
    def trainings(self) -> Mapping[str, TrainingSettings]:
        """Settings of every training in the stage, by the dotted path below the stage's options; the empty path is its own."""
        return {}

    def faults(self, surroundings: Surroundings) -> Iterable[tuple[Path, str]]:
        """Yield settings that are right one by one and wrong together: the path below the stage's options, and a message."""
        return ()
