"""Fine-tuning learns what is there, on a copy, the same way every time."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from quarters import CPU, baselines, classifier, not_at_home, quarters
from torch import Tensor, nn

from reprogram.data.base import Examples, TaskData
from reprogram.data.loader import to_float
from reprogram.errors import ConfigError, SourceError
from reprogram.evaluation.baselines import Baselines, FineTuning, Setting
from reprogram.evaluation.predictions import Predictions
from reprogram.mappings.frequency import FrequencyMapping
from reprogram.sources.network import NetworkSource


class Trainable(nn.Module):
    """Brightness of twelve areas, with BatchNorm and dropout; in training a second output, as Inception has."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(2), nn.BatchNorm2d(3), nn.Dropout(0.5))
        self.head = head

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits = self.head(self.stem(x)).flatten(1)
        return (logits, logits) if self.training else logits


def source(head: nn.Module) -> NetworkSource:
    torch.manual_seed(0)
    return NetworkSource("trainable", Trainable(head), (8, 8), (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def original() -> NetworkSource:
    return source(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)))


def fine_tuned(
    network: NetworkSource,
    copies: list[NetworkSource] | None = None,
    change: Callable[[Examples], Examples] = lambda train: train,
    **choices: Any,
) -> Predictions:
    """Predictions for validation; the copy that was made is appended."""
    copies = [] if copies is None else copies

    def make() -> NetworkSource:
        copies.append(copy.deepcopy(network))
        return copies[-1]

    tuning = FineTuning(make, **({"epochs": 8, "lr": 0.02, "batch_size": 4} | choices))
    data, count = quarters(), len(copies)
    data = TaskData(data.spec, {**data.splits, "train": change(data.splits["train"])})
    made = Baselines(
        Setting(classifier(FrequencyMapping(4, 3)), data, data.splits["train"], 3, CPU, not_at_home, tuning)
    )
    found = made.compute("fine_tuning")
    assert (len(copies), made.queries) == (count + 1, 0)
    assert set(found) == {"val", "test"}
    return found["val"]


def test_it_beats_the_majority_and_leaves_the_source_alone(original: NetworkSource) -> None:
    before = copy.deepcopy(original.state_dict())
    found = fine_tuned(original)
    assert (found.scores.argmax(1) == found.targets).all()
    majority = baselines(quarters()).compute("majority")["val"]
    assert (majority.scores.argmax(1) == majority.targets).mean() == 0.4
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not any(weight.requires_grad for weight in original.parameters())


def test_it_starts_as_a_probe_of_the_features(original: NetworkSource) -> None:
    probe = baselines(quarters(), classifier(FrequencyMapping(4, 3), original)).compute("feature_probe")["val"]
    untrained = fine_tuned(original, epochs=1, lr=1e-12)
    np.testing.assert_allclose(untrained.scores, probe.scores, atol=0.02)  # bfloat16
    rows = np.arange(len(probe.targets))
    assert probe.scores[rows, probe.targets].max() < 0.99 < fine_tuned(original).scores[rows, probe.targets].min()


def test_every_weight_learns_and_no_statistic(original: NetworkSource) -> None:
    copies: list[NetworkSource] = []
    for lr in (1e-3, 1e-12):  # the first step of Adam moves every weight by its rate; the second run stays at the start
        fine_tuned(original, copies, epochs=1, batch_size=12, lr=lr)
    moved, still = (dict(made.network.named_parameters()) for made in copies)
    assert len(moved) == 6
    for name, weight in moved.items():
        assert (weight - still[name]).abs().max().item() == pytest.approx(1e-3, rel=0.05), name
    for buffer, given in zip(copies[0].network.buffers(), original.network.buffers(), strict=True):
        assert torch.equal(buffer, given)


def test_a_final_convolution_gives_way_to_another() -> None:
    pooled = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1))
    copies: list[NetworkSource] = []
    assert fine_tuned(source(pooled), copies, epochs=1).scores.shape == (5, 3)
    head = copies[0].network.head[1]
    assert (type(head), head.out_channels, head.kernel_size) == (nn.Conv2d, 3, (1, 1))


def test_the_seed_is_that_of_the_order(original: NetworkSource) -> None:
    first, again, other = (fine_tuned(original, epochs=1, seed=seed).scores for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize(
    ("qualities", "best"),
    [
        ([(0.5, -1.0), (0.9, -2.0), (0.2, -0.1)], 1),
        ([(0.5, -1.0), (0.5, -2.0), (0.5, -0.9)], 2),
        ([(0.5, -1.0), (0.4, -1.0), (0.5, -1.0)], 0),
    ],
)
def test_the_best_on_validation_is_kept(
    qualities: list[tuple[float, float]], best: int, original: NetworkSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, seen = to_float(quarters().splits["val"].images), []

    @torch.no_grad()
    def quality(tuning: FineTuning, setting: Any, answer: Any) -> tuple[float, float]:
        seen.append(answer(images).exp().numpy())
        return qualities[len(seen) - 1]

    monkeypatch.setattr(FineTuning, "_quality", quality)
    found = fine_tuned(original, epochs=2).scores
    assert [bool(np.allclose(found, scores, atol=1e-3)) for scores in seen] == [epoch == best for epoch in range(3)]


def test_a_training_that_diverges_names_the_rate(original: NetworkSource) -> None:
    with pytest.raises(SourceError, match=r"diverged; lower evaluation\.fine_tuning\.lr=1e\+30"):
        fine_tuned(original, lr=1e30)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("epochs", 0, "a whole number >= 1, got 0"),
        ("batch_size", 0, "a whole number >= 1, got 0"),
        ("lr", 0.0, "a number > 0, got 0.0"),
        ("lr", float("nan"), "a number > 0, got nan"),
    ],
)
def test_a_number_out_of_range_is_refused_before_anything_is_made(key: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"evaluation\.fine_tuning\.{key}: expected {expected}"):
        FineTuning(not_at_home, **{key: value})


def test_labels_are_learned_from_as_far_as_they_are_trusted(original: NetworkSource) -> None:
    def mislabelled(train: Examples) -> Examples:
        return replace(train, targets=torch.where(torch.arange(12) < 3, 1, train.targets))  # of six of class 0

    def doubted(train: Examples) -> Examples:
        return replace(mislabelled(train), trust=torch.where(torch.arange(12) < 3, 0.0625, 1.0))

    misled, right = (fine_tuned(original, change=change, epochs=4) for change in (mislabelled, doubted))
    rows = right.targets == 0
    assert right.scores[rows, 0].mean() > misled.scores[rows, 0].mean() + 0.05
