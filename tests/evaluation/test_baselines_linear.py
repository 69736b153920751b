"""Logistic regression on pixels and on features: what goes in, and what it costs."""

import numpy as np
import pytest
import torch
from quarters import CPU, Quadrants, baselines, classifier, examples, not_at_home, quadrants, quarters
from torch import Tensor, nn
from torch.nn.functional import interpolate

from reprogram.data.base import SPLITS, Examples, TaskData
from reprogram.evaluation.baselines import Baselines, FineTuning, Setting, linear
from reprogram.mappings.frequency import FrequencyMapping
from reprogram.mappings.logistic import fit_logistic
from reprogram.sources.black_box import BlackBox
from reprogram.sources.ledger import Ledger
from reprogram.sources.network import NetworkSource
from reprogram.types import TaskSpec


def expected(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Class probabilities for the rows of ``test``, of a fit with one divisor for all columns."""
    weight, bias, _ = fit_logistic(train, examples("train").targets.numpy(), 3, per_feature=False)
    return torch.from_numpy(test @ weight.T + bias).softmax(1).numpy()


def of_size(side: int, channels: int, support: Tensor | None = None) -> TaskData:
    """The quarters of another size, with noise that averaging over areas would not keep."""
    splits = {}
    for name in SPLITS:
        part, generator = examples(name), torch.Generator().manual_seed(5)
        images = interpolate(part.images[:, :channels].float(), (side, side))
        images += torch.randint(0, 6, images.shape, generator=generator)
        splits[name] = Examples(images.to(torch.uint8), part.targets, part.ids)
    return TaskData(TaskSpec("toy", ("a", "b", "c"), (side, side), support), splits)


def columns(data: TaskData, split: str) -> np.ndarray:
    return data.splits[split].images.flatten(1).double().numpy() / 255


def test_raw_linear_reads_the_pixels_as_they_are_stored_and_asks_the_source_nothing() -> None:
    data = quarters()
    made = baselines(data)
    found = made.compute("raw_linear")["test"]
    np.testing.assert_allclose(found.scores, expected(columns(data, "train"), columns(data, "test")), atol=1e-4)
    assert (found.scores.argmax(1) == found.targets).all()
    assert made.queries == 0


def test_raw_linear_reads_one_channel_of_grey_and_only_the_support() -> None:
    support = torch.ones(10, 10, dtype=torch.bool).triu(1)
    data = of_size(10, 1, support)
    found = baselines(data).compute("raw_linear")["test"]
    train, test = (columns(data, split)[:, support.flatten().numpy()] for split in ("train", "test"))
    assert train.shape[1] == 45
    np.testing.assert_allclose(found.scores, expected(train, test), atol=1e-4)


@pytest.mark.parametrize(("most", "side"), [(10**9, 64), (12 * 64 * 64, 64), (12 * 64 * 64 - 1, 32)])
def test_raw_linear_averages_large_images_over_areas(most: int, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "RAW_NUMBERS", most)
    data, step = of_size(128, 1), 128 // side
    found = baselines(data).compute("raw_linear")["test"]
    train, test = (
        columns(data, split).reshape(-1, side, step, side, step).mean((2, 4)).reshape(-1, side * side)
        for split in ("train", "test")
    )
    np.testing.assert_allclose(found.scores, expected(train, test), atol=1e-4)


def brightness(split: str) -> np.ndarray:
    """The features of ``Quadrants`` by hand, of the plain image on the whole canvas."""
    canvas = interpolate(examples(split).images / 255, (8, 8), mode="bilinear", antialias=True)
    return canvas.mean(1).reshape(-1, 2, 4, 2, 4).mean((2, 4)).flatten(1).double().numpy()


def test_feature_probe_is_fitted_to_the_input_of_the_final_layer() -> None:
    made = baselines(quarters())
    found = made.compute("feature_probe")["test"]
    np.testing.assert_allclose(found.scores, expected(brightness("train"), brightness("test")), atol=1e-4)
    assert (found.scores.argmax(1) == found.targets).all()
    assert made.queries == 12 + 5 + 7


def test_local_probe_uses_another_network_and_leaves_a_black_box_alone() -> None:
    data, ledger, made_at_home = quarters(), Ledger(None, "run", budget=10), []

    def at_home() -> NetworkSource:
        made_at_home.append(quadrants())
        return made_at_home[-1]

    source = BlackBox(
        NetworkSource("other", nn.Sequential(Quadrants(), nn.Softmax(1)), (8, 8), (0.0,) * 3, (1.0,) * 3), ledger
    )
    model = classifier(FrequencyMapping(4, 3), source)
    primed = data.splits["train"].subset([0, 6, 9])  # what asks nothing is fitted to all of them
    made = Baselines(Setting(model, data, primed, 5, CPU, at_home, FineTuning(not_at_home)))
    free = made.compute_all(["majority", "raw_linear"])
    assert not made_at_home
    free |= made.compute_all(["local_probe"])
    np.testing.assert_allclose(
        free["local_probe"]["test"].scores, expected(brightness("train"), brightness("test")), atol=1e-4
    )
    np.testing.assert_allclose(
        free["raw_linear"]["test"].scores, expected(columns(data, "train"), columns(data, "test")), atol=1e-4
    )
    assert len(made_at_home) == 1
    assert made.queries == sum(ledger.spent().values()) == 0
    assert made.compute_all(["linear_probe"]) == {}  # it would cost 15 queries of the 10


def test_a_source_without_features_costs_no_run_its_records(caplog: pytest.LogCaptureFixture) -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten())
    source = NetworkSource("pooled", network, (8, 8), (0.0,) * 3, (1.0,) * 3)
    found = baselines(quarters(), classifier(FrequencyMapping(12, 3), source)).compute_all(
        ["feature_probe", "majority"]
    )
    assert set(found) == {"majority"}
    assert "baseline feature_probe is left out: pooled: expected a linear layer" in caplog.text
