import pytest
import safetensors.torch
import torch
from torch import nn

from evaluators.task import Task
from evaluators.tasks.classification import Classification
from evaluators.tasks.data import DataSettings
from evaluators.tasks.model_factory import ModelFactoryError, ModelSettings, WeightsError, build_model
from evaluators.tasks.settings import NamedData, OwnTaskSettings, TaskClassError, TaskSettings, build_task
from evaluators.tasks.small_images import CIFAR100, Digits, DigitsSettings
from spaces.errors import UnsupportedModelError
from spaces.registry import UnknownNameError
from tests.evaluators.small_task import digits_task

FACTORY = "spaces.networks.digits_cnn"


def task(factory=FACTORY, arguments=None, **options) -> Classification:
    return Classification(ModelSettings(factory, arguments or {"width": 4}, **options), Digits(DigitsSettings()))


def broken_factory(width):
    raise RuntimeError("no such width")


def not_a_network():
    return [1, 2]


def wrong_outputs():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def two_outputs():
    class Two(nn.Module):
        def forward(self, inputs):
            return inputs, inputs

    return Two()


class OwnTask(Task):
    """A task without anything but a name."""


class CompleteTask(Classification):
    def __init__(self, width: int) -> None:
        super().__init__(ModelSettings(FACTORY, {"width": width}), Digits(DigitsSettings()))


def test_score_and_loss():
    found = digits_task()
    logits, targets = torch.eye(10)[[3, 1, 2]] * 5, torch.tensor([3, 4, 2])
    assert found.score(logits, targets)["top1"].tolist() == [1.0, 0.0, 1.0]
    assert set(found.score(logits, targets)) == set(found.score_names) == {"top1"}
    torch.testing.assert_close(found.loss(logits, targets), nn.functional.cross_entropy(logits, targets))
    smooth = nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)
    torch.testing.assert_close(found.loss(logits, targets, 0.1), smooth)
    assert torch.equal(found.labels(targets), targets)


def test_top5_with_more_than_ten_classes():
    found = Classification(ModelSettings(FACTORY, {"classes": 100}), CIFAR100(DataSettings()))
    logits = torch.arange(100.0).repeat(3, 1)
    scores = found.score(logits, torch.tensor([99, 95, 94]))
    assert scores["top1"].tolist() == [1.0, 0.0, 0.0]
    assert scores["top5"].tolist() == [1.0, 1.0, 0.0]
    assert set(scores) == set(found.score_names)


