"""Answers of a classifier, sample by sample, and the samples on which they changed."""

from __future__ import annotations

import base64

import pytest
import torch

from evaluators.tasks.answers import MOST_PICTURES, MOST_PIXELS, Answers, small_picture
from evaluators.tasks.measure import measure_with_errors
from tests.evaluators.small_task import digits_task


def test_answers_are_those_that_were_scored_and_change_against_another_networks() -> None:
    task = digits_task()
    first, second = (task.build().eval() for _ in range(2))
    for seed, network in enumerate((first, second)):
        torch.nn.init.normal_(network.get_parameter("classifier.weight"), generator=torch.Generator().manual_seed(seed))
    before = Answers(task)
    scores = measure_with_errors(first, task, "search", batch_size=32, answers=before).values
    right = [label == guess for label, guess in zip(before.labels, before.guesses, strict=True)]
    assert sum(right) / len(right) == pytest.approx(scores["top1"])
    assert len(right) == task.size("search")
    assert before.samples == []
    after = Answers(task, before.guesses)
    measure_with_errors(second, task, "search", batch_size=64, answers=after)
    assert after.labels == before.labels
    assert after.samples
    for sample in after.samples:
        index = sample["index"]
        assert (before.guesses[index], after.guesses[index], after.labels[index]) == (
            sample["before"],
            sample["after"],
            sample["label"],
        )
        assert sample["before"] != sample["after"]
        assert sample["label"] in (sample["before"], sample["after"])
        assert sample["picture"]["height"] == 8
    became_right = [sample["after"] == sample["label"] for sample in after.samples]
    assert became_right.count(True) <= MOST_PICTURES["right"]
    assert became_right.count(False) <= MOST_PICTURES["wrong"]


def test_the_same_network_changes_no_answer_and_a_task_without_labels_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    task = digits_task()
    inputs, targets = next(iter(task.batches("search", 10)))
    outputs = torch.eye(10)
    answers = Answers(task, list(range(10)))
    answers.add(inputs, outputs, targets)
    assert answers.guesses == list(range(10))
    assert answers.samples == []
    monkeypatch.setattr(task, "labels", lambda targets: None)
    without = Answers(task)
    without.add(inputs, outputs, targets)
    assert without.to_json() is None


def test_one_number_a_sample_is_a_yes_or_no() -> None:
    answers = Answers(digits_task())
    answers.add(torch.zeros(3, 4), torch.tensor([[-1.0], [0.5], [2.0]]), torch.tensor([0, 1, 0]))
    assert answers.guesses == [0, 1, 1]


def test_a_picture_is_small_and_stretched_over_all_values() -> None:
    picture = small_picture({"image": torch.linspace(-3.0, 5.0, 3 * 96 * 120).view(1, 3, 96, 120)}, 0)
    assert picture is not None
    assert max(picture["height"], picture["width"]) == MOST_PIXELS
    data = base64.b64decode(picture["data"])
    assert len(data) == picture["height"] * picture["width"] * 3
    assert (min(data), max(data)) == (0, 255)
    assert small_picture(torch.zeros(2, 7), 0) is None
    assert small_picture(torch.zeros(1, 2, 8, 8), 0) is None
    assert small_picture(torch.full((1, 1, 4, 4), float("nan")), 0) is not None
