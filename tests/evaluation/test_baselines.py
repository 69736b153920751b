"""Baselines and scoring on a task so small that every number can be worked out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from quarters import COUNTS, CPU, QUADRANT_OF, baselines, classifier, quarters
from torch import Tensor
from torch.nn.functional import interpolate

from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import Examples, TaskData
from reprogram.errors import ConfigError
from reprogram.evaluation.baselines import Baselines, missing
from reprogram.evaluation.scoring import score
from reprogram.mappings.assignment import AssignmentMapping
from reprogram.mappings.frequency import FrequencyMapping
from reprogram.mappings.linear import LinearMapping
from reprogram.mappings.logistic import fit_logistic
from reprogram.sources.black_box import BlackBox
from reprogram.sources.ledger import Ledger


@pytest.fixture
def data() -> TaskData:
    return quarters()


@torch.no_grad()
def responses(model: ReprogrammedClassifier, part: Examples) -> Tensor:
    """By hand: grey frame around the image, log-softmax of the quarters."""
    canvas = torch.full((len(part), 3, 8, 8), 0.5)
    canvas[:, :, 1:7, 1:7] = part.images / 255
    return model.source.network(canvas).log_softmax(1)


@pytest.mark.parametrize("name", ["majority", "mapping_only", "linear_probe"])
def test_each_baseline_scores_validation_and_test_row_by_row(name: str, data: TaskData) -> None:
    found = baselines(data).compute(name)
    assert set(found) == {"val", "test"}
    for split, predictions in found.items():
        assert predictions.split == split
        assert predictions.ids == data.splits[split].ids
        assert predictions.groups == data.splits[split].groups
        assert predictions.attributes == data.splits[split].attributes
        assert predictions.targets.tolist() == data.splits[split].targets.tolist()


def test_majority_is_the_frequency_of_the_training_classes_and_asks_the_source_nothing(data: TaskData) -> None:
    made = baselines(data)
    for predictions in made.compute("majority").values():
        np.testing.assert_array_equal(predictions.scores, [[0.5, 0.25, 0.25]] * len(predictions.ids))
    assert made.queries == 0


def test_mapping_only_fits_the_frequency_mapping_once_without_a_program(data: TaskData) -> None:
    model = classifier(FrequencyMapping(4, 3))
    made = baselines(data, model, batch_size=2)
    found = made.compute("mapping_only")["test"]
    expected = responses(model, data.splits["test"])[:, QUADRANT_OF].softmax(1)
    np.testing.assert_allclose(found.scores, expected.numpy(), atol=1e-6)
    assert (found.scores.argmax(1) == found.targets).all()
    assert made.queries == 12 + 5 + 7
    assert model.mapping.assignment.flatten().tolist() == [0, 1, 2]  # the one that training starts from is untouched
    assert not model.mapping.counts.any()


def test_mapping_only_with_a_fixed_mapping_just_applies_it(data: TaskData) -> None:
    model = classifier(AssignmentMapping(4, 3, "given", given=[[1], [0], [2]]))
    made = baselines(data, model, batch_size=4)
    found = made.compute("mapping_only")["val"]
    assert made.queries == sum(COUNTS["val"]) + sum(COUNTS["test"])
    expected = responses(model, data.splits["val"])[:, [1, 0, 2]].softmax(1)
    np.testing.assert_allclose(found.scores, expected.numpy(), atol=1e-6)


def test_mapping_only_with_a_linear_mapping_is_its_convex_fit(data: TaskData) -> None:
    model = classifier(LinearMapping(4, 3, seed=2))
    weight = model.mapping.weight.clone()
    found = baselines(data, model, batch_size=4).compute("mapping_only")["val"]

    fresh = LinearMapping(4, 3, seed=2)
    fresh.observe(responses(model, data.splits["train"]), data.splits["train"].targets)
    fresh.refit()
    expected = fresh(responses(model, data.splits["val"])).softmax(1).detach()
    np.testing.assert_allclose(found.scores, expected.numpy(), atol=1e-4)
    assert torch.equal(model.mapping.weight, weight)


def test_baselines_believe_labels_as_far_as_they_are_trusted(data: TaskData) -> None:
    wrong = data.splits["train"].targets.clone()
    wrong[:3] = 1  # of six of class 0
    believed = replace(data.splits["train"], targets=wrong)
    doubted = replace(believed, trust=torch.where(torch.arange(12) < 3, 0.0625, 1.0))
    model = classifier(LinearMapping(4, 3, seed=2))
    full, made = (
        baselines(TaskData(data.spec, {**data.splits, "train": train}), model) for train in (believed, doubted)
    )
    frequencies = np.array([3, 3 + 3 / 16, 3])
    np.testing.assert_allclose(made.compute("majority")["test"].scores[0], frequencies / frequencies.sum())

    fresh = LinearMapping(4, 3, seed=2)
    fresh.observe(responses(model, doubted), wrong, doubted.trust)
    fresh.refit()
    expected = fresh(responses(model, data.splits["val"])).softmax(1).detach()
    np.testing.assert_allclose(made.compute("mapping_only")["val"].scores, expected.numpy(), atol=1e-4)
    rows = data.splits["val"].targets == 0
    for name in ("mapping_only", "linear_probe", "raw_linear"):
        right, misled = (one.compute(name)["val"].scores[rows, 0].mean() for one in (made, full))
        assert right > misled + 0.05, name


def test_linear_probe_sees_the_plain_image_on_the_whole_canvas(data: TaskData) -> None:
    model = classifier(FrequencyMapping(4, 3))
    made = baselines(data, model, batch_size=3)
    found = made.compute("linear_probe")["test"]

    @torch.no_grad()
    def features(part: Examples) -> np.ndarray:
        whole = interpolate(part.images / 255, (8, 8), mode="bilinear", antialias=True).clamp(0, 1)
        return model.source.network(whole).log_softmax(1).double().numpy()

    weight, bias, _ = fit_logistic(features(data.splits["train"]), data.splits["train"].targets.numpy(), 3)
    scores = torch.from_numpy(features(data.splits["test"]) @ weight.T + bias)
    np.testing.assert_allclose(found.scores, scores.softmax(1).numpy(), atol=1e-4)
    assert (found.scores.argmax(1) == found.targets).all()
    assert made.queries == 12 + 5 + 7


def test_the_queries_of_all_baselines_add_up(data: TaskData) -> None:
    made = baselines(data, batch_size=5)
    for name in ("majority", "mapping_only", "linear_probe"):
        made.compute(name)
    assert made.queries == 48


def test_an_unknown_baseline_is_refused(data: TaskData) -> None:
    names = ["feature_probe", "majority", "fine_tuning"]
    assert Baselines.chosen(names, black_box=False) == names
    assert Baselines.chosen([], black_box=True) == []
    with pytest.raises(ConfigError, match=r"baselines: expected majority, .*fine_tuning, got \['mayority'\]"):
        Baselines.chosen(["majority", "mayority"], black_box=True)
    with pytest.raises(ConfigError, match="mayority"):
        baselines(data).compute("mayority")


@pytest.mark.parametrize("name", ["feature_probe", "fine_tuning"])
def test_in_a_black_box_nothing_may_need_more_than_scores(name: str) -> None:
    names = ["majority", "raw_linear", "mapping_only", "linear_probe", "local_probe"]
    assert Baselines.chosen(names, black_box=True) == names
    with pytest.raises(ConfigError, match=rf"\['{name}'\] in a black box.*choose local_probe"):
        Baselines.chosen(["local_probe", name], black_box=True)


@pytest.mark.parametrize("black_box", [False, True])
def test_the_usual_choice_is_enough_for_a_claim_and_never_trains_the_source(black_box: bool) -> None:
    usual = Baselines.chosen(None, black_box)
    assert missing(usual, black_box) == []
    assert Baselines.chosen(usual, black_box) == usual
    assert "fine_tuning" not in usual


@pytest.mark.parametrize(
    ("names", "black_box", "expected"),
    [
        ([], False, ["majority", "raw_linear", "mapping_only", "linear_probe or feature_probe"]),
        (["majority", "raw_linear", "mapping_only", "local_probe"], False, ["linear_probe or feature_probe"]),
        (["feature_probe", "majority", "raw_linear", "mapping_only"], False, []),
        (["majority", "mapping_only", "linear_probe", "fine_tuning"], False, ["raw_linear"]),
        (["majority", "raw_linear", "mapping_only"], True, ["local_probe"]),
        (["majority", "raw_linear", "mapping_only", "linear_probe"], True, ["local_probe"]),
        (["majority", "raw_linear", "mapping_only", "local_probe"], True, []),
    ],
)
def test_a_claim_needs_its_baselines(names: list[str], black_box: bool, expected: list[str]) -> None:
    assert missing(names, black_box) == expected


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_scoring_predicts_every_example_once_and_in_order(batch_size: int, data: TaskData) -> None:
    model = classifier(AssignmentMapping(4, 3, "given", given=[[2], [0], [3]]))
    test = data.splits["test"]
    found = score(model, test, "test", batch_size, CPU)
    assert found.split == "test"
    assert found.ids == test.ids
    assert found.groups == test.groups
    assert found.targets.tolist() == test.targets.tolist()
    assert found.scores.dtype == np.float64
    np.testing.assert_allclose(found.scores, responses(model, test)[:, QUADRANT_OF].softmax(1).numpy(), atol=1e-6)


def test_a_baseline_that_the_budget_does_not_pay_for_is_left_out(
    data: TaskData, caplog: pytest.LogCaptureFixture
) -> None:
    model = classifier(FrequencyMapping(4, 3))
    model.source = BlackBox(model.source, Ledger(None, "run", budget=12 + 5))
    found = baselines(data, model, batch_size=2).compute_all(["mapping_only", "majority"])
    assert set(found) == {"majority"}
    assert "baseline mapping_only is left out" in caplog.text
