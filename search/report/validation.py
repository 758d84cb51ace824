"""report.json checked before it is shown: it may be damaged, or come from somebody else."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, NotRequired

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from search.run.record_file import wrong_field
from spaces.files.reading import FileError

Number = float
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Channels = Annotated[int, Field(ge=1)]


class Layer(TypedDict):
    """A group of channels: how many it had, and how many it has kept."""

    name: str
    channels: Channels
    kept: Count
    chosen: NotRequired[Number | None]
    retained: NotRequired[Number | None]


class UnitRow(TypedDict):
    """A branch or block that could leave."""

    name: str
    macs_share: Amount
    kept: bool


class NetworkRow(TypedDict, total=False):
    """A network on the test split."""

    top1: Number | None
    loss: Number | None
    metrics: dict[str, Number | None] | None
    parameters: Amount | None
    macs: Amount | None
    size_bytes: Amount | None
    bit_operations: Amount | None
    latency_ms: Amount | None
    standard_errors: dict[str, Amount] | None
    resamples: Count | None
    before_retraining: dict[str, Number | None] | None
    layers: list[Layer] | None


class TrialRow(TypedDict, total=False):
    """A trial of a search."""

    trial: int
    number: int
    fingerprint: str
    fidelity: Number
    evaluations: Count
    state: str
    feasible: bool | None
    metrics: dict[str, Number | None] | None


class FrontRow(TypedDict, total=False):
    """A trial on the front."""

    trial: int
    number: int


class SensitivityRow(TypedDict):
    """A decision: its predicted and measured rise of the loss."""

    decision: str
    bits: int
    predicted: dict[str, Number]
    measured: Number
    standard_error: Amount


class Correlation(TypedDict):
    """A rank correlation of two kinds of sensitivity."""

    first: str
    second: str
    over: str
    value: Number | None


class SensitivityTable(TypedDict):
    """Predicted sensitivities beside measured ones."""

    kind: str
    moments: NotRequired[str]
    samples: Count
    rows: list[SensitivityRow]
    correlations: list[Correlation]
    negative: list[str]


class OmegaSource(TypedDict):
    """The kind of second derivatives, or their substitute, behind Omega."""

    sensitivity: str
    moments: str
    text: str


class Program(TypedDict):
    """An integer program that was solved."""

    limits: dict[str, Number]
    omega: NotRequired[Number]
    divergence: NotRequired[Number]
    bound: NotRequired[Number]
    gap: Number
    exact: NotRequired[bool]
    fingerprint: str


class AlgorithmNote(TypedDict, total=False):
    """An algorithm's own account."""

    programmes: list[Program] | None


class FinalistRow(TypedDict, total=False):
    """A candidate that was trained, with its scores as (steps, score)."""

    trial: int | None
    steps: Count | None
    search_score: Number | None
    scores: list[Annotated[list[Number | None], Field(min_length=2, max_length=2)]] | None
    error: str


class SearchRow(TypedDict, total=False):
    """A search stage."""

    stage: str
    name: str
    objectives: dict[str, str] | None
    target: dict[str, Number | str] | str | None
    trials: list[TrialRow] | None
    pareto: list[FrontRow] | None
    chosen: int | None
    finalists: list[FinalistRow] | None
    failed: Count | None
    ended_by: str | None
    worker_seconds: Amount | None
    asynchronous: bool | None
    algorithm: AlgorithmNote | None
    sensitivity: SensitivityTable | None
    omega: OmegaSource | None


class StageRow(TypedDict, total=False):
    """The time of a stage."""

    name: str
    seconds: Amount | None
    baseline_seconds: dict[str, Amount] | None


class Epoch(TypedDict, total=False):
    """An epoch of training."""

    loss: Number | None
    search_loss: Number | None
    search_score: Number | None


class History(TypedDict, total=False):
    """A training, of the result or of the baseline ``variant``."""

    stage: str
    variant: str
    epochs: list[Epoch] | None
    kept_epoch: int | None
    seconds: dict[str, Number] | None


class Retained(TypedDict, total=False):
    """The task relevance that a network keeps."""

    chosen: Number | None
    retained: Number | None
    layers: list[Layer] | None


class BitRow(TypedDict, total=False):
    """A quantized layer or addition."""

    name: str
    weight_bits: Annotated[int, Field(ge=1, le=64)] | None
    activation_bits: Annotated[int, Field(ge=1, le=64)] | None
    weights: Amount | None
    macs: Amount | None


class FrozenRow(TypedDict, total=False):
    """A group that was left as it is."""

    name: str
    size: Count
    reason: str
    macs_share: Number | None


class Merge(TypedDict):
    """Activations that were merged."""

    nodes: list[str]
    where: str
    activations: list[str]
    result: str


class Unmerged(TypedDict):
    """Activations that were left apart."""

    nodes: list[str]
    where: str
    reason: str


class FuseRow(TypedDict, total=False):
    """A fuse stage."""

    merges: list[Merge] | None
    left: list[Unmerged] | None


