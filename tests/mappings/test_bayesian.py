"""BLM and BLM+ against the formulae of the paper in plain Python, and where these say nothing."""

import math

import pytest
import torch
from torch import Tensor

from reprogram.errors import ConfigError
from reprogram.mappings.bayesian import BayesianMapping


def responses(num_sources: int, num_targets: int, count: int = 120, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits and uneven targets: class t has about 1 / (t + 1) as many examples as class 0, and none has none."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, num_sources, generator=generator)
    shares = 1 / torch.arange(1.0, num_targets + 1)
    targets = torch.multinomial(shares, count, replacement=True, generator=generator)
    targets[:num_targets] = torch.arange(num_targets)
    return logits, targets


def by_the_paper(
    logits: Tensor, targets: Tensor, num_targets: int, top: int | None, laplace: float
) -> list[list[float]]:
    """Omega [K_s][K_t], one example and one entry after the other; top None is BLM."""
    num_sources = logits.shape[1]
    joint = [[0.0] * num_targets for _ in range(num_sources)]
    for row, target in zip(logits.double().tolist(), targets.tolist(), strict=True):
        ranked = sorted(range(num_sources), key=lambda source: -row[source])
        if top is None:
            joint[ranked[0]][target] += 1
        else:
            partition = sum(math.exp(value) for value in row)
            for source in ranked[:top]:
                joint[source][target] += math.exp(row[source]) / partition
    omega = [[entry / (sum(row) + laplace) for entry in row] for row in joint]
    totals = [sum(row[target] for row in omega) for target in range(num_targets)]
    return [[entry / total for entry, total in zip(row, totals, strict=True)] for row in omega]


def fitted(
    logits: Tensor, targets: Tensor, num_targets: int, top_share: float | None, **options: float
) -> BayesianMapping:
    made = BayesianMapping(logits.shape[1], num_targets, top_share, **options)
    for rows in torch.arange(len(targets)).split(50):
        made.observe(logits[rows].log_softmax(1), targets[rows])
    made.refit()
    return made


SIZES = [(2, 2), (7, 2), (10, 7), (7, 10), (50, 20), (12, 12)]
TOP = {2: 1, 7: 1, 10: 1, 12: 1, 20: 3}  # of 0.15 K_t, rounded down, at least one
LIKELIEST = [pytest.param(None, id="BLM"), pytest.param(0.15, id="BLM+")]


@pytest.mark.parametrize("top_share", LIKELIEST)
@pytest.mark.parametrize("laplace", [1.0, 0.01, 30.0])
@pytest.mark.parametrize(("num_sources", "num_targets"), SIZES)
def test_weights_and_softmax_are_those_of_the_paper(
    num_sources: int, num_targets: int, laplace: float, top_share: float | None
) -> None:
    logits, targets = responses(num_sources, num_targets)
    top = None if top_share is None else TOP[num_targets]
    omega = torch.tensor(by_the_paper(logits, targets, num_targets, top, laplace), dtype=torch.float64)
    made = fitted(logits, targets, num_targets, top_share, laplace=laplace)
    torch.testing.assert_close(made.weight.double(), omega.T, atol=1e-6, rtol=0)
    # the paper multiplies logits, of which we only know what softmax leaves: the difference is the same for all classes
    unseen, _ = responses(num_sources, num_targets, seed=1)
    own, theirs = made(unseen.log_softmax(1)).double(), unseen.double() @ omega
    torch.testing.assert_close(own.softmax(1), theirs.softmax(1), atol=1e-5, rtol=0)
    difference = own - theirs
    torch.testing.assert_close(difference, difference[:, :1].expand_as(difference), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("top_share", "likeliest"), [(0.1, 1), (0.5, 5), (1.0, 10)])
def test_the_share_is_of_the_target_classes(top_share: float, likeliest: int) -> None:
    logits, targets = responses(30, 10)
    omega = torch.tensor(by_the_paper(logits, targets, 10, likeliest, 1.0))
    torch.testing.assert_close(fitted(logits, targets, 10, top_share).weight, omega.T, atol=1e-6, rtol=0)


def test_more_likeliest_classes_than_there_are_source_classes_are_all_of_them() -> None:
    logits, targets = responses(3, 10)
    omega = torch.tensor(by_the_paper(logits, targets, 10, 3, 1.0))
    torch.testing.assert_close(fitted(logits, targets, 10, 1.0).weight, omega.T, atol=1e-6, rtol=0)


def test_weights_by_hand() -> None:
    # of class 0, two examples are taken for source 0 and one for source 1; of class 1, one for source 1
    log_probs = (9 * torch.eye(3)[[0, 0, 1, 1]]).log_softmax(1)
    made = BayesianMapping(3, 2, None)
    made.observe(log_probs, torch.tensor([0, 0, 0, 1]))
    made.refit()
    # shares 2/3, 0 | 1/3, 1/3 | 0, 0 of source 0, 1, 2
    torch.testing.assert_close(made.weight, torch.tensor([[2 / 3, 1 / 3, 0.0], [0.0, 1.0, 0.0]]))
    assert not made.bias.any()


@pytest.mark.parametrize("top_share", LIKELIEST)
def test_one_image_per_class_is_enough(top_share: float | None) -> None:
    made = fitted(9 * torch.eye(6)[[5, 0, 3]], torch.arange(3), 3, top_share)
    assert made.weight.argmax(1).tolist() == [5, 0, 3]
    torch.testing.assert_close(made.weight.sum(1), torch.ones(3))


@pytest.mark.parametrize("top_share", LIKELIEST)
@pytest.mark.parametrize("missing", [[0], [2], [0, 1], [1, 2, 3]])
def test_a_missing_class_is_finite_and_never_decided_for(missing: list[int], top_share: float | None) -> None:
    logits, targets = responses(9, 4)
    rows = ~torch.isin(targets, torch.tensor(missing))
    made = fitted(logits[rows], targets[rows], 4, top_share)
    log_probs = responses(9, 4, count=500, seed=2)[0].log_softmax(1)
    scores = made(log_probs)
    assert torch.isfinite(made.weight).all()
    assert torch.isfinite(scores).all()
    present = [label for label in range(4) if label not in missing]
    assert (scores[:, missing].amax(1) < scores[:, present].amax(1) - 13).all()
    # those seen are scored as if there were no other
    alone = fitted(logits[rows], torch.searchsorted(torch.tensor(present), targets[rows]), len(present), top_share)
    torch.testing.assert_close(scores[:, present], alone(log_probs))


def test_a_class_that_appears_later_is_a_class_like_any_other() -> None:
    logits, targets = responses(9, 3)
    made = fitted(logits[targets < 2], targets[targets < 2], 3, None)
    assert made.bias[2] < -13
    made.observe(logits.log_softmax(1), targets)
    made.refit()
    assert torch.equal(made.weight, fitted(logits, targets, 3, None).weight)
    assert not made.bias.any()


@pytest.mark.parametrize(("num_sources", "num_targets"), [(5, 3), (3, 5)])
def test_before_the_first_fit_each_class_speaks_for_the_one_of_its_number(num_sources: int, num_targets: int) -> None:
    log_probs = torch.randn(4, num_sources).log_softmax(1)
    scores = BayesianMapping(num_sources, num_targets, None, refresh="never")(log_probs)
    torch.testing.assert_close(scores, log_probs[:, [index % num_sources for index in range(num_targets)]])


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_refit_without_responses_keeps_the_weights(decay: float) -> None:
    made = fitted(*responses(9, 3), 3, 0.5, decay=decay)
    weight = made.weight.clone()
    made.refit()
    assert torch.equal(made.weight, weight)


def test_decay_weighs_earlier_responses_less() -> None:
    made = BayesianMapping(2, 2, None, decay=0.5)
    made.observe((9 * torch.eye(2)[[0, 0, 1]]).log_softmax(1), torch.tensor([0, 0, 1]))
    made.refit()
    assert made.weight.tolist() == [[1, 0], [0, 1]]
    made.observe((9 * torch.eye(2)[[1, 1]]).log_softmax(1), torch.tensor([0, 1]))
    made.refit()
    # N = [[0, 0], [1, 1]] + [[2, 0], [0, 1]] / 2 = [[1, 0], [1, 1.5]]; shares [[1/2, 0], [1/3.5, 1.5/3.5]]
    torch.testing.assert_close(made.weight, torch.tensor([[7 / 11, 4 / 11], [0.0, 1.0]]))


def test_the_temperature_divides_the_scores() -> None:
    logits, targets = responses(9, 3)
    scores = fitted(logits, targets, 3, None)(logits.log_softmax(1))
    torch.testing.assert_close(fitted(logits, targets, 3, None, temperature=5.0)(logits.log_softmax(1)), scores / 5)


@pytest.mark.parametrize("top_share", LIKELIEST)
def test_a_thousand_classes_of_a_thousand(top_share: float | None) -> None:
    logits, targets = responses(1000, 1000, count=1500)
    made = fitted(logits, targets, 1000, top_share)
    assert torch.isfinite(made.weight).all()
    torch.testing.assert_close(made.weight.sum(1), torch.ones(1000), atol=1e-5, rtol=0)


def test_float64_stays_float64() -> None:
    made = BayesianMapping(5, 2, None).double()
    assert made(torch.randn(3, 5, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"top_share": 0.0},
            r"mapping\.top_share: expected null or a number in \(0, 1\] \(of 3 target classes\), got 0",
        ),
        ({"top_share": 1.01}, r"mapping\.top_share"),
        ({"top_share": math.nan}, r"mapping\.top_share"),
        ({"laplace": 0.0}, r"mapping\.laplace: expected a number > 0 \(1e-6 to 1e6\), got 0"),
        ({"laplace": math.inf}, r"mapping\.laplace"),
        ({"decay": 1.0}, r"mapping\.decay"),
        ({"refresh": 0}, r"mapping\.refresh"),
    ],
)
def test_a_number_outside_its_range_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BayesianMapping(5, 3, **{"top_share": None, **options})  # type: ignore[arg-type]
