from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evaluators.accuracy import Accuracy, AccuracySettings
from evaluators.base import EvaluationContext
from evaluators.training.checkpoint import FileCheckpoint
from search.config import load as load_config
from search.export.saved_network import load
from search.pipeline.pipeline import run
from search.run.steps import StageStep
from search.stages import solving
from search.stages.search import finalists
from spaces.channels.surgery import Cut
from spaces.cloning.clone import clone
from spaces.execution.forward import call
from spaces.joint import Joint
from spaces.joint_settings import JointSettings
from spaces.layers.batch_norm import keep_statistics, statistics_kept
from spaces.reconstruction import dense as outputs
from spaces.reconstruction.block_fit import BlockReconstruction
from spaces.reconstruction.reconstruct import Reconstruction
from spaces.reconstruction.settings import ReconstructionSettings
from tests.integration.stage_pieces import HEAD

pytestmark = pytest.mark.usefixtures("no_pictures_in_module")

SEARCH = (
    "search: {space: {name: channel_mask}, algorithm: {name: random, evaluations: 4}, "
    "evaluate: [{accuracy: {batch_norm_batches: 1}}, cost], objectives: {top1: maximize}, "
    'target: {macs: "<= 40%"}, batch: 4, baselines: [uniform, dense_same_training], '
)
TRAIN = "  - train: {epochs: 3, batch_size: 50, optimizer: {name: sgd, lr: 0.05}}\n"


def done(folder: Path, stages: str) -> dict[str, Any]:
    folder.mkdir(parents=True)
    (folder / "tiny.yaml").write_text(HEAD + TRAIN + stages)
    return run(load_config(folder / "tiny.yaml"), folder / "run")


def of(folder: Path, step: str, variant: str = "result") -> tuple[nn.Module, dict[str, Any]]:
    config = load_config(folder / "tiny.yaml")
    found = StageStep(folder / "run" / "checkpoints" / step / variant, "").load(config.build_task())
    assert found is not None
    return found[0].model, found[1]


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.named_buffers()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reconstruct")
    done(folder / "key", f"  - {SEARCH}reconstruct: {{images: 150}}}}\n")
    done(folder / "stage", f"  - {SEARCH}reconstruct: false}}\n  - reconstruct: {{images: 200, steps: 20}}\n")
    return folder


def test_result_and_baselines_are_solved_and_keep_their_statistics(folders: Path) -> None:
    dense, _ = of(folders / "key", "0-train")
    for variant in ("result", "uniform"):
        model, notes = of(folders / "key", "1-search", variant)
        fits = notes["reconstruction"]
        assert fits
        assert all(fit["after"] <= fit["before"] for fit in fits)
        assert sum(fit["after"] for fit in fits) < 0.8 * sum(fit["before"] for fit in fits)
        assert statistics_kept(model)
        variances = {name: tensor for name, tensor in statistics(model).items() if name.endswith("running_var")}
        assert variances
        # Slices of the dense network's: nothing has measured them again, the evaluator accuracy among others.
        assert all(set(tensor.tolist()) <= set(dense.get_buffer(name).tolist()) for name, tensor in variances.items())


def test_the_dense_baseline_passes_the_stage_as_it_is(folders: Path) -> None:
    dense, _ = of(folders / "stage", "0-train")
    passed, notes = of(folders / "stage", "2-reconstruct", "dense_same_training")
    assert "reconstruction" not in notes
    assert same(dict(dense.state_dict()), dict(passed.state_dict()))
    assert of(folders / "stage", "2-reconstruct", "uniform")[1]["reconstruction"]


def test_the_network_that_is_read_back_keeps_its_statistics(folders: Path) -> None:
    for kind in ("key", "stage"):
        config = load_config(folders / kind / "tiny.yaml")
        model = load(folders / kind / "run", config.build_task().build)
        before = statistics(model)
        task = config.build_task()
        context = EvaluationContext(task, torch.Generator(), torch.device("cpu"), 1.0, model, {})
        Accuracy(AccuracySettings(batch_norm_batches=2)).evaluate(model, context)
        assert same(before, statistics(model))


