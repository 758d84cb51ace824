import subprocess
import sys

import pytest
import torch
from torch import nn

from evaluators.training.loop import TrainingError
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.ranks import Ranks, _Normalized, drawing_layers, require_ranks
from evaluators.training.settings import TrainingSettings
from tests.evaluators.training.ranks_apart import CASES, trained
from tests.paths import REPOSITORY


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """Return the folder of what two ranks have saved, and what each has at the end, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    places = [str(folder / "store"), str(folder / "result")]
    command = [sys.executable, "-m", "tests.evaluators.training.ranks_apart"]
    ranks = [subprocess.Popen([*command, str(rank), "2", *places], cwd=REPOSITORY) for rank in (0, 1)]
    assert [process.wait(900) for process in ranks] == [0, 0]
    return folder, [torch.load(folder / f"result.{rank}") for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_train_the_network_of_one(of_two, name):
    folder, (first, second) = of_two[0], (found[name] for found in of_two[1])
    one = trained(name, Ranks())
    assert any(key.startswith("kept") and not mask.all() for key, mask in one.items()) is any(
        word in name for word in ("cut", "probabilities", "exploration")
    )
    for key, expected in one.items():
        torch.testing.assert_close(first[key], expected, rtol=1e-8, atol=1e-8)
        assert torch.equal(first[key], second[key])
    # What two ranks have saved is the end of the same training for one.
    again = trained(name, Ranks(), folder / f"result {name}.state")
    assert all(torch.equal(again[key], first[key]) for key in one)


def test_normalization_by_sums_is_that_of_torch():
    inputs = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    outputs, mean, variance, count = _Normalized.apply(inputs, 1e-5, Ranks())
    expected = nn.functional.batch_norm(inputs, None, None, training=True)
    torch.testing.assert_close(outputs, expected)
    weights = torch.randn_like(outputs)
    (own,), (wanted,) = (torch.autograd.grad((one * weights).sum(), inputs) for one in (outputs, expected))
    torch.testing.assert_close(own, wanted)
    assert int(count) == 20
    torch.testing.assert_close(variance, inputs.detach().var((0, 2), correction=0))
    torch.testing.assert_close(mean, inputs.detach().mean((0, 2)))


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        ({"batch_size": 64}, 3, "batch_size: expected a multiple of the 3 training workers.*got 64; the nearest is 63"),
        ({"batch_size": 2}, 4, "batch_size: .*got 2; the nearest is 4"),
        ({"batch_size": 4, "batch_norm": "per_rank"}, 4, "batch_size: .*the nearest is 8"),
        ({"batch_size": 64, "shards": 2}, 4, "shards: expected a multiple of the 4 training workers, got 2; the nearest is 4"),
    ],
)
def test_sizes_that_ranks_do_not_divide_are_named(options, size, message):
    with pytest.raises(TrainingError, match=message):
        require_ranks(TrainingSettings(epochs=1, optimizer=OptimizerSettings(), **options), size)


def test_batch_norm_and_shards_belong_together():
    with pytest.raises(ValueError, match="^batch_norm: expected shards exactly"):
        TrainingSettings(epochs=1, batch_norm="shards")
    with pytest.raises(ValueError, match="^batch_norm: expected shards exactly"):
        TrainingSettings(epochs=1, shards=2, batch_norm="per_rank")


def test_layers_that_draw_are_named():
    drawing = nn.ModuleDict(
        {
            "one": nn.Sequential(nn.Linear(2, 2), nn.Dropout2d(0.1)),
            "none": nn.Dropout(0.0),
            "heads": nn.MultiheadAttention(4, 2, dropout=0.1),
            "still": nn.MultiheadAttention(4, 2),
            "rows": nn.LSTM(2, 2, 2, dropout=0.3),
            "noisy": nn.RReLU(),
        }
    )
    assert drawing_layers(drawing) == ["one.1", "heads", "rows", "noisy"]
