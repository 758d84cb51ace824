"""The pipeline: stages in order, for the result and for every baseline beside it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from evaluators.task import Task
from evaluators.tasks.answers import Answers
from evaluators.tasks.settings import build_task
from evaluators.training.checkpoint import FileCheckpoint
from evaluators.training.hardware import torch_threads
from search.config.extras import require_extras
from search.config.loading import Config
from search.config.recorded import as_recorded
from search.config.registries import TRACKER
from search.output.disk_errors import system_errors
from search.output.progress import Log, duration
from search.output.remarks import network_remarks
from search.pipeline.latency import MeasuredLatencies, latency_of, measure_latency
from search.pipeline.metrics import cost_evaluators, described_metrics
from search.pipeline.plan import PlannedStep, again_lines, changed_stages, plan
from search.pipeline.rehearsal import rehearse
from search.pipeline.retention import Relevance, Retention
from search.pipeline.reuse import find_earlier, require_taken, reuse_lines, reused
from search.pipeline.start import Start
from search.report.data import Entry, Flow, build_report
from search.report.judging import caveats
from search.report.validation import Retained
from search.run.best import Best
from search.run.earlier_run import ORIGIN, EarlierRun, origin_of
from search.run.failures import Failures
from search.run.measurements import DETAILS, MeasuredRow, Measurements, measure_row
from search.run.network import Network
from search.run.run_folder import RunFolder, RunFolderError
from search.run.run_records import without_password
from search.run.search_tables import SearchTables
from search.run.stage_run import DENSE, RESULT, SECONDS, StageRun, Stopwatch, device_of
from search.run.steps import BEGUN, START, StageStep, key_of, start_key
from search.stages.base import PlacedStage, following_training, placed_stages
from search.study.storage import open_storage
from search.study.taken_study import take_study
from search.tracking.base import TrackedRun
from search.tracking.trackers import Trackers
from search.trust.canonical import canonical_origin
from search.trust.known_code import remember_code
from spaces.files.json_file import write_record

if TYPE_CHECKING:
    from search.run.run_storage import RunStorage

REPORT = "report.json"


def run(
    config: Config,
    folder: Path,
    console: Console | None = None,
    earlier: Path | None = None,
    tables: SearchTables | None = None,
) -> dict[str, Any]:
    """Run a pipeline in ``folder``, or resume it, and return its report.json.

    Args:
        config: The configuration.
        folder: The run folder, ``runs/NAME``.
        console: Console for progress; None shows nothing.
        earlier: Folder of another run, of which every step with the same settings and inputs is taken over as a copy.
        tables: Tables that the search of ``earlier`` has left, for the search here: no step before it is computed again.

    Raises:
        SecateursError: The run can't work as configured, ``folder`` is another run's or in use, or ``earlier`` is no folder
            of a run, or damaged, or lacks a step before the search whose tables are taken.
    """
    from search.report.page import render_where_installed

    require_extras(config.canonical())
    device_of(config.execution.device)  # Refused before the folder records it, for a finished run too.
    with torch_threads(config.execution.threads_per_trial):
        start = Start(config)
        source = find_earlier(earlier, folder, start)
        steps = plan(config, start.task.fingerprint)
        taken = [] if source is None else reused(steps, source, start)  # Damaged pieces are refused before a folder is made.
        if source is not None and tables is not None:
            require_taken(steps, taken, source, tables.step)
        if not (folder / "config.yaml").exists():
            with Log(None, console) as log, network_remarks(log.write):
                for line in rehearse(config, start):
                    log.write(line)
        with system_errors(folder), RunFolder(folder) as run_folder:
            damaged: list[str] = []
            form = partial(as_recorded, config)
            changes = run_folder.adopt(config.canonical(), start.task.fingerprint, damaged.append, form)
            steps = plan(config, start.task.fingerprint, run_folder.record)
            taken = [] if source is None else reused(steps, source, start)
            remember_code(run_folder.run_id, config.canonical())
            with Log(folder / "log.txt", console) as log:
                warn = partial(log.write, level=logging.WARNING)
                log.write(f"{'going on with' if run_folder.resumed else 'starting'} run {config.name} in {folder}")
                for line in damaged:
                    warn(line)
                for change in changes:
                    log.write(f"changed: {change}")
                for line in again_lines(steps, run_folder.checkpoints, changed_stages(run_folder.before, run_folder.record)):
                    log.write(line)
                if source is not None:
                    for line in reuse_lines(steps, taken, source):
                        log.write(line)
                opened = open_storage(folder, config.name, config.storage, run_folder.run_id, warn)
                trackers = Trackers([TRACKER.build(one) for one in config.execution.trackers], warn)
                plain = without_password(config.canonical())
                tracked = TrackedRun(config.name, run_folder.run_id, folder, run_folder.resumed, plain)
                with trackers.following(tracked):
                    with network_remarks(warn), opened as storage:
                        pipeline = _Pipeline(config, start, run_folder, log, storage, steps, taken, source, tables, trackers)
                        report = pipeline.run()
                    report = write_record(folder / REPORT, report)
                    render_where_installed(folder, warn)
                    trackers.result(report, folder)
                log.write("done")
    return report


@dataclass
class _Pipeline:
    """One run of a configuration's stages."""

    config: Config
    start: Start
    run_folder: RunFolder
    log: Log
    storage: RunStorage
    steps: Sequence[PlannedStep]
    taken: Sequence[PlannedStep]
    earlier: EarlierRun | None
    tables: SearchTables | None = None
    trackers: Trackers = field(default_factory=Trackers)

    def __post_init__(self) -> None:
        self.task: Task = self.start.task
        canonical = self.config.canonical()
        self.planned = {step.place: step for step in self.steps}
        self.takes = {step.place for step in self.taken}
        self.device = device_of(self.config.execution.device)
        self.ended = (self.run_folder.path / REPORT).exists()
        provenance = {"run": self.config.name, "seed": self.config.seed}
        origin = {name: value for name, value in canonical["task"].items() if name != "data"}
        self.best = Best(self.run_folder.best, canonical_origin(origin, self.task), provenance, self._warn)

    def run(self) -> dict[str, Any]:
        """Run the stages, measure the networks that leave the last one, and return report.json."""
        stages = placed_stages(self.config)
        flows = {RESULT: self._start()}
        reference: Flow | None = None
        dense_asked = any(DENSE in placed.stage.baselines for placed in stages)
        for placed in stages:
            if placed.stage.compresses and reference is None:
                reference = flows[RESULT]
                if dense_asked:
                    flows[DENSE] = replace(reference, entries=())
            flows = self._stage(placed, flows, reference)
            self.start.built.forget(placed.step)
        reference = reference if reference is not None else flows[RESULT]
        return self._report(stages, reference, flows)

    def _report(self, stages: Sequence[PlacedStage], reference: Flow, flows: Mapping[str, Flow]) -> dict[str, Any]:
        """Measure the networks, and return report.json; what can't be measured is named in it, and measured next time."""
        failures = Failures(self.log.write)
        attempt = failures.attempt
        measurements = self._measurements("measurements.json", failures)
        rows: dict[str, Any] = {}
        costs = cost_evaluators(stages, self.task)
        self.log.write(f"measuring what came out on the test split, {len(flows) + 1} networks")
        for role, flow in {"reference": reference, **flows}.items():
            model = flow.network.stored().model.to(self.device)
            before = (rows.get("reference", {}).get("answers") or {}).get("guesses")
            answers = Answers(self.task, before) if role in ("reference", RESULT) else None
            measure = partial(measure_row, role, model, self.task, self.device, failures, costs, answers)
            rows[role] = measurements.row(role, flow.key, measure, MeasuredRow)
        details = {role: {name: row.get(name) for name in DETAILS} for role, row in rows.items()}
        rows = {role: {name: value for name, value in row.items() if name not in DETAILS} for role, row in rows.items()}
        latency = None
        if (timed := latency_of(stages, self.config.execution)) is not None:
            key = key_of(reference.key, {role: flow.key for role, flow in flows.items()})
            time = partial(measure_latency, timed, reference, flows, self.task)
            latency = measurements.row("latency", key, partial(attempt, "latency", time, None), MeasuredLatencies | None)
        if latency is not None:
            for role, row in rows.items():
                row["latency_ms"] = latency["networks"][role]["median"]
        kept = self._measurements("retention.json", failures)

        def recall(measured: Callable[[], Relevance]) -> Relevance:
            return kept.row("reference", reference.key, measured, Relevance)

        retention = Retention(reference.network, self.task, self.device, recall)
        shares = {}
        for role, flow in flows.items():
            share = partial(attempt, f"{role}: retained task relevance", partial(retention.of, flow.network), None)
            shares[role] = kept.row(role, flow.key, share, Retained | None)
        report = build_report(
            config=self.config,
            reference=reference,
            flows=flows,
            rows=rows,
            details=details,
            retention=shares,
            latency=latency,
            stages=self._seconds(),
            test_samples=attempt("size of the test split", partial(self.task.size, "test"), None),
            described=described_metrics(stages, self.task),
            score=self.task.score_name,
        )
        for text in caveats(report):
            self.log.write(text, logging.DEBUG)
        return {**failures.finite("", report), "failures": failures.rows}

    def _measurements(self, name: str, failures: Failures) -> Measurements:
        """Return a store of measured rows; the reference's is that of the search whose tables are taken over, if a run here."""
        earlier = self.earlier if self.tables is not None and self.earlier is not None and self.earlier.begun_here else None
        theirs = None if earlier is None else earlier.folder / "checkpoints" / name
        return Measurements(self.run_folder.checkpoints / name, failures, self._warn, theirs)

    def _start(self) -> Flow:
        """Return the network that the run starts from, read back from disk so that a resumed run has the same tensors."""
        key = start_key(self.config.seed, self.task.fingerprint)
        step = StageStep(self.run_folder.checkpoints / START, key, self._warn)
        known = step.open()
        done = step.load(self.task)
        if done is None and known and not step.path.exists() and self._went_on(-1):
            self._warn(f"{step.path} was lost: the network that the task starts from is written again")
        if done is None:
            step.finish(self.start.network, {})
            done = step.load(self.task)
        return Flow(_there(done, step)[0], key)

    def _stage(self, placed: PlacedStage, flows: dict[str, Flow], reference: Flow | None) -> dict[str, Flow]:
        """Return the flows that leave a stage."""
        stage, before = placed.stage, flows[RESULT]
        after = {RESULT: self._step(placed, RESULT, before, reference, {})}
        found = after[RESULT].entries[-1].notes
        if stage.searches:
            for baseline in stage.baselines:
                if baseline != DENSE:
                    after[baseline] = self._step(placed, baseline, before, reference, found)
            passing = flows if stage.passes_by else {DENSE}
            after |= {variant: flow for variant, flow in flows.items() if variant in passing and variant != RESULT}
        else:
            for variant, flow in flows.items():
                if variant != RESULT:
                    after[variant] = self._step(placed, variant, flow, reference, found) if stage.trains else flow
        return after

    def _step(self, placed: PlacedStage, variant: str, flow: Flow, reference: Flow | None, found: dict[str, Any]) -> Flow:
        """Run a stage on one flow, unless that is done already."""
        stage, label = placed.stage, placed.step
        planned = self.planned[label, variant]
        key = planned.key
        step = StageStep(planned.folder(self.run_folder.checkpoints), key, self._warn)
        known = step.open()
        if self.tables is not None and label == self.tables.step and not step.path.exists():
            self.tables.fill(step, variant, self._warn)
        done = step.load(self.task)
        if done is None and self.earlier is not None and planned.place in self.takes:
            self._take(planned, step, self.earlier)
            done = step.load(self.task)
            known = False
        stopwatch = Stopwatch(step.folder / SECONDS, self._warn)
        if done is None and known and not step.path.exists() and self._went_on(placed.index):
            self._warn(f"{step.path} was lost: the stage runs again")
        if done is not None and variant == RESULT and (lost := stage.lost(self.best, done[1])):
            self._warn(f"{self.best.path / lost} is missing or damaged: {label} runs again")
            done = None
        fresh = done is None or not known
        if done is None:
            (step.folder / ORIGIN).unlink(missing_ok=True)
            stages = placed_stages(self.config)
            before = [self.run_folder.checkpoints / other.step for other in stages if other.index == placed.index - 1]
            begun = FileCheckpoint(before[0] / variant / BEGUN, self._warn) if before else None
            stage_run = StageRun(
                name=self.config.name,
                step=label,
                variant=variant,
                entered=planned.entered,
                folder=step.folder,
                seed=self.config.seed,
                task=self.task,
                build_task=partial(build_task, self.config.task),
                device=self.device,
                execution=self.config.execution,
                reference=reference.network if reference is not None else None,
                best=self.best,
                storage=self.storage,
                log=self.log,
                stopwatch=stopwatch,
                found=found,
                built=self.start.built,
                following=following_training(stages, placed.index),
                trackers=self.trackers,
                begun=begun,
            )
            self.trackers.stage(stage_run.label)
            network = stage.run(flow.network, stage_run)
            stopwatch.save(every=0.0)
            step.finish(network, stage_run.notes)
            has_bar = stage.trains or stage.searches
            level = logging.DEBUG if has_bar else logging.INFO
            self.log.write(f"{stage_run.label}: done in {duration(stopwatch.seconds)}", level)
            # A network is always read back, so that a resumed run goes on with the very same tensors and layouts.
            done = step.load(self.task)
        network, notes = _there(done, step)
        after = Flow(network, key, (*flow.entries, Entry(label, notes, stage.searches)))
        if variant == RESULT and not stage.last:
            self._deliver(after, placed, fresh)
        return after

    def _take(self, planned: PlannedStep, step: StageStep, earlier: EarlierRun) -> None:
        """Copy a step that another run has computed, and the trials of its search."""
        label, variant = planned.place
        if planned.recorded:
            suffix = "" if variant == RESULT else f"/{variant}"
            theirs, own = (f"{run}/{label}{suffix}" for run in (earlier.name, self.config.name))
            if lost := take_study(earlier.folder, theirs, self.storage, own, planned.entered):
                self._warn(lost)
        earlier.take(step, label, variant, self.task)
        self.log.write(f"{label} ({variant}): taken over from {earlier.folder}", logging.DEBUG)

    def _warn(self, text: str) -> None:
        self.log.write(text, logging.WARNING)

    def _went_on(self, index: int) -> bool:
        """Return whether the run went on behind a step, so that the step's network must have been there."""
        later = {placed.step for placed in placed_stages(self.config) if placed.index > index}
        return self.ended or any((self.run_folder.checkpoints / step).exists() for step in later)

    def _deliver(self, flow: Flow, placed: PlacedStage, fresh: bool) -> None:
        """Put the network that left a stage behind a removal into ``best/``, unless it or a later stage's is there.

        Args:
            flow: The network.
            placed: The stage.
            fresh: Whether the stage was run by now, and not read from disk.
        """
        known = self.best.provenance()
        if not flow.removals():
            return
        if known is not None:
            later = int(known["step"].partition("-")[0]) - placed.index
            if later > 0 or (later == 0 and known.get("key") == flow.key):
                return
        search = flow.last_search()
        found = {name: search.notes[name] for name in ("trial", "fingerprint", "metrics")} if search is not None else {}
        if known is None and not fresh:
            self._warn(f"{self.best.path} is made from what {placed.step} left")
        self.best.replace(flow.network, {"step": placed.step, **found, "key": flow.key})

    def _seconds(self) -> list[dict[str, Any]]:
        """Return the wall-clock seconds of every stage: of the result, and of the baselines beside it."""
        stages = []
        for placed in placed_stages(self.config):
            folder = self.run_folder.checkpoints / placed.step
            seconds = {path.parent.name: Stopwatch.read(path, self._warn) for path in sorted(folder.glob(f"*/{SECONDS}"))}
            result = seconds.pop(RESULT, 0.0)
            row = {"name": placed.name, "seconds": result, "baseline_seconds": seconds}
            origin = origin_of(folder / RESULT, self._warn)
            stages.append({**row, "reused_from": origin} if origin else row)
        return stages


def _there(done: tuple[Network, dict[str, Any]] | None, step: StageStep) -> tuple[Network, dict[str, Any]]:
    if done is None:
        raise RunFolderError(f"{step.folder} was changed while the run was using it; run the same command again")
    return done