def test_initial_weights_depend_on_init_seed_only():
    state = torch.get_rng_state()
    first, second, other = task().build(), task().build(), task(init_seed=1).build()
    assert torch.equal(first.classifier.weight, second.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert first.classifier.weight.data_ptr() != second.classifier.weight.data_ptr()
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_torch_checkpoints_of_every_shape_are_loaded(tmp_path, wrap, prefix):
    model = task(init_seed=5).build()
    torch.save(wrap({prefix + name: tensor for name, tensor in model.state_dict().items()}), tmp_path / "weights.pt")
    loaded = task(checkpoint=str(tmp_path / "weights.pt")).reference_model()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_safetensors_checkpoints_are_loaded(tmp_path):
    model = task(init_seed=5).build()
    safetensors.torch.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    loaded = task(checkpoint=str(tmp_path / "weights.safetensors")).reference_model()
    assert torch.equal(loaded.classifier.weight, model.classifier.weight)


def test_checkpoints_that_do_not_fit_are_named(tmp_path):
    file = tmp_path / "weights.pt"
    weights = task().build().state_dict()
    cases = [
        ({n: t for n, t in weights.items() if n != "classifier.bias"}, "missing: classifier.bias"),
        ({**weights, "extra": torch.zeros(1)}, "not in the network: extra"),
        ({**weights, "classifier.bias": torch.zeros(3)}, r"classifier.bias: the network has shape \(10,\), the file \(3,\)"),
        ({}, "expected a state dict of tensors"),
        ({"epoch": 3}, "keys epoch"),
    ]
    for content, message in cases:
        torch.save(content, file)
        with pytest.raises(WeightsError, match=message):
            task(checkpoint=str(file)).reference_model()


def test_checkpoints_that_cannot_be_read_are_named(tmp_path):
    pickled, text, tensors = tmp_path / "model.pt", tmp_path / "notes.pt", tmp_path / "w.safetensors"
    torch.save(task().build(), pickled)
    text.write_text("not weights")
    tensors.write_text("not weights either")
    for file, reason in ((pickled, "such as a whole module"), (text, "no file that torch.save wrote"), (tensors, "reading it")):
        with pytest.raises(WeightsError, match=f"expected plain weights.*{reason}"):
            task(checkpoint=str(file)).reference_model()
    with pytest.raises(WeightsError, match=f"there is no file {tmp_path}/none.pt"):
        task(checkpoint=str(tmp_path / "none.pt")).reference_model()


def test_factory_errors_are_named():
    with pytest.raises(UnknownNameError, match="did you mean 'digits_cnn'"):
        task("spaces.networks.digit_cnn").build()
    with pytest.raises(ModelFactoryError, match=r"called with \{'width': 4\} failed: RuntimeError: no such width"):
        task("tests.evaluators.tasks.test_classification.broken_factory").build()
    with pytest.raises(ModelFactoryError, match=r"\{'height': 4\} failed: TypeError.*check model.arguments"):
        task(arguments={"height": 4}).build()
    with pytest.raises(ModelFactoryError, match=r"expected it to return a torch.nn.Module, got a list"):
        Classification(
            ModelSettings("tests.evaluators.tasks.test_classification.not_a_network"), Digits(DigitsSettings())
        ).build()
    with pytest.raises(ModelFactoryError, match=r"sys.exit called with \{\} failed: SystemExit"):
        build_model(ModelSettings("sys.exit"))
    with pytest.raises(ModelFactoryError, match="expected a callable, got a str"):
        task("tests.evaluators.tasks.test_classification.FACTORY").build()


def test_a_network_that_does_not_answer_the_task_is_named():
    def reference(factory, **arguments):
        return Classification(ModelSettings(factory, arguments), Digits(DigitsSettings())).reference_model()

    with pytest.raises(UnsupportedModelError, match=r"expected logits of shape \(1, 10\).*got shape \(1, 3\)"):
        reference("tests.evaluators.tasks.test_classification.wrong_outputs")
    with pytest.raises(UnsupportedModelError, match="got a tuple"):
        reference("tests.evaluators.tasks.test_classification.two_outputs")
    with pytest.raises(UnsupportedModelError, match=r"batch of shape \(1, 1, 8, 8\) failed: RuntimeError"):
        reference(FACTORY, in_channels=3)


def test_fingerprint_follows_model_data_and_weights(tmp_path):
    file = tmp_path / "weights.pt"
    torch.save(task().build().state_dict(), file)
    first = task(checkpoint=str(file)).fingerprint
    torch.save(task(init_seed=1).build().state_dict(), file)
    second = task(checkpoint=str(file)).fingerprint
    others = [task().fingerprint, task(arguments={"width": 5}).fingerprint, task(init_seed=2).fingerprint]
    moved = Classification(ModelSettings(FACTORY, {"width": 4}), Digits(DigitsSettings(split_seed=1))).fingerprint
    assert len({first, second, moved, *others}) == 6
    assert task().fingerprint == task().fingerprint


def test_tasks_are_built_from_settings():
    built = build_task(TaskSettings(ModelSettings(FACTORY), NamedData("digits", DigitsSettings(search_size=7))))
    assert isinstance(built, Classification)
    assert built.size("search") == 7
    with pytest.raises(UnknownNameError, match="unknown data set 'digit'; did you mean 'digits'"):
        build_task(TaskSettings(ModelSettings(FACTORY), NamedData("digit", DigitsSettings())))


def test_own_task_classes_are_built_by_import_path():
    built = build_task(OwnTaskSettings("tests.evaluators.tasks.test_classification.CompleteTask", {"width": 4}))
    assert built.reference_model().classifier.in_features == 16
    with pytest.raises(TaskClassError, match=r"failed: TypeError.*abstract"):
        build_task(OwnTaskSettings("tests.evaluators.tasks.test_classification.OwnTask"))
    with pytest.raises(TaskClassError, match="expected a subclass"):
        build_task(OwnTaskSettings("spaces.networks.digits_cnn"))


def test_parts_of_batches_are_those_of_whole_ones_also_of_a_task_with_batches_of_its_own():
    task = digits_task(train_size=32)
    whole = list(task.batches("train", 8, torch.Generator().manual_seed(1)))
    parts = list(task.batch_rows("train", 8, torch.Generator().manual_seed(1), 2, 5))
    assert all(torch.equal(one[0][2:5], part[0]) for one, part in zip(whole, parts, strict=True))

    class Shifted(type(task)):
        def batches(self, *given):
            return [(inputs + 1, targets) for inputs, targets in super().batches(*given)]

    task.__class__ = Shifted
    again = list(task.batch_rows("train", 8, torch.Generator().manual_seed(1), 2, 5))
    assert all(torch.equal(one[0] + 1, other[0]) for one, other in zip(parts, again, strict=True))
