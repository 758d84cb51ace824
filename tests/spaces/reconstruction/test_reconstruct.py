from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spaces.channels.groups import find_groups
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.cloning.clone import clone
from spaces.execution.forward import call
from spaces.layers.batch_norm import measure_statistics, statistics_kept
from spaces.reconstruction import dense as outputs
from spaces.reconstruction import reconstruct as engine
from spaces.reconstruction.dense import DenseOutputs
from spaces.reconstruction.kept import kept_outputs
from spaces.reconstruction.reconstruct import LayerFit, Reconstruction
from spaces.reconstruction.settings import ReconstructionSettings
from spaces.reconstruction.structure import solved_weights
from tests.spaces.zoo import ZOO, example, network


def solved(solving: Reconstruction) -> list[LayerFit]:
    return [fit for fits in solving.solve() for fit in fits]


def reconstruct(
    model: nn.Module,
    small: nn.Module,
    kept: dict[str, Tensor],
    batches: list[Tensor],
    settings: ReconstructionSettings | None = None,
    seed: int = 0,
) -> list[LayerFit]:
    return solved(Reconstruction(DenseOutputs(model, batches, settings=settings, seed=seed), small, kept))


def draw(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cut(model: nn.Module, inputs: Tensor, share: float = 0.6, seed: int = 0) -> tuple[nn.Module, dict[str, Tensor]]:
    groups = find_groups(model, inputs[:1])
    rng = np.random.default_rng(seed)
    mask = np.concatenate([rng.permutation(np.arange(one.size) < max(1, share * one.size)) for one in groups.groups])
    plan = plan_cut(groups, mask)
    return apply_cut(model, plan).eval(), kept_outputs(model, [plan])


class Redundant(nn.Module):
    """The second half of the channels is a linear function of the first half, plus a constant."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.second = nn.Conv2d(8, 4, 3, bias=bias)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        with torch.no_grad():
            mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
            self.first.weight[4:] = torch.einsum("ij,jchw->ichw", mix, self.first.weight[:4])
            self.first.bias[4:] = torch.arange(4.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.second(self.first(x)))).mean((2, 3)))


@pytest.mark.parametrize("bias", [True, False])
def test_targets_that_the_inputs_span_are_recovered(bias: bool) -> None:
    model, inputs = Redundant(bias).double().eval(), draw(16, 3, 8, 8)
    groups = find_groups(model, inputs[:1], include=["first"])
    plan = plan_cut(groups, np.asarray([True] * 4 + [False] * 4))
    small = apply_cut(model, plan)
    before = float((small(inputs) - model(inputs)).detach().abs().max())
    reconstruct(model, small, kept_outputs(model, [plan]), [inputs], settings=ReconstructionSettings(damping=1e-12))
    assert float((small(inputs) - model(inputs)).detach().abs().max()) < 1e-6 * before


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, padding=1), (5, 3, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 2, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (4, 3, 7, 8)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (3, 2, 4, 3, 4)),
    "reflect": (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), (4, 2, 5, 5)),
    "same": (lambda: nn.Conv2d(2, 2, 4, padding="same", padding_mode="circular"), (4, 2, 5, 6)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (4, 4, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(3, 6, 3, groups=3), (4, 3, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1), (4, 3, 4, 4)),
    "transposed_groups": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2, dilation=2), (6, 4, 7)),
    "cropped": (lambda: nn.ConvTranspose2d(2, 2, 2, padding=1), (5, 2, 5, 5)),
    "linear": (lambda: nn.Linear(4, 3), (30, 4)),
    "tokens": (lambda: nn.Linear(4, 3), (5, 6, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_equals_a_direct_solution(name: str) -> None:
    make, shape = LAYERS[name]
    dense, inputs, damping = make().double().eval(), draw(*shape), 1e-2
    small = clone(dense)
    with torch.no_grad():
        for number, parameter in enumerate(small.parameters()):
            parameter += 0.3 * draw(*parameter.shape, seed=number)
    before = clone(small)
    reconstruct(dense, small, {}, [inputs[:2], inputs[2:]], settings=ReconstructionSettings(damping=damping, images=99))
    channel = -1 if isinstance(dense, nn.Linear) else 1

    def rows(module: nn.Module) -> Tensor:
        return module(inputs).detach().movedim(channel, -1).flatten(0, -2)

    columns = []
    for place in range(before.weight.numel()):
        basis = clone(before)
        with torch.no_grad():
            basis.bias.zero_()
            basis.weight.zero_().view(-1)[place] = 1.0
        columns.append(rows(basis))
    design, residuals = torch.stack(columns, 1), rows(dense) - rows(before)
    ridges = {}
    for output in range(residuals.shape[1]):
        felt = design[:, :, output].abs().amax(0) > 0
        x = design[:, felt, output]
        x = x - x.mean(0)
        r = residuals[:, output] - residuals[:, output].mean()
        ridges[output] = damping * x.square().sum(0).mean()
        extended = torch.cat([x, ridges[output].sqrt() * torch.eye(x.shape[1], dtype=torch.float64)])
        change = torch.linalg.lstsq(extended, torch.cat([r, torch.zeros(x.shape[1], dtype=torch.float64)])[:, None]).solution
        told = (small.weight - before.weight).detach().view(-1)[felt]
        torch.testing.assert_close(told, change[:, 0], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close((rows(dense) - rows(small)).mean(0), torch.zeros_like(residuals[0]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", list(ZOO))
def test_a_narrower_network_has_the_structure_that_was_traced_on_the_dense_one(name: str) -> None:
    model, inputs = network(name), example(name)
    small, _ = cut(model, inputs)
    outputs = DenseOutputs(model, [inputs])
    assert outputs.weights(small) == outputs.weights(outputs.model) == solved_weights(small, inputs, call)


def test_a_network_with_other_parameters_is_traced_itself() -> None:
    inputs = draw(4, 3, 8, 8)
    outputs, small = DenseOutputs(Redundant(bias=False).double(), [inputs]), Redundant(bias=True).double()
    assert outputs.weights(small) == solved_weights(small.eval(), inputs[:1], call)
    assert outputs.weights(small) != outputs.weights(outputs.model)


@pytest.mark.parametrize("name", list(ZOO))
def test_no_layer_is_further_from_its_targets_than_before(name: str) -> None:
    model = network(name).eval()
    inputs = torch.randn(24, *example(name).shape[1:], generator=torch.Generator().manual_seed(1))
    small, kept = cut(model, inputs)
    fits = reconstruct(model, small, kept, [inputs[:16], inputs[16:]])
    assert fits
    assert all(fit.after <= fit.before for fit in fits)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in small.state_dict().values())


def residual(settings: ReconstructionSettings | None = None, seed: int = 0) -> tuple[nn.Module, list[LayerFit]]:
    model = network("residual").eval()
    inputs = torch.randn(24, *example("residual").shape[1:], generator=torch.Generator().manual_seed(1))
    small, kept = cut(model, inputs)
    return small, reconstruct(model, small, kept, [inputs[:10], inputs[10:20], inputs[20:]], settings=settings, seed=seed)


def weights(model: nn.Module) -> list[Tensor]:
    return list(model.state_dict().values())


def test_the_same_seed_gives_the_same_bytes_and_another_one_others() -> None:
    settings = ReconstructionSettings(positions=64)
    first, second, other = (weights(residual(settings, seed)[0]) for seed in (0, 0, 1))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert not all(torch.equal(*pair) for pair in zip(first, other, strict=True))


@pytest.mark.parametrize("name", ["residual", "transposed"])
def test_one_pass_says_what_a_pass_for_each_layer_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(name).eval()
    inputs = torch.randn(24, *example(name).shape[1:], generator=torch.Generator().manual_seed(1))
    found = []
    for alone in (False, True):
        monkeypatch.setattr(Reconstruction, "_alone", lambda self, weight, alone=alone: alone or len(weight.calls) > 1)
        small, kept = cut(model, inputs)
        settings = ReconstructionSettings(positions=200)
        solving = Reconstruction(DenseOutputs(model, [inputs[:16], inputs[16:]], settings=settings), small, kept)
        passes = list(solving.solve())
        assert alone == all(len(fits) == 1 for fits in passes)
        found.append((small, [fit for fits in passes for fit in fits]))
    (once, fits), (often, others) = found
    assert [fit.layer for fit in fits] == [fit.layer for fit in others]
    for fit, other in zip(fits, others, strict=True):
        assert (fit.before, fit.after) == pytest.approx((other.before, other.after), rel=1e-3, abs=1e-9)
    assert sum(fit.after for fit in fits) < 0.9 * sum(fit.before for fit in fits)
    torch.testing.assert_close(once(inputs), often(inputs), rtol=1e-3, atol=1e-4)


def test_dense_outputs_are_drawn_once_for_all_smaller_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("residual").eval()
    inputs = torch.randn(24, *example("residual").shape[1:], generator=torch.Generator().manual_seed(1))
    passes: list[nn.Module] = []

    def forward(model: nn.Module, batch: Tensor) -> Tensor:
        if len(batch) > 1:
            passes.append(model)
        return model(batch)

    shared = DenseOutputs(model, [inputs], forward)
    for share in (0.6, 0.3):
        (first, kept), (second, _) = cut(model, inputs, share), cut(model, inputs, share)
        fits = solved(Reconstruction(shared, first, kept))
        assert fits == solved(Reconstruction(DenseOutputs(model, [inputs]), second, kept))
        assert all(torch.equal(*pair) for pair in zip(weights(first), weights(second), strict=True))
    assert sum(one is model for one in passes) == 1
    assert len(passes) == 3


@pytest.mark.parametrize("bound", ["AT_ONCE", "IN_PARTS"])
def test_samples_whose_activations_are_too_large_for_one_batch_come_in_parts(
    bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = network("residual").eval(), torch.randn(12, *example("residual").shape[1:])
    most = outputs.activation_bytes(model, inputs[:1], lambda model, batch: model(batch))
    monkeypatch.setattr(outputs, "AT_ONCE", 11 * most)
    parts = {"AT_ONCE": [7, 5], "IN_PARTS": [3, 3, 1, 3, 2]}[bound]
    monkeypatch.setattr(outputs, "IN_PARTS", (3 if bound == "IN_PARTS" else 7) * most)
    assert [len(batch) for batch in DenseOutputs(model, [inputs[:7], inputs[7:]]).batches] == parts
    monkeypatch.setattr(outputs, "AT_ONCE", 12 * most)
    (whole,) = DenseOutputs(model, [inputs[:7], inputs[7:]]).batches
    assert torch.equal(whole, inputs)


def test_samples_in_parts_take_a_dense_pass_for_each_window_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = network("residual").eval(), torch.randn(12, *example("residual").shape[1:])
    most = outputs.activation_bytes(model, inputs[:1], lambda model, batch: model(batch))
    monkeypatch.setattr(outputs, "AT_ONCE", 11 * most)
    monkeypatch.setattr(outputs, "IN_PARTS", 6 * most)
    passes: list[nn.Module] = []

    def forward(network: nn.Module, batch: Tensor) -> Tensor:
        if len(batch) > 1:  # The structure is traced on one sample.
            passes.append(network)
        answer: Tensor = network(batch)
        return answer

    found = []
    for bound, windows in ((outputs.MOST_BYTES, 1), (1, None)):
        for module in (engine, outputs):
            monkeypatch.setattr(module, "MOST_BYTES", bound)
        passes.clear()
        dense = DenseOutputs(model, [inputs], forward)
        assert len(dense.batches) == 2
        small, kept = cut(model, inputs, 0.5)
        passes.clear()
        fits = solved(Reconstruction(dense, small, kept))
        assert sum(one is model for one in passes) == 2 * (windows or len(fits))
        found.append((fits, weights(small)))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(*pair) for pair in zip(found[0][1], found[1][1], strict=True))


def test_more_samples_are_one_batch_on_a_device_with_memory_of_its_own() -> None:
    assert outputs.at_once(torch.device("cpu")) < outputs.at_once(torch.device("cuda")) == outputs.at_once(torch.device("mps"))


def test_windows_of_targets_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = residual()[0]
    for module in (engine, outputs):
        monkeypatch.setattr(module, "MOST_BYTES", 1)
    inputs = torch.randn(4, *example("residual").shape[1:])
    torch.testing.assert_close(whole(inputs), residual()[0](inputs), rtol=1e-3, atol=1e-4)


def test_blocks_of_columns_leave_smaller_residuals_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {fit.layer: fit for fit in residual()[1]}
    monkeypatch.setattr(engine, "LARGEST", 20)
    parts = residual()[1]
    by_layer = {name: [fit for fit in parts if fit.layer == name] for name in whole}
    assert any(len(fits) > 1 for fits in by_layer.values())
    for fits in by_layer.values():
        for first, second in pairwise(fits):
            assert second.before == pytest.approx(first.after, rel=1e-3)


def test_a_reconstruction_goes_on_behind_any_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MOST_BYTES", 60_000)
    model = network("residual").eval()
    inputs = torch.randn(24, *example("residual").shape[1:], generator=torch.Generator().manual_seed(1))
    small, kept = cut(model, inputs)
    solving = Reconstruction(DenseOutputs(model, [inputs]), small, kept)
    states = [({name: tensor.clone() for name, tensor in small.state_dict().items()}, fits) for fits in solving.solve()]
    assert sum(len(fits) for _, fits in states) == len(solving)
    assert 2 < len(states) < len(solving)
    for done in (1, len(states) // 2, len(states) - 1):
        again, _ = cut(model, inputs)
        resumed = Reconstruction(DenseOutputs(model, [inputs]), again, kept)
        again.load_state_dict(states[done - 1][0])
        assert list(resumed.solve(done)) == [fits for _, fits in states[done:]]
        assert all(torch.equal(*pair) for pair in zip(weights(small), weights(again), strict=True))


def test_statistics_stay_those_of_the_dense_network() -> None:
    small, _ = residual()
    found = {name: tensor.clone() for name, tensor in small.named_buffers()}
    measure_statistics(small, [torch.randn(8, *example("residual").shape[1:])], lambda model, batch: model(batch))
    assert all(torch.equal(found[name], tensor) for name, tensor in small.named_buffers())
    dense = network("residual").eval()
    norms = [(name, tensor) for name, tensor in found.items() if name.endswith("running_var")]
    assert norms
    assert all(set(tensor.tolist()) <= set(dense.get_buffer(name).tolist()) for name, tensor in norms)


def test_clones_keep_their_statistics_and_a_further_cut_opens_them() -> None:
    small, _ = residual()
    inputs = torch.randn(8, *example("residual").shape[1:], generator=torch.Generator().manual_seed(2))
    assert statistics_kept(clone(small))
    further, _ = cut(clone(small), inputs)
    assert not statistics_kept(further)
    before = {name: tensor.clone() for name, tensor in further.named_buffers()}
    measure_statistics(further, [inputs], lambda model, batch: model(batch))
    assert not all(torch.equal(before[name], tensor) for name, tensor in further.named_buffers())


class Stream(nn.Module):
    """A branch beside a stream that loses something in the small network."""

    def __init__(self, stream: float) -> None:
        super().__init__()
        self.register_buffer("stream", torch.tensor(stream))
        self.branch = nn.Conv2d(3, 3, 1, bias=False)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.branch(x))
        out += x * self.stream
        return torch.relu(out)


def test_the_last_layer_of_a_branch_makes_up_for_the_stream() -> None:
    dense, inputs = Stream(2.0).double().eval(), draw(8, 3, 4, 4)
    with torch.no_grad():
        dense.norm.running_var.copy_(torch.tensor([0.5, 2.0, 4.0]))
        dense.norm.weight.copy_(torch.tensor([1.0, -0.5, 2.0]))
    for sums in (True, False):
        small = clone(dense)
        small.stream.fill_(1.5)
        reconstruct(dense, small, {}, [inputs], settings=ReconstructionSettings(damping=1e-12, sums=sums))
        assert (float((small(inputs) - dense(inputs)).detach().abs().max()) < 1e-6) == sums


def test_a_layer_that_is_called_twice_is_solved_for_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(x), self.layer(x.square() + 1.0)

    dense, inputs = Twice().double().eval(), draw(40, 3)
    small = clone(dense)
    with torch.no_grad():
        small.layer.weight += 1.0
        small.layer.bias -= 1.0
    (fit,) = reconstruct(dense, small, {}, [inputs], settings=ReconstructionSettings(damping=1e-12))
    assert fit.after < 1e-12 * fit.before
    torch.testing.assert_close(small.layer.weight, dense.layer.weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(small.layer.bias, dense.layer.bias, rtol=0, atol=1e-6)


def test_inputs_that_say_nothing_change_nothing() -> None:
    dense = nn.Sequential(nn.Linear(3, 3, bias=False)).eval()
    small = clone(dense)
    with torch.no_grad():
        small[0].weight.add_(1.0)
    before = small[0].weight.clone()
    (fit,) = reconstruct(dense, small, {}, [torch.zeros(5, 3)])
    assert fit == LayerFit("0", 0.0, 0.0)
    assert torch.equal(small[0].weight, before)
