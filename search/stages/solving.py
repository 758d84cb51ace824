"""Reconstruction of a network in a stage: layers solved, and blocks trained, against those of the network that was cut."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import count
from typing import Any

from torch import nn

from search.output.numbers import format_percent
from search.run.stage_run import DENSE, DryRun, StageRun
from search.run.steps import RECONSTRUCTION
from spaces.base import Solve
from spaces.channels.surgery import Cut
from spaces.execution.batch import Nested, to_device
from spaces.reconstruction.block_fit import BlockReconstruction
from spaces.reconstruction.dense import DenseOutputs
from spaces.reconstruction.estimate import estimate
from spaces.reconstruction.kept import kept_outputs
from spaces.reconstruction.reconstruct import Reconstruction
from spaces.reconstruction.settings import ReconstructionSettings

BATCH = 64
"""Samples of a forward pass."""

EVERY = 10.0
"""Seconds between two writings of what is solved so far."""


def tell_costs(
    dense: nn.Module, small: nn.Module, run: DryRun, settings: ReconstructionSettings, baselines: Sequence[str] = ()
) -> None:
    """Tell, in a check, about how long a reconstruction takes and how much memory it needs at most.

    Args:
        dense: The network that channels are cut from.
        small: A network with as many channels as those that will be solved.
        run: What a check may use.
        settings: Options.
        baselines: Baselines that are solved, too.
    """
    task = run.task
    samples = task.size(task.calibration_split)
    found = estimate(
        dense.to(run.device).eval(),
        small.to(run.device).eval(),
        to_device(task.traced_inputs(), run.device),
        task.forward,
        settings,
        samples,
    )
    networks = 1 + sum(name != DENSE for name in baselines)
    run.seconds.append((f"reconstruction of {networks} network{'s' if networks > 1 else ''}", networks * found.seconds))
    run.tell(f"reconstruction: about {found.seconds:.0f} s and {found.bytes / 2**20:.0f} MB for every network")
    if settings.steps:
        several = f"{found.blocks} block{'s' if found.blocks > 1 else ''}, for {settings.steps} steps each"
        blocks = several if found.blocks else "no block, for the network has none"
        run.tell(f"reconstruction: trains {blocks}")
    if 2 <= found.fitting < min(samples, settings.images):
        run.tell(
            f"reconstruction: every layer takes a pass over its {min(samples, settings.images)} samples; "
            f"with images: {found.fitting} or fewer, a pass solves many layers"
        )


def solver(dense: nn.Module, run: StageRun, settings: ReconstructionSettings, name: str, before: Sequence[Cut] = ()) -> Solve:
    """Return what solves the layers of a smaller network against those of ``dense``, in place.

    A reconstruction that was cut off goes on behind the last pass that it has written.

    Args:
        dense: The network that channels are cut from.
        run: What the stage may use; its notes get ``reconstruction``, what the solution of every layer has left, and where
            blocks are trained ``blocks``, what came of it.
        settings: Options.
        name: Name of the checkpoint.
        before: Cuts between ``dense`` and the network that the smaller one is cut from, in order.
    """

    def solve(small: nn.Module, cut: Cut) -> None:
        solve_layers(dense, small, [*before, cut], run, settings, name)

    return solve


def solve_layers(
    dense: nn.Module, small: nn.Module, cuts: Sequence[Cut], run: StageRun, settings: ReconstructionSettings, name: str
) -> None:
    """Solve the layers of ``small``, which ``cuts`` have left of ``dense``, in place; other arguments of :func:`solver`."""

    def drawn() -> tuple[list[Nested], DenseOutputs]:
        found = run.task.batches(run.task.calibration_split, BATCH, limit=settings.images)
        batches = [to_device(inputs, run.device) for inputs, _ in found]
        return batches, DenseOutputs(dense.to(run.device).eval(), batches, run.task.forward, settings, run.seed)

    # Baselines and steps of a bisection share the dense passes, half of the work. The outputs hold the network, and its id.
    batches, outputs = run.built.get(run.step, ("dense outputs", id(dense), settings), drawn)
    kept = kept_outputs(dense, cuts)
    small.to(run.device).eval()
    run.notes["reconstruction"] = _solve(Reconstruction(outputs, small, kept), small, run, name)
    if settings.steps:
        fitting = BlockReconstruction(dense, small, cuts, batches, run.task.forward, settings.steps, run.seed)
        rest = Reconstruction(outputs, small, kept, without=fitting.blocks)
        run.notes["blocks"] = fit_blocks(fitting, rest, small, run, name)


def _solve(solving: Reconstruction, small: nn.Module, run: StageRun, name: str) -> list[Mapping[str, Any]]:
    """Solve layers of ``small`` in place behind the last pass that was written, and return what each has left."""
    checkpoint = run.training(RECONSTRUCTION, f"{name}.safetensors")
    passes: list[list[Mapping[str, Any]]] = []
    known = checkpoint.load()
    if known is not None:
        small.load_state_dict(known[0])
        passes = list(known[1]["passes"])
    saved = time.monotonic()
    solved = sum(map(len, passes))
    with run.log.bar(f"{run.label}: reconstruction", len(solving)) as bar:
        bar.update(solved)
        numbers = count(solved + 1)
        for fits in solving.solve(len(passes), lambda fit: bar.update(next(numbers), fit.layer)):
            passes.append([asdict(fit) for fit in fits])
            solved += len(fits)
            if solved == len(solving) or time.monotonic() - saved >= EVERY:
                checkpoint.save(small.state_dict(), {"passes": passes})
                saved = time.monotonic()
            run.stopwatch.save()
    return [fit for fits in passes for fit in fits]


def fit_blocks(
    fitting: BlockReconstruction, rest: Reconstruction, small: nn.Module, run: StageRun, name: str
) -> dict[str, Any]:
    """Train the blocks of ``small``, whose layers are solved, in place, solve what is in none again, and return the notes.

    A training that was cut off goes on behind the last block that it has written.

    Args:
        fitting: The blocks of ``small``.
        rest: The layers outside of all blocks.
        small: The network.
        run: What the stage may use.
        name: Name of the checkpoint.
    """
    checkpoint = run.training(RECONSTRUCTION, f"{name}-blocks.safetensors")
    fits: list[Mapping[str, Any]] = []
    known = checkpoint.load()
    if known is not None:
        small.load_state_dict(known[0])
        fits = list(known[1]["blocks"])
    with run.log.bar(f"{run.label}: blocks", len(fitting)) as bar:
        bar.update(len(fits) * fitting.steps)
        places = {block: place * fitting.steps for place, block in enumerate(fitting.blocks)}
        for fit in fitting.solve(len(fits), lambda block, step: bar.update(places[block] + step, block)):
            fits.append(asdict(fit))
            checkpoint.save(small.state_dict(), {"blocks": fits})
            run.stopwatch.save()
    notes: dict[str, Any] = {"fits": fits, "unmatched": list(fitting.unmatched)}
    if fits:
        _solve(rest, small, run, f"{name}-rest")
        change = fitting.conclude()
        notes |= {**asdict(change), "kept": change.kept}
    notes["text"] = _block_text(notes)
    run.log.write(f"{run.label}: {notes['text']}")
    return notes


def _block_text(notes: Mapping[str, Any]) -> str:
    """Return what came of the training of blocks, by its notes, in words."""
    fits, unmatched = notes["fits"], notes["unmatched"]
    if not fits:
        why = f"those of {', '.join(unmatched)} can't be compared with the dense network's" if unmatched else "it has none"
        return f"no blocks with a nonlinearity inside were trained: {why}"
    before, after = (format_percent(notes[key]) for key in ("before", "after"))
    kept = sum(fit["kept"] for fit in fits)
    outcome = "" if notes["kept"] else ", so that the network stays as solved by least squares"
    return (
        f"{kept} of {len(fits)} trained blocks are nearer to the dense ones; the squared difference of the network's outputs "
        f"on held-back samples is {after} of the dense ones' squares, {before} before{outcome}"
    )
