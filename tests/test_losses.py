"""Losses against numbers worked out by hand."""

import math

import pytest
import torch

from reprogram.errors import ConfigError
from reprogram.losses import ClassBalanced, CrossEntropy, Focal

SCORES = torch.tensor([[math.log(0.7), math.log(0.2), math.log(0.1)], [0.0, 0.0, 0.0], [5.0, 5.0, 5.0]])
TARGETS = torch.tensor([0, 1, 2])


def test_cross_entropy_by_hand() -> None:
    expected = torch.tensor([-math.log(0.7), math.log(3), math.log(3)])
    torch.testing.assert_close(CrossEntropy()(SCORES, TARGETS), expected)


def test_cross_entropy_normalises_what_is_no_distribution() -> None:
    # shares 0.2 : 0.1, as averaged source probabilities are that do not sum to one
    scores = torch.tensor([[math.log(0.2), math.log(0.1)]])
    assert CrossEntropy()(scores, torch.tensor([0])).item() == pytest.approx(math.log(1.5))


def test_class_balanced_weights_by_hand() -> None:
    # beta 0.5, n = 1 and 2: 0.5 / 0.5 = 1 and 0.5 / 0.75 = 2/3; sum over examples 1 + 4/3 = 7/3, to be 3
    loss = ClassBalanced(torch.tensor([1, 2]), beta=0.5)
    torch.testing.assert_close(loss.class_weights, torch.tensor([9 / 7, 6 / 7]))
    scores = torch.zeros(2, 2)
    expected = torch.tensor([9 / 7, 6 / 7]) * math.log(2)
    torch.testing.assert_close(loss(scores, torch.tensor([0, 1])), expected)


def test_class_balanced_without_beta_weighs_all_alike_and_with_much_goes_by_frequency() -> None:
    counts = torch.tensor([1, 10, 100])
    torch.testing.assert_close(ClassBalanced(counts, beta=0.0).class_weights, torch.ones(3))
    # 111 examples; w_c n_c equal for all classes, so each class has weight 37 in total
    torch.testing.assert_close(
        ClassBalanced(counts, beta=1 - 1e-9).class_weights, torch.tensor([37.0, 3.7, 0.37]), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("counts", [[5, 5], [1, 9, 90], [3, 0, 7], [1, 100_000]])
def test_class_weights_have_mean_one_over_the_training_set(counts: list[int]) -> None:
    examples = torch.tensor(counts)
    for loss in (ClassBalanced(examples), ClassBalanced(examples, beta=0.9), Focal(examples)):
        assert (loss.class_weights * examples).sum().item() / sum(counts) == pytest.approx(1, abs=1e-5)
        assert torch.isfinite(loss.class_weights).all()


def test_focal_by_hand() -> None:
    loss = Focal(torch.tensor([1, 3]), gamma=2.0)
    torch.testing.assert_close(loss.class_weights, torch.tensor([2.0, 2 / 3]))
    scores = torch.tensor([[math.log(0.8), math.log(0.2)], [math.log(0.8), math.log(0.2)]])
    expected = torch.tensor([-2 * 0.2**2 * math.log(0.8), -(2 / 3) * 0.8**2 * math.log(0.2)])
    torch.testing.assert_close(loss(scores, torch.tensor([0, 1])), expected)


def test_focal_without_focus_and_weights_is_cross_entropy() -> None:
    scores, targets = torch.randn(20, 4), torch.arange(20) % 4
    loss = Focal(torch.tensor([1, 2, 3, 4]), gamma=0.0, balanced=False)
    torch.testing.assert_close(loss(scores, targets), CrossEntropy()(scores, targets))


def test_focal_takes_raw_scores_as_bar_does() -> None:
    scores = torch.tensor([[math.log(0.2), math.log(0.1)]])
    loss = Focal(torch.tensor([1, 1]), gamma=2.0, normalize=False)
    assert loss(scores, torch.tensor([1])).item() == pytest.approx(-(0.9**2) * math.log(0.1), rel=1e-5)


@pytest.mark.parametrize(
    "gamma",
    [
        0.5,
        1.0,
        2.0,
    ],
)
def test_focal_vanishes_with_a_finite_gradient_for_a_certain_answer(gamma: float) -> None:
    scores = torch.tensor([[30.0, 0.0]], requires_grad=True)
    loss = Focal(torch.tensor([1, 1]), gamma=gamma, balanced=False)(scores, torch.tensor([0])).sum()
    (gradient,) = torch.autograd.grad(loss, scores)
    assert 0 <= loss.item() < 1e-6
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("beta", [-0.1, 1.0, 2.0])
def test_beta_outside_its_range_is_refused(beta: float) -> None:
    with pytest.raises(ConfigError, match=r"loss\.beta.*\[0, 1\)"):
        ClassBalanced(torch.tensor([1, 2]), beta=beta)


def test_negative_gamma_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss\.gamma.*-1"):
        Focal(torch.tensor([1, 2]), gamma=-1)