class Timing(TypedDict):
    """A network's measured latency, in milliseconds."""

    median: Amount
    low: Amount
    high: Amount
    repetitions: Count


class LatencyTable(TypedDict, total=False):
    """The measured latencies."""

    networks: dict[str, Timing]
    predicted: Number | None
    error: Number | None
    mode: str
    backend: str
    machine: str
    device: str
    threads: Count
    batch_size: Count


class Deployment(TypedDict):
    """The layers that ONNX Runtime computes in integers."""

    integer_layers: Count
    float_layers: Count
    version: str


class ScheduleRow(TypedDict, total=False):
    """The schedule of a sparsifier, in words."""

    text: str


class ShareRow(TypedDict):
    """The share of a layer's channels asked for and removed."""

    name: str
    channels: Channels
    asked: Number | None
    reached: Number


class SparsifierRow(TypedDict, total=False):
    """A stage that trained with a sparsifier."""

    stage: str
    schedule: ScheduleRow | None
    shares: list[ShareRow] | None


class ParticipationRecord(TypedDict):
    """The participation probabilities of a stage: per step, layer and five quantiles."""

    stage: str
    layers: Annotated[list[str], Field(min_length=1)]
    steps: list[Number]
    values: list[list[Annotated[list[Number], Field(min_length=5, max_length=5)]]]


class Change(TypedDict):
    """The largest change of outputs by a removal."""

    stage: str
    max_abs_change: Amount


class FailureRow(TypedDict):
    """A measurement that failed."""

    what: str
    error: str


class SeedRow(TypedDict, total=False):
    """The same run with another seed."""

    reference: NetworkRow | None
    result: NetworkRow | None
    baselines: dict[str, NetworkRow] | None


class SearchedTarget(TypedDict):
    """A target as the search judged it."""

    limit: Number
    value: Number
    met: bool


class TargetRow(TypedDict, total=False):
    """A target of the last search, and whether the delivered network keeps it."""

    text: str
    limit: Number
    met: bool
    before: NotRequired[Number]
    value: NotRequired[Number]
    error: NotRequired[Amount | None]
    searched: NotRequired[SearchedTarget]


class ResolvedRow(TypedDict, total=False):
    """One of several budgets of a search."""

    name: str
    target: dict[str, Number | str] | str | None
    targets: dict[str, TargetRow] | None
    target_met: bool | None
    reference: NetworkRow | None
    result: NetworkRow | None


class ClassRow(TypedDict):
    """A class: the samples of the test split that were right before and are right after."""

    label: int
    samples: Count
    before: Count
    after: Count


class ConfusionRow(TypedDict):
    """Two classes: the samples of the first that were taken for the second."""

    label: int
    guess: int
    before: Count
    after: Count


class SampleRow(TypedDict):
    """A sample whose answer changed."""

    index: Count
    label: int
    before: int
    after: int
    picture: dict[str, int | str] | None


class AnswerTable(TypedDict):
    """The answers of the networks before and after."""

    became_wrong: Count
    became_right: Count
    other: Count
    classes: list[ClassRow]
    confusions: list[ConfusionRow]
    samples: list[SampleRow]
    names: NotRequired[list[str] | None]


class ModuleRow(TypedDict):
    """The MACs of a module."""

    name: str
    before: Amount
    after: Amount


class ReportFile(TypedDict, total=False):
    """The parts of report.json that are shown; others are left alone."""

    name: str
    seed: int | None
    score: str
    target: dict[str, Number | str] | str | None
    target_met: bool | None
    targets: dict[str, TargetRow] | None
    reference: NetworkRow | None
    result: NetworkRow | None
    pareto: list[FrontRow] | None
    baselines: dict[str, NetworkRow] | None
    searches: list[SearchRow] | None
    stages: list[StageRow] | None
    test_samples: Count | None
    equivalence_max_abs_error: Amount | None
    layers: list[Layer] | None
    bits: list[BitRow] | None
    answers: AnswerTable | None
    modules: list[ModuleRow] | None
    depth: list[UnitRow] | None
    files: dict[str, Count] | None
    deployment: Deployment | None
    frozen: list[FrozenRow] | None
    activations: list[FuseRow] | None
    retention: dict[str, Retained] | None
    latency: LatencyTable | None
    output_changes: list[Change] | None
    participation: list[ParticipationRecord] | None
    sparsifiers: list[SparsifierRow] | None
    remarks: list[str] | None
    failures: list[FailureRow] | None
    histories: list[History] | None
    baseline_histories: list[History] | None
    seeds: list[SeedRow] | None
    resolved: list[ResolvedRow] | None
    environment: dict[str, Any] | None


def check_report(report: Mapping[str, Any], name: str) -> None:
    """Raise if a part of a report that is shown has another type, or a value out of its range.

    Raises:
        FileError: The message names the file and the first field that is wrong.
    """
    try:
        _adapter().validate_python(dict(report), strict=True)
    except ValidationError as error:
        raise FileError(wrong_field(error, name)) from None


@cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(ReportFile)
