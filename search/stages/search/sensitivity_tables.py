"""Table of Omega that a search reads, made once and kept beside its trials, and its comparison with measured loss."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import TypedDict

from evaluators.base import Evaluator
from evaluators.sensitivity.estimates import FORWARD_BATCH, MEASURES, SensitivitySettings, calibration_batches
from evaluators.sensitivity.loss_increase import omega_table, sensitivity_settings
from evaluators.sensitivity.measured_increase import divergence_table, loss_increases
from evaluators.sensitivity.training_hessian import MissingMomentsError, training_hessian
from evaluators.task import Task
from evaluators.training.moments import TrainingMoments
from search.output.log_records import PACKAGE
from search.run.record_file import RecordFile
from search.study.rank_correlation import rank_correlation
from spaces.base import SearchSpace
from spaces.candidate import Candidate, first_channels
from spaces.files.recorded_settings import as_recorded

FILE = "sensitivity.json"

WORDS = {
    "adam": "Adam's second moment",
    "fisher": "the empirical Fisher information (ours)",
    "hutchinson": "traces of the Hessian by Hutchinson's method (HAWQ-V2)",
    "divergence": "the distance of outputs from the unquantized network's, without any Hessian (ours)",
}
"""Names of the kinds of sensitivity for a person."""

Table = dict[str, dict[int, float]]


class SensitivityFile(TypedDict):
    """Content of ``sensitivity.json``: the table by decision and bits, and what it came from."""

    settings: dict[str, Any]
    table: dict[str, dict[Annotated[str, Field(pattern=r"^[0-9]{1,3}$")], float]]
    average: dict[str, float]
    standard_error: dict[str, float]
    negative: list[str]
    source: NotRequired[dict[str, str]]
    comparison: NotRequired[dict[str, Any]]


class SensitivityTables:
    """Sensitivity of one search's network to the bits of its layers.

    Args:
        space: The space; nothing is measured for one that quantizes nothing.
        model: The network that enters the search.
        task: Data, loss and forward pass.
        evaluators: What candidates are measured with; the table is made where `omega` is among them, with its settings.
        device: Where the network runs.
        seed: The run's seed, from which probes are drawn.
        folder: Folder that the answers are kept in; None keeps none.
        log: Takes a line about what is being measured.
        warn: Takes a line about a damaged file.
        moments: Second moments of the training just done, None without one.
    """

    def __init__(
        self,
        space: SearchSpace[Any],
        model: nn.Module,
        task: Task,
        evaluators: Sequence[Evaluator],
        device: torch.device,
        seed: int,
        folder: Path | None,
        log: Callable[[str], None],
        warn: Callable[[str], None] = PACKAGE.warning,
        moments: TrainingMoments | None = None,
    ) -> None:
        """Collect the decisions on bits of ``space``; nothing is measured yet."""
        self._space, self._model, self._task, self._moments = space, model, task, moments
        self._device, self._seed, self._log = device, seed, log
        again = "sensitivity is measured again"
        self._file = None if folder is None else RecordFile(folder / FILE, SensitivityFile, again, warn)
        self._settings = sensitivity_settings(evaluators)
        self.options = {
            name: tuple(int(bits) for bits in domain.choices if isinstance(bits, int))
            for name, domain in space.domains.items()
            if domain.choices
        }
        # Sensitivity to bits is that of the whole network, whatever channels a candidate may keep.
        channels = {name: domain.channels for name, domain in space.domains.items() if domain.channels}
        self._whole = Candidate({name: first_channels(count, count) for name, count in channels.items()})
        self._places = space.quantizers

    @property
    def wanted(self) -> bool:
        """True if the space quantizes something and ``omega`` is among the evaluators."""
        return self._settings is not None and bool(self._places)

    def zeros(self) -> Table:
        """Return a table of the form of :meth:`table` with nothing measured: every part is 0."""
        return {name: dict.fromkeys(options, 0.0) for name, options in self.options.items()}

    def table(self) -> Table:
        """Return the part of Omega of every choice of bits, by decision and bits, measured once."""
        if self._settings is None:
            return self.zeros()
        found = self._stored(self._settings)["table"]
        return {name: {int(bits): float(value) for bits, value in entries.items()} for name, entries in found.items()}

    def source(self) -> dict[str, str] | None:
        """Return, for the report, what Omega stands on; None where it is not wanted.

        ``sensitivity`` (the kind), ``moments`` (of ``adam``: ``training`` or ``measured``, else empty) and ``text`` (both in
        words, with the reason where moments were measured though those of the training were asked for).
        """
        settings = self._settings
        if settings is None or not self.wanted:
            return None
        found: dict[str, str] = self._stored(settings)["source"]
        return found

    def comparison(self) -> dict[str, Any] | None:
        """Return, for the report, the kinds of sensitivity beside each other and beside the measured rise of the loss.

        ``kind`` (the one that the search reads), ``moments`` (of ``adam``), ``samples``, ``negative`` (decisions of a
        negative average trace, which counts as 0), ``rows`` (per decision with a choice: ``decision``, ``bits`` (the fewest),
        ``weight`` (whether weights have a part in it), ``predicted`` by kind, ``measured`` and ``standard_error``) and
        ``correlations`` (``first``, ``second``, ``over``, ``value``: Spearman's rank correlations over ``weights`` and over
        ``all`` decisions).

        None where it is not wanted.
        """
        settings = self._settings
        if settings is None or not self.wanted or not settings.compare:
            return None
        stored = self._stored(settings)
        if "comparison" not in stored:
            self._log("comparing kinds of sensitivity with the measured rise of the loss")
            stored["comparison"] = self._compared(settings, stored)
            self._keep(stored)
        found: dict[str, Any] = stored["comparison"]
        return found

    def _stored(self, settings: SensitivitySettings) -> dict[str, Any]:
        """Return the file's content, measured where it is not there."""
        described = {**dataclasses.asdict(settings), "seed": self._seed}
        found: Any = self._file.read() if self._file is not None else None
        known = None if found is None else {**as_recorded(settings, found["settings"]), "seed": self._seed}
        if found is None or not self._fits(found) or found["settings"] != known or "source" not in found:
            self._log(f"measuring sensitivity ({settings.sensitivity})")
            found = {"settings": described, **self._measured(settings)}
            if settings.sensitivity == "adam":
                self._log(f"omega stands on {found['source']['text']}")
            self._keep(found)
        return {**found}

    def _fits(self, found: Mapping[str, Any]) -> bool:
        """Return True if a table has a value for every choice of bits."""
        table = found["table"]
        return all(str(bits) in table.get(name, {}) for name, options in self.options.items() for bits in options)

    def _keep(self, found: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(found)

    def _measured(self, settings: SensitivitySettings) -> dict[str, Any]:
        """Return the table, and where it comes from second derivatives, what they are of the weights."""
        most = {name: max(options) for name, options in self.options.items()}
        if settings.sensitivity == "divergence":
            batches = calibration_batches(self._task, settings, self._device, FORWARD_BATCH)
            table = divergence_table(self._prepared, most, self.options, self._model, self._task, batches)
            source = {"sensitivity": "divergence", "moments": "", "text": WORDS["divergence"]}
            return {"table": _texts(table), "average": {}, "standard_error": {}, "negative": [], "source": source}
        generator = torch.Generator().manual_seed(self._seed)
        prepared = self._prepared(most)
        known, reason = self._of_training(settings, prepared)
        table, weights = omega_table(prepared, self._places, self.options, self._task, settings, self._device, generator, known)
        return {
            "table": _texts(table),
            "average": dict(weights.average),
            "standard_error": dict(weights.standard_error),
            "negative": weights.negative,
            "source": {
                "sensitivity": settings.sensitivity,
                "moments": weights.moments,
                "text": self._words(settings, weights.moments, reason),
            },
        }

    def _of_training(self, settings: SensitivitySettings, prepared: nn.Module) -> tuple[dict[str, Tensor] | None, str]:
        """Return the second derivatives from the moments of the training just done; or None, and the reason if any."""
        if settings.sensitivity != "adam" or settings.moments != "training":
            return None, ""
        try:
            return training_hessian(self._moments, self._model, prepared), ""
        except MissingMomentsError as error:
            return None, str(error)

    def _words(self, settings: SensitivitySettings, moments: str, reason: str) -> str:
        """Return in words what Omega stands on, with the reason why it is not on the moments that were asked for."""
        if settings.sensitivity != "adam":
            return WORDS[settings.sensitivity]
        if moments == "training" and self._moments is not None:
            found = self._moments
            return f"{WORDS['adam']} of the training just done ({found.optimizer}, batches of {found.batch_size}; CN112183742B)"
        measured = f"{WORDS['adam']}, measured on {settings.samples} samples after training (ours)"
        return measured + (f", since {reason}: train with adam for the source's own" if reason else "")

    def _prepared(self, bits: Mapping[str, int]) -> nn.Module:
        return self._space.prepare(self._model, self._whole.joined(Candidate(bits))).to(self._device).eval()

    def _compared(self, settings: SensitivitySettings, stored: Mapping[str, Any]) -> dict[str, Any]:
        kinds: dict[str, Mapping[str, Any]] = {settings.sensitivity: stored}
        for kind in MEASURES:
            if kind not in kinds:
                self._log(f"measuring sensitivity ({kind})")
                kinds[kind] = self._measured(dataclasses.replace(settings, sensitivity=kind))
        fewest = {name: min(options) for name, options in self.options.items() if len(options) > 1}
        batches = calibration_batches(self._task, settings, self._device, max(1, min(FORWARD_BATCH, settings.samples // 4)))
        most = {name: max(options) for name, options in self.options.items()}
        measured = loss_increases(self._prepared, most, fewest, self._task, batches)
        rows = [
            {
                "decision": name,
                "bits": bits,
                "weight": any(name in found["average"] for found in kinds.values()),
                "predicted": {kind: kinds[kind]["table"][name][str(bits)] for kind in MEASURES},
                "measured": measured[name].value,
                "standard_error": measured[name].standard_error,
            }
            for name, bits in fewest.items()
        ]
        return {
            "kind": settings.sensitivity,
            "moments": stored["source"]["moments"],
            "samples": settings.samples,
            "negative": sorted({name for found in kinds.values() for name in found["negative"]}),
            "rows": rows,
            "correlations": _correlations(rows),
        }


def _texts(table: Table) -> dict[str, dict[str, float]]:
    return {name: {str(bits): value for bits, value in entries.items()} for name, entries in table.items()}


def _correlations(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return Spearman's rank correlations of every two kinds, and of each with what was measured."""
    found = []
    for over, chosen in (("weights", [row for row in rows if row["weight"]]), ("all", rows)):
        columns: dict[str, list[float]] = {kind: [row["predicted"][kind] for row in chosen] for kind in MEASURES}
        columns["measured"] = [row["measured"] for row in chosen]
        for first, second in itertools.combinations(columns, 2):
            value = rank_correlation(columns[first], columns[second])
            found.append({"first": first, "second": second, "over": over, "value": value})
    return found
