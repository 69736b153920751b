"""Scores as an API would report them."""

import pytest
import torch
from torch import Tensor

from reprogram.errors import ConfigError
from reprogram.sources.reported import as_reported


def told(probabilities: list[float], top_k: int | None = None, decimals: int | None = None) -> list[float]:
    log_probs = torch.tensor([probabilities], dtype=torch.float64).log()
    return [round(value, 9) for value in as_reported(log_probs, top_k, decimals).exp()[0].tolist()]


def test_nothing_is_lost_when_nothing_is_limited() -> None:
    log_probs = torch.randn(3, 5).log_softmax(1)
    assert as_reported(log_probs, None, None) is log_probs


def test_unreported_classes_share_what_is_left() -> None:
    assert told([0.1, 0.5, 0.25, 0.15], top_k=2) == [0.125, 0.5, 0.25, 0.125]
    assert told([0.1, 0.5, 0.25, 0.15], top_k=4) == [0.1, 0.5, 0.25, 0.15]


def test_an_unreported_class_gets_no_more_than_the_smallest_reported() -> None:
    # 0.3 is known, 0.7 left for nine: 0.0777 each; with ten classes of which one says 0.3 all is well,
    assert told([0.3, *[0.7 / 9] * 9], top_k=1) == pytest.approx([0.3, *[0.7 / 9] * 9])
    # but rounding 0.16, 0.14, ... to 0.2, 0.1 leaves 0.7 for five, which is more than the 0.1 reported
    six = [0.1 / 0.7] * 7
    six[0] = 0.2 / 0.7
    given = [0.17, 0.14, 0.14, 0.14, 0.14, 0.14, 0.13]
    assert told(given, top_k=2, decimals=1) == pytest.approx([value / sum(six) for value in six])


def test_rounded_scores_are_rounded_and_zeros_are_half_a_unit() -> None:
    total = 0.67 + 0.33 + 0.005  # 0.666, 0.331, 0.003 at two decimals
    assert told([0.666, 0.331, 0.003], decimals=2) == pytest.approx([0.67 / total, 0.33 / total, 0.005 / total])


def test_what_rounding_leaves_to_the_unreported_is_at_least_half_a_unit() -> None:
    # 0.996 is told as 1.00: the two others share 0.005
    assert told([0.996, 0.003, 0.001], top_k=1, decimals=2) == pytest.approx(
        [1 / 1.005, 0.0025 / 1.005, 0.0025 / 1.005], abs=1e-9
    )
    # without rounding 1e-6
    assert told([1.0, 0.0, 0.0], top_k=1) == pytest.approx([1 / 1.000001, 5e-7, 5e-7], abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("top_k", "decimals"), [(1, None), (3, None), (None, 1), (None, 6), (1, 1), (5, 2), (1000, 15)]
)
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0, 3000.0])
def test_rows_are_finite_and_sum_to_one(
    top_k: int | None, decimals: int | None, spread: float, dtype: torch.dtype
) -> None:
    log_probs = (spread * torch.randn(16, 1000, dtype=dtype)).log_softmax(1)
    limited = as_reported(log_probs, top_k, decimals)
    assert limited.dtype == dtype
    assert limited.isfinite().all()
    torch.testing.assert_close(limited.exp().sum(1), torch.ones(16, dtype=dtype))
    if spread and not decimals:  # what is reported keeps its rank
        assert torch.equal(limited.argmax(1), log_probs.argmax(1))


def test_an_image_does_not_depend_on_the_others() -> None:
    log_probs = torch.randn(7, 1000).log_softmax(1)
    together = as_reported(log_probs, 5, 3)
    assert all(
        torch.equal(as_reported(row[None], 5, 3)[0], told) for row, told in zip(log_probs, together, strict=True)
    )


def test_no_image_gives_no_row() -> None:
    empty: Tensor = as_reported(torch.zeros(0, 4), 2, 2)
    assert empty.shape == (0, 4)


@pytest.mark.parametrize(
    ("top_k", "decimals", "message"),
    [
        (0, None, r"access\.top_k: expected a whole number in 1\.\.4 \(source classes\), got 0"),
        (5, None, r"access\.top_k.*got 5"),
        (None, 0, r"access\.decimals: expected a whole number in 1\.\.15, got 0"),
        (None, 400, r"access\.decimals.*got 400"),
    ],
)
def test_impossible_limits_are_refused(top_k: int | None, decimals: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        as_reported(torch.zeros(1, 4), top_k, decimals)
