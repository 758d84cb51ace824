"""Features are compared with the dense network's on the channels that a network still has."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from evaluators.training.errors import TrainingError
from evaluators.training.features import FeatureDistance, FeatureSettings
from evaluators.training.loop import train
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.settings import DistillationSettings, TrainingSettings
from spaces.channels.groups import find_groups
from spaces.channels.masking import masked_copy
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.errors import UnsupportedModelError
from spaces.execution.forward import call
from spaces.networks import digits_cnn
from tests.evaluators.small_task import digits_task

CPU = torch.device("cpu")
BLOCK, LAYERS = "features.7", ("features.1", "features.7", "features.9")
STEP = TrainingSettings(
    epochs=1, batch_size=64, optimizer=OptimizerSettings(lr=0.1), schedule="constant", warmup=0.0, autocast="off"
)


def dense_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return digits_cnn(width=4).eval()


def cut_network(model, share=0.5):
    """Return a network without the last channels of every group, its cut, and the network in which they have no effect."""
    groups = find_groups(model, torch.randn(1, 1, 8, 8))
    mask = np.ones(groups.width, dtype=bool)
    for group in groups.groups:
        mask[group.offset : group.offset + round(share * group.size)] = False
    cut = plan_cut(groups, mask)
    return apply_cut(model, cut).eval(), cut, masked_copy(model, groups, mask).eval(), mask, groups


def distance_of(own, taught, settings, cuts, batch):
    distance = FeatureDistance(own, taught, settings, cuts, batch, call)
    with distance.watching(), torch.no_grad():
        own(batch)
        taught(batch)
        return distance, float(distance.take())


def outputs(model, names, batch):
    found = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda module, args, output, name=name: found.update({name: output}))
    with torch.no_grad():
        model(batch)
    return found


def test_the_distance_is_that_of_the_kept_channels_relative_to_the_dense_ones():
    dense, batch = dense_network(), torch.randn(16, 1, 8, 8)
    small, cut, masked, mask, groups = cut_network(dense)
    distance, found = distance_of(small, dense, FeatureSettings(layers=LAYERS), [cut], batch)
    assert distance.names == LAYERS
    members = {name: next(g for g in groups.groups if name in (g.name, *g.members)) for name in ("features.1", "features.9")}
    members[BLOCK] = next(g for g in groups.groups if "features.7.bn2" in g.members)
    wanted, expected = outputs(dense, LAYERS, batch), []
    own = outputs(masked, LAYERS, batch)
    for name in LAYERS:
        group = members[name]
        kept = torch.from_numpy(mask[group.offset : group.offset + group.size])
        error = (own[name] - wanted[name])[:, kept].square().mean() / wanted[name][:, kept].square().mean()
        expected.append(float(error))
    assert found == pytest.approx(np.mean(expected), rel=1e-5)
    assert max(expected) > 0.01
    # A network whose removed channels are there, without effect, is compared on the same ones.
    assert distance_of(masked, dense, FeatureSettings(layers=LAYERS), [cut], batch)[1] == pytest.approx(found, rel=1e-5)
    assert distance_of(dense_network(), dense, FeatureSettings(), (), batch)[1] == 0.0


def test_blocks_are_compared_where_no_layers_are_named():
    dense, batch = dense_network(), torch.randn(4, 1, 8, 8)
    small, cut, *_ = cut_network(dense)
    assert distance_of(small, dense, FeatureSettings(), [cut], batch)[0].names == (BLOCK,)


def left_network():
    """Return a task, its dense network, and what a cut left of it."""
    task = digits_task("spaces.networks.digits_cnn", 128, width=4)
    dense = dense_network()
    small, cut, *_ = cut_network(dense)
    return task, dense, small, cut


def test_the_loss_has_the_distance_by_its_weight():
    losses = []
    for features in (None, FeatureSettings(), FeatureSettings(3.0)):
        task, dense, small, cut = left_network()
        settings = replace(STEP, batch_size=128, distillation=DistillationSettings(0.3, features=features))
        losses.append(train(small, task, settings, seed=0, device=CPU, teacher=dense, cuts=[cut]).epochs[0].loss)
    without, one, three = losses
    assert one - without > 0.01
    assert three - without == pytest.approx(3 * (one - without), rel=1e-4)


def test_the_distance_of_a_batch_is_the_mean_of_its_parts():
    dense, batch = dense_network(), torch.randn(16, 1, 8, 8)
    small, cut, *_ = cut_network(dense)
    distance, whole = distance_of(small, dense, FeatureSettings(), [cut], batch)
    parts = []
    with distance.watching(), torch.no_grad():
        for rows in batch.split(4):
            small(rows)
            dense(rows)
            parts.append(float(distance.take()))
    assert np.mean(parts) == pytest.approx(whole, rel=1e-5)
    assert not dense.get_submodule(BLOCK)._forward_hooks


def test_features_are_pulled_towards_the_dense_ones():
    found = []
    for features in (None, FeatureSettings()):
        task, dense, small, cut = left_network()
        distillation = DistillationSettings(0.0, features=features)
        settings = replace(STEP, epochs=4, optimizer=OptimizerSettings(lr=0.01), distillation=distillation)
        train(small, task, settings, seed=0, device=CPU, teacher=dense, cuts=[cut])
        batch, _ = next(iter(task.batches("search", 64)))
        found.append(distance_of(small, dense, FeatureSettings(), [cut], batch)[1])
    assert found[1] < 0.7 * found[0]


@pytest.mark.parametrize(
    ("layers", "cuts", "error", "message"),
    [
        (("features.77",), True, UnsupportedModelError, r"'features.77' matches no layer.*nearest"),
        (("features.7.shortcut", BLOCK), False, TrainingError, r"outputs of features.7 can't be compared"),
        (None, False, TrainingError, "no block of this network can be compared"),
    ],
)
def test_what_can_not_be_compared_is_named(layers, cuts, error, message):
    dense = dense_network()
    small, cut, *_ = cut_network(dense)
    with pytest.raises(error, match=message):
        FeatureDistance(small, dense, FeatureSettings(layers=layers), [cut] if cuts else (), torch.randn(2, 1, 8, 8), call)


@pytest.mark.parametrize(
    ("options", "message"), [({"weight": 0.0}, "^weight: expected"), ({"layers": ()}, "^layers: expected name patterns")]
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        FeatureSettings(**options)
