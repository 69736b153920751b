"""Baselines and scoring on a task so small that every number can be worked out."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import SPLITS, Examples, TaskData
from reprogram.errors import ConfigError
from reprogram.evaluation.baselines import Baselines
from reprogram.evaluation.scoring import score
from reprogram.mappings.assignment import AssignmentMapping
from reprogram.mappings.base import LabelMapping
from reprogram.mappings.frequency import FrequencyMapping
from reprogram.mappings.linear import LinearMapping
from reprogram.mappings.logistic import fit_logistic
from reprogram.programs.frame import FrameProgram
from reprogram.sources.black_box import BlackBox
from reprogram.sources.ledger import Ledger
from reprogram.sources.network import NetworkSource
from reprogram.types import TaskSpec

CPU = torch.device("cpu")
QUADRANT_OF = [2, 0, 3]  # which quarter of the image is bright, by target class
COUNTS = {"train": (6, 3, 3), "val": (2, 2, 1), "test": (1, 2, 4)}


class Quadrants(nn.Module):
    """Four logits: how bright each quarter of the image is."""

    def forward(self, x: Tensor) -> Tensor:
        return 10 * nn.functional.adaptive_avg_pool2d(x.mean(1, keepdim=True), 2).flatten(1)


def examples(name: str) -> Examples:
    generator = torch.Generator().manual_seed(SPLITS.index(name))
    targets = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS[name]))
    images = torch.randint(0, 120, (len(targets), 3, 6, 6), dtype=torch.uint8, generator=generator)
    for image, target in zip(images, targets.tolist(), strict=True):
        row, column = divmod(QUADRANT_OF[target], 2)
        image[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3] += 130
    ids = tuple(f"{name}{index}" for index in range(len(targets)))
    return Examples(images, targets, ids, tuple(f"patient_{label}" for label in ids))


@pytest.fixture
def data() -> TaskData:
    return TaskData(TaskSpec("toy", ("a", "b", "c"), (6, 6)), {name: examples(name) for name in SPLITS})


def classifier(mapping: LabelMapping) -> ReprogrammedClassifier:
    source = NetworkSource("quadrants", Quadrants(), (8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    task = TaskSpec("toy", ("a", "b", "c"), (6, 6))
    return ReprogrammedClassifier(FrameProgram((8, 8), 6), source, mapping, task).eval()


@torch.no_grad()
def responses(model: ReprogrammedClassifier, part: Examples) -> Tensor:
    """By hand: grey frame around the image, log-softmax of the quarters."""
    canvas = torch.full((len(part), 3, 8, 8), 0.5)
    canvas[:, :, 1:7, 1:7] = part.images / 255
    return model.source.network(canvas).log_softmax(1)


@pytest.mark.parametrize("name", ["majority", "mapping_only", "linear_probe"])
def test_each_baseline_scores_validation_and_test_row_by_row(name: str, data: TaskData) -> None:
    found = Baselines(classifier(FrequencyMapping(4, 3)), data, data.splits["train"], 2, CPU).compute(name)
    assert set(found) == {"val", "test"}
    for split, predictions in found.items():
        assert predictions.split == split
        assert predictions.ids == data.splits[split].ids
        assert predictions.groups == data.splits[split].groups
        assert predictions.targets.tolist() == data.splits[split].targets.tolist()


def test_majority_is_the_frequency_of_the_training_classes_and_asks_the_source_nothing(data: TaskData) -> None:
    baselines = Baselines(classifier(FrequencyMapping(4, 3)), data, data.splits["train"], 2, CPU)
    for predictions in baselines.compute("majority").values():
        np.testing.assert_array_equal(predictions.scores, [[0.5, 0.25, 0.25]] * len(predictions.ids))
    assert baselines.queries == 0


def test_a_class_missing_from_training_has_no_share(data: TaskData) -> None:
    part = data.splits["train"].subset([0, 1, 6])  # classes 0, 0, 1
    fewer = TaskData(data.spec, {**data.splits, "train": part})
    found = Baselines(classifier(FrequencyMapping(4, 3)), fewer, fewer.splits["train"], 2, CPU).compute("majority")
    np.testing.assert_allclose(found["val"].scores[0], [2 / 3, 1 / 3, 0])


def test_mapping_only_fits_the_frequency_mapping_once_without_a_program(data: TaskData) -> None:
    model = classifier(FrequencyMapping(4, 3))
    baselines = Baselines(model, data, data.splits["train"], 2, CPU)
    found = baselines.compute("mapping_only")["test"]
    expected = responses(model, data.splits["test"])[:, QUADRANT_OF].softmax(1)
    np.testing.assert_allclose(found.scores, expected.numpy(), atol=1e-6)
    assert (found.scores.argmax(1) == found.targets).all()
    assert baselines.queries == 12 + 5 + 7
    assert model.mapping.assignment.flatten().tolist() == [0, 1, 2]  # the one that training starts from is untouched
    assert not model.mapping.counts.any()


def test_mapping_only_with_a_fixed_mapping_just_applies_it(data: TaskData) -> None:
    model = classifier(AssignmentMapping(4, 3, "given", given=[[1], [0], [2]]))
    baselines = Baselines(model, data, data.splits["train"], 4, CPU)
    found = baselines.compute("mapping_only")["val"]
    assert baselines.queries == sum(COUNTS["val"]) + sum(COUNTS["test"])
    expected = responses(model, data.splits["val"])[:, [1, 0, 2]].softmax(1)
    np.testing.assert_allclose(found.scores, expected.numpy(), atol=1e-6)


def test_mapping_only_with_a_linear_mapping_is_its_convex_fit(data: TaskData) -> None:
    model = classifier(LinearMapping(4, 3, seed=2))
    weight = model.mapping.weight.clone()
    found = Baselines(model, data, data.splits["train"], 4, CPU).compute("mapping_only")["val"]

    fresh = LinearMapping(4, 3, seed=2)
    fresh.observe(responses(model, data.splits["train"]), data.splits["train"].targets)
    fresh.refit()
    expected = fresh(responses(model, data.splits["val"])).softmax(1).detach()
    np.testing.assert_allclose(found.scores, expected.numpy(), atol=1e-4)
    assert torch.equal(model.mapping.weight, weight)


def test_linear_probe_sees_the_plain_image_on_the_whole_canvas(data: TaskData) -> None:
    model = classifier(FrequencyMapping(4, 3))
    baselines = Baselines(model, data, data.splits["train"], 3, CPU)
    found = baselines.compute("linear_probe")["test"]

    @torch.no_grad()
    def features(part: Examples) -> np.ndarray:
        whole = interpolate(part.images / 255, (8, 8), mode="bilinear", antialias=True).clamp(0, 1)
        return model.source.network(whole).log_softmax(1).double().numpy()

    weight, bias, _ = fit_logistic(features(data.splits["train"]), data.splits["train"].targets.numpy(), 3)
    scores = torch.from_numpy(features(data.splits["test"]) @ weight.T + bias)
    np.testing.assert_allclose(found.scores, scores.softmax(1).numpy(), atol=1e-4)
    assert (found.scores.argmax(1) == found.targets).all()
    assert baselines.queries == 12 + 5 + 7


def test_the_queries_of_all_baselines_add_up(data: TaskData) -> None:
    baselines = Baselines(classifier(FrequencyMapping(4, 3)), data, data.splits["train"], 5, CPU)
    for name in ("majority", "mapping_only", "linear_probe"):
        baselines.compute(name)
    assert baselines.queries == 48


def test_an_unknown_baseline_is_refused(data: TaskData) -> None:
    Baselines.check(["majority", "linear_probe"])
    Baselines.check([])
    with pytest.raises(ConfigError, match=r"evaluation\.baselines: expected majority, .*got \['mayority'\]"):
        Baselines.check(["majority", "mayority"])
    with pytest.raises(ConfigError, match="mayority"):
        Baselines(classifier(FrequencyMapping(4, 3)), data, data.splits["train"], 5, CPU).compute("mayority")


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
    found = Baselines(model, data, data.splits["train"], 2, CPU).compute_all(["mapping_only", "majority"])
    assert set(found) == {"majority"}
    assert "baseline mapping_only is left out" in caplog.text
