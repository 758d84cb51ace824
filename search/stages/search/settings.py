"""Settings of the search stage."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, cast

from evaluators.base import Direction
from evaluators.training.settings import TrainingSettings
from search.config.block import Limit, ScoreLimit
from search.config.registries import ALGORITHM, EVALUATOR, AlgorithmBlock, EvaluatorBlock, LimitField, SpaceBlock
from spaces.importance.criterion import CriterionName
from spaces.reconstruction.settings import ReconstructionSettings

Baseline = Literal["uniform", "global_magnitude", "integer_program", "greedy_divergence", "random", "dense_same_training"]


@dataclass(frozen=True)
class BudgetSettings:
    """Limits of a search beside the algorithm's own end; both count across resumes.

    An algorithm that concludes with a comparison, such as ``evolution``, makes it within ``evaluations`` and after ``seconds``.

    Attributes:
        evaluations: Number of evaluated proposals, or None.
        seconds: Wall-clock seconds, or None.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    evaluations: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for an option out of its range, with the option's name."""
        for name, value in (("evaluations", self.evaluations), ("seconds", self.seconds)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")


@dataclass(frozen=True, kw_only=True)
class FinalistSettings:
    """Training that decides between the best candidates of a search.

    Attributes:
        count: Number of candidates that are trained: the best ones or, with several objectives, some spread over the front.
        steps: Numbers of optimizer steps, ascending, after which they are compared on the search split: the better half goes
            on, behind the last one the best (successive halving; ours is that the steps are the first ones of the training that
            the best one gets in any case, with its schedule). Empty trains each to the end.
        training: The training; later stages go on from the network that it leaves. null, with ``steps``, for that of the
            ``retrain`` stage directly behind, which then goes on with the best one's.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    count: int = 3
    steps: tuple[int, ...] = ()
    training: TrainingSettings | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for an option out of its range, with the option's name."""
        if self.count < 1:
            raise ValueError(f"count: expected at least 1, got {self.count}")
        if sorted(set(self.steps)) != list(self.steps) or any(step < 1 for step in self.steps):
            raise ValueError(f"steps: expected rising numbers of at least 1, got {list(self.steps)}")
        if not self.steps and self.training is None:
            raise ValueError(
                "training: expected what finalists are trained with, {epochs: ...}; or steps: [50, 100, 200], the first ones "
                "of the retrain stage behind; got neither"
            )


@dataclass(frozen=True)
class PassSettings:
    """Place of a search among the passes that ``rounds`` or ``iterations`` have made of one; a configuration leaves it out.

    Attributes:
        toward: Limits of the passes behind it; baselines keep the last of them.
        goes_on: The search goes on with what the pass before has left; baselines pass by.
        dense: Candidates are compared with, and solved against, the network that entered the first compression, not the one
            that the pass before has left.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    toward: tuple[LimitField, ...] = ()
    goes_on: bool = False
    dense: bool = False


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Settings of the search stage.

    Attributes:
        space: Which decisions are open.
        algorithm: What decides what to try next.
        evaluate: What measures a candidate.
        objectives: Metrics that are sought, with the direction of each; the first is the primary one.
        target: Upper limits of costs: of the reference's (``"<= 40%"``) or in the metric's unit (``"<= 1.2e6"``). Or, of one
            score, what may be lost of it on the search split (``top1: ">= -1.0 points"``, ``loss: "<= +0.02"``): then the
            algorithm ``integer_program`` finds the smallest network that loses no more, by bisection over the budget.
        baselines: What is put beside the result at the same cost.
        budget: When the search ends, beside the algorithm's own end.
        batch: Number of proposals asked for at a time, whatever the number of workers.
        importance: Criterion of the importance table, from which first generations and greedy baselines are made:
            ``bn_scale``, ``l1``, ``l2``, ``geometric_median``; or, learnt from training samples, ``taylor``,
            ``task_relevance`` or their product ``relevance_loss``; or, without labels, ``second_order`` (ours), which orders
            channels by what the layers that read them lose. CN111105035A has its scaling factors, ``bn_scale``.
        reconstruct: How the layers of the network that is handed on, and of every baseline, are solved by least squares, and
            with ``steps`` its blocks trained behind it, without labels (ours); false hands them on as measured, as the sources
            do. Candidates are measured without, but those that ``evolution`` compares in steps, by least squares; one that is
            trained is handed on as its training leaves it.
        finalists: How the best few candidates are trained when the search is over, so that the best of them then is delivered;
            None delivers the best one of the search.
        training: How candidates are trained before they are measured; needed for a space that trains them, and else by default
            they are not.
        rounds: Number of searches one after the other, coarse to fine: each comes down by the same factor to the target, with
            half the steps between levels, on the network that the one before has left solved, whose tables are made again;
            all compare with the network that entered the first compression (ours).
        iterations: Limits that searches come down to one after the other, the last one the target's, such as
            ``[60%, 40%, 20%]``: prune, train, prune. Between them the network is trained as by the ``retrain`` stage directly
            behind, and tables are made again; baselines are trained as often.
        passes: Place among the searches that ``rounds`` or ``iterations`` have made of one, which a run records.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    space: SpaceBlock
    algorithm: AlgorithmBlock
    evaluate: tuple[EvaluatorBlock, ...]
    objectives: dict[str, Direction]
    target: dict[str, LimitField] = field(default_factory=dict)
    baselines: tuple[Baseline, ...] = ()
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    batch: int = 16
    importance: CriterionName = "second_order"
    reconstruct: ReconstructionSettings | Literal[False] = field(default_factory=ReconstructionSettings)
    finalists: FinalistSettings | None = None
    training: TrainingSettings | None = None
    rounds: int = 1
    iterations: tuple[LimitField, ...] = ()
    passes: PassSettings | None = None

    @property
    def limits(self) -> dict[str, Limit]:
        """The limits on costs."""
        return {name: cast(Limit, limit) for name, limit in self.target.items() if not limit.on_score}

    @property
    def score_limits(self) -> dict[str, ScoreLimit]:
        """The limits on scores, one at most."""
        return {name: cast(ScoreLimit, limit) for name, limit in self.target.items() if limit.on_score}

    @property
    def reads_divergence(self) -> bool:
        """True if the algorithm or a baseline reads the divergence of every level alone."""
        own = self.algorithm
        return bool(ALGORITHM.find(own.name).reads_divergence(own.settings)) or "integer_program" in self.baselines

    @property
    def reads_removal_order(self) -> bool:
        """True if a baseline reads in which order a greedy removal takes branches or blocks."""
        return "greedy_divergence" in self.baselines

    def __post_init__(self) -> None:
        """Raise ValueError for an option out of its range, with the option's name."""
        sought = {*self.objectives, *self.target}
        evaluate = [replace(one, settings=EVALUATOR.find(one.name).asked_for(one.settings, sought)) for one in self.evaluate]
        object.__setattr__(self, "evaluate", tuple(evaluate))
        if self.rounds < 1:
            raise ValueError(f"rounds: expected at least 1, got {self.rounds}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        if not self.objectives:
            raise ValueError("objectives must name at least one metric, such as {top1: maximize, macs: minimize}")
        if not self.evaluate:
            raise ValueError("evaluate must name at least one evaluator, such as [accuracy, cost]")
        if len(set(self.baselines)) < len(self.baselines):
            raise ValueError(f"baselines are named twice: {list(self.baselines)}")
