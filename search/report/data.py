"""report.json: all data of a report, built from the notes of the stages and from the measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search.config.loading import Config
from search.report.compared import compared_answers, compared_modules
from search.report.judging import all_met, judged_targets
from search.run.network import Network
from search.run.stage_run import RESULT


@dataclass(frozen=True)
class Entry:
    """The notes of one stage on one flow.

    Attributes:
        step: The stage's place and name, such as ``2-search``.
        notes: Data that it left for the report.
        searched: True for a stage that searches, whose notes are those of a search.
    """

    step: str
    notes: dict[str, Any]
    searched: bool

    @property
    def removal(self) -> dict[str, Any] | None:
        """The notes on the channels and bits that the stage took from the network; None where it took none."""
        found: dict[str, Any] | None = self.notes if self.searched else self.notes.get("removed")
        return found


@dataclass(frozen=True)
class Flow:
    """A network on its way through the pipeline: the result, or a baseline.

    Attributes:
        network: The network.
        key: Hash of everything it depends on.
        entries: Notes of the stages so far, in order.
    """

    network: Network
    key: str
    entries: tuple[Entry, ...] = ()

    def searches(self) -> list[Entry]:
        """Return the entries of searches."""
        return [entry for entry in self.entries if entry.searched]

    def removals(self) -> list[dict[str, Any]]:
        """Return the notes on removals, of every stage that removed something: searches, and sparse trainings."""
        return [entry.removal for entry in self.entries if entry.removal is not None]

    def last_search(self) -> Entry | None:
        """Return the entry of the last search, None before one."""
        found = self.searches()
        return found[-1] if found else None


def build_report(
    config: Config,
    reference: Flow,
    flows: Mapping[str, Flow],
    rows: Mapping[str, Any],
    details: Mapping[str, Mapping[str, Any]],
    retention: Mapping[str, Any],
    latency: Mapping[str, Any] | None,
    stages: list[dict[str, Any]],
    test_samples: int | None,
    described: Mapping[str, Any],
    score: str,
) -> dict[str, Any]:
    """Return report.json.

    ``score`` is the name of the task's primary score. ``target`` has the limits as written, ``targets`` per metric ``text``,
    ``limit`` (in the metric's unit), ``value`` and ``met`` (see :func:`.judged_targets`; ``searched`` is what the search went
    by, where that differs), for a limit on a score also what it was on the search split: ``before`` of the reference, ``value``
    of the result, with its standard ``error`` or null.

    ``reference``, ``result`` and every entry of ``baselines`` hold ``top1``,
    ``loss``, ``metrics``, ``parameters``, ``macs``, ``size_bytes``, ``bit_operations`` and ``latency_ms`` on the test split,
    ``standard_errors`` of the scores where they are known, and ``resamples``, the draws behind those of metrics that accumulate
    (null without such). A baseline also has, where it comes from a search stage: ``before_retraining`` (metrics on the search
    split), ``fingerprint`` and ``layers``. ``searches`` has, per search stage: ``stage``, ``objectives``, ``target`` (limits in
    the metric's unit), ``target_met`` (by the search's own figures), ``pareto``, ``trials`` (each ``trial``, ``fingerprint``,
    ``fidelity``, ``state``, ``feasible``, ``metrics``, of a generation the number of
    ``evaluations`` and, of a failed one, ``error``), ``failed``, ``ended_by``, ``worker_seconds`` (what its trials
    took, added up), ``asynchronous`` (trials were told as they were finished, not in batches), ``algorithm`` (what it tells of
    itself, such as the ``programmes`` of an integer program with their ``gap``), ``sensitivity``
    (:meth:`.sensitivity_tables.SensitivityTables.comparison`, or null), ``omega``
    (:meth:`.sensitivity_tables.SensitivityTables.source`, or null), ``chosen`` (a trial), ``finalists`` (each ``trial``,
    ``fingerprint`` and ``search_score`` after its training, or its ``error``; where they were halved also ``steps`` trained and
    ``scores``, as (steps, score on the search split)), ``fingerprint``, ``metrics``, ``layers``
    (``name``, ``channels``, ``kept``) and ``frozen`` (``name``, ``size``, ``reason``, ``macs_share``). ``histories`` are the
    result's trainings, each ``stage``, ``variant``, ``epochs``, ``kept_epoch`` (number of the one handed on, 0 for none) and
    ``seconds`` of all steps by part (``data``, ``forward``, ``backward``, ``optimizer``); ``baseline_histories`` those of the
    baselines.
    ``activations`` has, per fuse stage: ``stage``, ``merges`` (``where``, ``nodes``, ``activations``, ``result``, ``exact``),
    ``left`` (``where``, ``nodes``, ``reason``) and ``max_abs_error``. ``retention`` has, for the result and the baselines from
    which channels were removed, by role: ``chosen`` and ``retained`` (shares of the reference's task relevance, see
    :class:`.Retention`) and ``layers``, each with ``name``, ``channels``, ``kept`` and the same two. ``output_changes`` has,
    per stage whose training made what it removed zero: ``stage`` and ``max_abs_change``. ``bits`` has, per quantized layer and
    addition: ``name``, ``weight_bits``, ``activation_bits`` (null for float, or no weights), ``weights`` (their number) and
    ``macs``; ``depth``, per branch or block that could leave: ``name``, ``macs_share`` and ``kept``;
    ``files`` the bytes of every file in ``best/`` that the stage export has written, by name, or null without it;
    ``deployment`` how many layers with weights ONNX Runtime computes in integers (``integer_layers``) and in float
    (``float_layers``), with its ``version``, or null where nothing was exported to ONNX. ``answers``
    is what :func:`.compared_answers` returns, ``modules`` has, in the order of the forward pass, ``name``, ``before`` and
    ``after``, the MACs of every module of the reference and of the result. ``participation`` has, per stage that
    pruned by probabilities: ``stage``, ``layers``, ``steps``, ``quantiles`` and ``values`` (a probability per step, layer and
    quantile). ``sparsifiers`` has, per stage that trained with one: ``stage``, ``schedule`` (:attr:`.Sparsifier.schedule`, with
    ``text``) and ``shares`` (:meth:`.Sparsifier.shares`: ``name``, ``channels``, ``asked``, ``reached``). ``blocks`` has, per
    stage that trained blocks behind the least squares: ``stage``, ``text``, ``fits`` (``block``, ``before``, ``after``,
    ``kept``; squared differences on held-back samples as shares of the dense outputs' squares), ``unmatched`` blocks and, of
    the network's outputs, ``before``, ``after`` and ``kept``. ``latency`` is what
    :func:`.measure_latency` returns, or null where no search looked at it. ``test_samples`` is the size of the test split,
    ``metrics_described`` has per metric ``unit``, ``direction``, ``label``, ``format`` (a name in
    :data:`evaluators.metrics.FORMATS`) and ``is_cost``, and ``remarks`` are what a person should know of the result. The
    pipeline adds ``failures``: ``what`` could not be measured, which is null here, and the ``error``.

    Args:
        config: The run's configuration.
        reference: The network that entered the first compression stage.
        flows: The result and the baselines, at the end of the pipeline.
        rows: The figures of ``reference`` and of every flow on the test split.
        details: The answers to test samples and the costs by module of the reference and of the result, as far as known.
        retention: Shares of the reference's task relevance that every flow keeps, None where they are not known.
        latency: The latency of all networks, None where it was not measured.
        stages: Name and seconds of every stage.
        test_samples: How many samples scores were measured on; None where that is not known.
        described: Descriptions of metrics by name, from :meth:`.Metric.to_json`.
        score: Name of the task's primary score.
    """
    result = flows[RESULT]
    searches = [_search(entry) for entry in result.searches()]
    last = searches[-1] if searches else None
    limits = result.searches()[-1].notes["target"] if searches else {}
    targets = judged_targets(limits, rows["reference"], rows[RESULT])
    histories = _histories(flows)
    removals = result.removals()
    errors = [notes["equivalence_error"] for flow in flows.values() for notes in flow.removals()]
    return {
        "name": config.name,
        "seed": config.seed,
        "score": score,
        "target": {metric: target["text"] for metric, target in limits.items()} or None,
        "target_met": all_met(targets),
        "targets": targets,
        "reference": rows["reference"],
        "result": rows[RESULT],
        "pareto": last["pareto"] if last else [],
        "baselines": {name: {**rows[name], **_candidate(flow)} for name, flow in flows.items() if name != RESULT},
        "searches": searches,
        "stages": stages,
        "test_samples": test_samples,
        "metrics_described": dict(described),
        "equivalence_max_abs_error": max(errors, default=None),
        "layers": _last(removals, "layers"),
        "bits": _last(removals, "bits"),
        "depth": _last(removals, "depth"),
        "answers": compared_answers(details["reference"].get("answers"), details[RESULT].get("answers")),
        "modules": compared_modules(details["reference"].get("module_macs"), details[RESULT].get("module_macs")),
        "files": next((entry.notes["files"] for entry in reversed(result.entries) if "files" in entry.notes), None),
        "deployment": next((entry.notes["deployment"] for entry in result.entries if "deployment" in entry.notes), None),
        "frozen": removals[-1]["frozen"] if removals else [],
        "activations": _activations(result),
        "retention": {role: found for role, found in retention.items() if found is not None},
        "latency": latency,
        "output_changes": _output_changes(result),
        "participation": _participation(result),
        "sparsifiers": _sparsifiers(result),
        "blocks": _blocks(result),
        "remarks": [
            *(entry.notes["remark"] for entry in result.entries if entry.notes.get("remark")),
            *(f"{found['stage']}: {found['text']}" for found in _blocks(result)),
        ],
        "histories": [history for history in histories if history["variant"] == RESULT],
        "baseline_histories": [history for history in histories if history["variant"] != RESULT],
    }


def _search(entry: Entry) -> dict[str, Any]:
    notes = entry.notes
    limits = {metric: target for metric, target in notes["target"].items() if "before" not in target}
    return {
        "stage": entry.step,
        "objectives": notes["objectives"],
        "target": {metric: target["limit"] for metric, target in limits.items()},
        "target_met": all_met(notes["target"]),
        "chosen": notes["trial"],
        "finalists": notes.get("finalists", []),
        "asynchronous": notes.get("asynchronous", False),
        "algorithm": notes.get("algorithm", {}),
        "sensitivity": notes.get("sensitivity"),
        "omega": notes.get("omega"),
        "worker_seconds": notes.get("worker_seconds", 0.0),
        **{name: notes[name] for name in ("pareto", "trials", "failed", "ended_by", "fingerprint", "metrics")},
        **{name: notes[name] for name in ("layers", "frozen")},
    }


def _blocks(result: Flow) -> list[dict[str, Any]]:
    entries = [entry for entry in result.entries if "blocks" in entry.notes]
    return [{"stage": entry.step, **entry.notes["blocks"]} for entry in entries]


def _last(removals: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the last list of that name that is not empty."""
    return next((notes[name] for notes in reversed(removals) if notes.get(name)), [])


def _candidate(flow: Flow) -> dict[str, Any]:
    """Return metrics, fingerprint and layers of a baseline's candidate before retraining; nothing for the dense one."""
    search = flow.last_search()
    if search is None:
        return {}
    notes = search.notes
    return {"before_retraining": notes["metrics"], "fingerprint": notes["fingerprint"], "layers": notes["layers"]}


def _activations(result: Flow) -> list[dict[str, Any]]:
    entries = [entry for entry in result.entries if "activations" in entry.notes]
    return [{"stage": entry.step, **entry.notes["activations"]} for entry in entries]


def _output_changes(result: Flow) -> list[dict[str, Any]]:
    removed = {entry.step: entry.notes.get("removed", {}).get("output_change") for entry in result.entries}
    return [{"stage": step, "max_abs_change": change} for step, change in removed.items() if change is not None]


def _participation(result: Flow) -> list[dict[str, Any]]:
    entries = [entry for entry in result.entries if entry.notes.get("participation")]
    return [{"stage": entry.step, **entry.notes["participation"]} for entry in entries]


def _sparsifiers(result: Flow) -> list[dict[str, Any]]:
    found = {entry.step: entry.notes.get("sparsifier") or {} for entry in result.entries}
    return [{"stage": step, **note} for step, note in found.items() if note.get("schedule") or note.get("shares")]


def _histories(flows: Mapping[str, Flow]) -> list[dict[str, Any]]:
    """Return every training, each once: baselines share the result's up to the search."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for variant, flow in flows.items():
        own = variant != RESULT
        start = next((index for index, entry in enumerate(flow.entries) if entry.searched), -1) if own else -1
        for entry in flow.entries[start + 1 :]:
            if "history" in entry.notes:
                history = {"stage": entry.step, "variant": variant, "epochs": entry.notes["history"]}
                kept = entry.notes.get("kept_epoch", len(entry.notes["history"]))
                found[entry.step, variant] = {**history, "kept_epoch": kept, "seconds": entry.notes.get("seconds", {})}
    return list(found.values())