def test_a_reconstruction_that_was_cut_off_ends_the_same(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killing(solve: Any) -> Any:
        def solves(*args: Any, **options: Any) -> Any:
            for number, fits in enumerate(solve(*args, **options)):
                yield fits
                if number == 0:
                    raise Killed

        return solves

    stages = f"  - {SEARCH}reconstruct: false}}\n  - reconstruct: {{images: 200, steps: 20}}\n"
    left = tmp_path / "stage" / "run" / "checkpoints" / "2-reconstruct" / "result" / "reconstruction"
    with monkeypatch.context() as patch:
        patch.setattr(solving, "EVERY", 0.0)
        patch.setattr(Reconstruction, "solve", killing(Reconstruction.solve))
        with pytest.raises(Killed):
            done(tmp_path / "stage", stages)
    assert [path.name for path in left.iterdir()] == ["network.safetensors"]
    with monkeypatch.context() as patch:
        patch.setattr(BlockReconstruction, "solve", killing(BlockReconstruction.solve))
        with pytest.raises(Killed):
            run(load_config(tmp_path / "stage" / "tiny.yaml"), tmp_path / "stage" / "run")
    assert {path.name for path in left.iterdir()} == {"network.safetensors", "network-blocks.safetensors"}
    run(load_config(tmp_path / "stage" / "tiny.yaml"), tmp_path / "stage" / "run")
    assert not left.exists()
    for variant in ("result", "uniform"):
        (first, told), (second, again) = (of(folder / "stage", "2-reconstruct", variant) for folder in (folders, tmp_path))
        assert same(dict(first.state_dict()), dict(second.state_dict()))
        assert told["blocks"] == again["blocks"]


def test_blocks_are_trained_for_result_and_baselines_and_reported(folders: Path) -> None:
    for variant in ("result", "uniform"):
        model, notes = of(folders / "stage", "2-reconstruct", variant)
        assert [fit["block"] for fit in notes["blocks"]["fits"]]
        assert any(fit["kept"] for fit in notes["blocks"]["fits"])
        assert notes["blocks"]["kept"] == (notes["blocks"]["after"] < notes["blocks"]["before"])
        assert statistics_kept(model)
    assert of(folders / "stage", "2-reconstruct", "uniform")[1]["blocks"]["kept"]
    report = json.loads((folders / "stage" / "run" / "report.json").read_text())
    (found,) = report["blocks"]
    assert found["stage"] == "2-reconstruct"
    assert f"2-reconstruct: {found['text']}" in report["remarks"]
    assert "trained blocks are nearer to the dense ones" in found["text"]
    assert "blocks" not in of(folders / "key", "1-search")[1]


def test_a_network_without_blocks_says_so(tmp_path: Path) -> None:
    dense = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    told: list[str] = []

    class Quiet:
        def update(self, done: int, note: str = "") -> None: ...

    log = SimpleNamespace(bar=lambda *_: nullcontext(Quiet()), write=told.append)
    stopwatch = SimpleNamespace(save=lambda: None)
    stage: Any = SimpleNamespace(
        training=lambda *names: FileCheckpoint(tmp_path.joinpath(*names)), log=log, label="here", stopwatch=stopwatch
    )
    small = clone(dense)
    fitting = BlockReconstruction(dense, small, [], [torch.randn(8, 1, 8, 8)], call, steps=3, seed=0)
    rest = Reconstruction(outputs.DenseOutputs(dense, []), small, {})
    notes = solving.fit_blocks(fitting, rest, small, stage, "network")
    assert notes["text"] == "no blocks with a nonlinearity inside were trained: it has none"
    assert told == [f"here: {notes['text']}"]
    assert same(dict(dense.state_dict()), dict(small.state_dict()))


def test_a_check_tells_up_to_how_many_samples_a_pass_solves_many_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.yaml").write_text(HEAD + TRAIN)
    task, told = load_config(tmp_path / "tiny.yaml").build_task(), []
    check: Any = SimpleNamespace(task=task, device=torch.device("cpu"), tell=told.append, seconds=[])
    solving.tell_costs(task.build(), task.build(), check, ReconstructionSettings(images=40))
    assert len(told) == 1
    solving.tell_costs(task.build(), task.build(), check, ReconstructionSettings(images=40, steps=5))
    assert told.pop() == "reconstruction: trains 1 block, for 5 steps each"
    assert told.pop().startswith("reconstruction: about")
    of_one = outputs.activation_bytes(task.build(), task.traced_inputs(), task.forward)
    monkeypatch.setattr(outputs, "AT_ONCE", int(30.5 * of_one))
    solving.tell_costs(task.build(), task.build(), check, ReconstructionSettings(images=40))
    assert len(told) == 3
    assert "a pass over its 40 samples; with images: 30 or fewer" in told[2]
    assert [what for what, _ in check.seconds] == ["reconstruction of 1 network"] * 3


PRUNING = "sparsifier: {name: probabilistic, macs: 0.5, largest: 0.5, share: 1.0}, epochs: 1, batch_size: 50"


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 8])
def test_a_training_that_removes_channels_ends_with_solved_layers(epochs: int, tmp_path: Path) -> None:
    pruning = PRUNING.replace("epochs: 1", f"epochs: {epochs}")
    done(tmp_path / "own", f"  - sparse_training: {{{pruning}, reconstruct: {{images: 150}}}}\n")
    model, notes = of(tmp_path / "own", "1-sparse_training")
    assert notes["removed"]["equivalence_error"] < 1e-4
    fits = notes["reconstruction"]
    assert sum(fit["after"] for fit in fits) < sum(fit["before"] for fit in fits)
    assert statistics_kept(model)
    before = statistics(model)
    task = load_config(tmp_path / "own" / "tiny.yaml").build_task()
    Accuracy(AccuracySettings(batch_norm_batches=2)).evaluate(
        model, EvaluationContext(task, torch.Generator(), torch.device("cpu"), 1.0, model, {})
    )
    assert same(before, statistics(model))


@pytest.mark.slow
def test_a_removal_that_changes_nothing_is_not_solved(tmp_path: Path) -> None:
    cut = "sparsifier: {name: gradient_cut, macs: 0.6, importance: l1}, epochs: 3, batch_size: 50"
    done(tmp_path / "own", f"  - sparse_training: {{{cut}, optimizer: {{name: sgd, lr: 0.05}}}}\n")
    model, notes = of(tmp_path / "own", "1-sparse_training")
    assert notes["removed"]["output_change"] is not None
    assert "reconstruction" not in notes
    assert not statistics_kept(model)
    assert "there is nothing to solve for" in (tmp_path / "own" / "run" / "log.txt").read_text()


@pytest.mark.slow
def test_finalists_are_solved_before_they_are_trained(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense, _ = of(folders / "key", "0-train")
    starts: list[nn.Module] = []

    def training(model: nn.Module, *args: Any, **options: Any) -> Any:
        starts.append(clone(model))
        return train(model, *args, **options)

    train = finalists.train
    monkeypatch.setattr(finalists, "train", training)
    one = "finalists: {count: 1, training: {epochs: 1, batch_size: 50, optimizer: {name: sgd, lr: 0.05}}}"
    done(tmp_path / "run", f"  - {SEARCH}reconstruct: {{images: 150}}, {one}}}\n".replace("uniform, dense_same_training", ""))
    (start,) = starts
    assert statistics_kept(start)
    variances = {name: tensor for name, tensor in statistics(start).items() if name.endswith("running_var")}
    assert all(set(tensor.tolist()) <= set(dense.get_buffer(name).tolist()) for name, tensor in variances.items())
    solved, _ = of(folders / "key", "1-search")
    assert same(dict(start.state_dict()), dict(solved.state_dict()))


def test_a_joint_network_is_solved_before_it_is_rounded() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.Flatten(), nn.Linear(80, 3))
    inputs = torch.randn(8, 1, 8, 8)
    space = Joint(model.eval(), inputs[:1], JointSettings(), batches=[inputs])
    seen: list[tuple[nn.Module, dict[str, Tensor]]] = []

    def solve(small: nn.Module, cut: Cut) -> None:
        assert cut.kept
        with torch.no_grad():
            for parameter in small.parameters():
                parameter.zero_()
        keep_statistics(small)
        seen.append((small, statistics(small)))

    candidate = space.cheapest()
    made = space.reconstruct(model, candidate, solve)
    assert not made(inputs).any()
    assert space.realize(model, candidate)(inputs).any()
    ((small, before),) = seen
    assert same(before, statistics(small))
    whole = space.starting_points()[0]
    assert np.allclose(
        space.reconstruct(model, whole, solve)(inputs).numpy(force=True), space.realize(model, whole)(inputs).numpy(force=True)
    )
    assert len(seen) == 1
