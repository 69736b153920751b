"""One-pixel, Square and ZOO: what they change, and that every query is counted once."""

import sys
from pathlib import Path

import pytest
import torch
from linear_victim import SIZE, LinearSource, examples, linear
from torch import Tensor

from reprogram.attacks.base import QueryAttack
from reprogram.attacks.campaign import Outcome, ask, look, milestones
from reprogram.attacks.one_pixel import OnePixel
from reprogram.attacks.questions import Ended, Questions
from reprogram.attacks.square import Square
from reprogram.attacks.victim import WholeClassifier
from reprogram.attacks.zoo import Margin, Zoo
from reprogram.errors import ConfigError, OracleError, QueryBudgetExceeded
from reprogram.sources.black_box import BlackBox
from reprogram.sources.ledger import Ledger

CPU = torch.device("cpu")
ATTACKS = [
    OnePixel(max_queries=60, population=20),
    Square(0.05, max_queries=60),
    Zoo(0.05, max_queries=60, resolution=None, num_coordinates=5),
]
by_name = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)


def boxed(weight: Tensor, budget: int | None = None, size: tuple[int, int] = SIZE) -> tuple[WholeClassifier, Ledger]:
    """A victim behind a black box, and its ledger."""
    ledger = Ledger(None, "run", budget)
    return WholeClassifier(linear(BlackBox(LinearSource(weight, size), ledger, store="off"))), ledger


def attacked(attack: QueryAttack, victim: WholeClassifier, images: Tensor, labels: Tensor, batch: int = 8) -> Outcome:
    with victim.source.asked_for("attack"):
        return ask(attack, victim, images, labels, look(victim, images, batch, CPU), batch, CPU)


@by_name
@pytest.mark.parametrize("batch", [1, 8])
def test_the_ledger_and_the_oracle_count_the_same(attack: QueryAttack, batch: int) -> None:
    images, weight = examples()
    victim, ledger = boxed(weight)
    labels = (images.flatten(1) @ weight < 0).long()
    labels[0] = 1 - labels[0]  # is not attacked
    outcome = attacked(attack, victim, images, labels, batch)
    assert 0 < sum(outcome.fooled) < 19
    assert 20 + sum(outcome.queries) == ledger.spent()["attack"] == ledger.total() == victim.source.source.count
    assert 0 < max(outcome.queries) <= attack.max_queries
    assert attack.name == "square" or max(outcome.queries) == attack.max_queries  # some squares change nothing
    assert (outcome.queries[0], outcome.fooled[0]) == (0, False)


@by_name
def test_what_fools_is_kept_and_is_inside_its_bounds(attack: QueryAttack) -> None:
    images, weight = examples()
    victim, _ = boxed(weight)
    labels = (images.flatten(1) @ weight < 0).long()
    outcome = attacked(attack, victim, images, labels)
    wrong = victim.decide(victim(outcome.images)) != labels
    assert wrong.tolist() == outcome.fooled
    assert torch.equal(outcome.images[~wrong], images[~wrong])
    assert outcome.images.min() >= 0
    assert outcome.images.max() <= 1
    change = (outcome.images - images)[wrong]
    if attack.name == "one_pixel":
        assert ((change != 0).any(dim=1).flatten(1).sum(dim=1) == 1).all()
    else:
        assert change.abs().max() <= attack.strength + 1e-6
    for level, scores in zip(outcome.levels, outcome.scores, strict=True):
        by_then = [fooled and count <= level for fooled, count in zip(outcome.fooled, outcome.queries, strict=True)]
        assert (victim.decide(scores) != labels).tolist() == by_then


@by_name
def test_the_outcome_is_a_matter_of_the_seed_and_the_image_alone(attack: QueryAttack) -> None:
    images, weight = examples()
    labels = (images.flatten(1) @ weight < 0).long()
    one, two = (attacked(attack, boxed(weight)[0], images[:rows], labels[:rows]) for rows in (20, 12))
    assert torch.equal(one.images[:12], two.images)
    assert one.queries[:12] == two.queries


@by_name
def test_what_is_cut_off_is_counted(attack: QueryAttack, tmp_path: Path) -> None:
    images, weight = examples()
    source, ledger = LinearSource(weight), Ledger(tmp_path / "ledger.sqlite", "run")
    victim = WholeClassifier(linear(BlackBox(source, ledger, store="off")))
    source.fails_at = 150
    labels = (images.flatten(1) @ weight < 0).long()
    found = attacked(attack, victim, images, labels)
    assert isinstance(found.cut_off, OracleError)
    assert len(found.reached) < len(images)
    assert not any(found.fooled[row] for row in range(len(images)) if row not in found.reached)
    kept = found.of_reached()
    assert kept.fooled == [found.fooled[row] for row in found.reached]
    assert torch.equal(kept.scores, found.scores[:, found.reached])
    assert ledger.spent()["attack"] == source.count
    source.fails_at = None
    again, budget = Ledger(tmp_path / "ledger.sqlite", "run", source.count + 100), source.count + 100
    victim = WholeClassifier(linear(BlackBox(source, again, store="off")))
    assert isinstance(attacked(attack, victim, images, labels).cut_off, QueryBudgetExceeded)
    assert budget - 8 < again.total() == source.count <= budget


@pytest.mark.parametrize("pixels", [1, 3])
def test_no_more_pixels_change_than_asked_for_and_they_are_8_bit(pixels: int) -> None:
    images, weight = examples()
    victim, _ = boxed(weight)
    seen: list[Tensor] = []
    victim.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    questions = Questions(victim, 0, torch.zeros(2), 100)
    with pytest.raises(Ended):
        OnePixel(pixels, population=30, max_queries=100).search(questions, images[0], 0, 0)
    change = seen[0] - images[0]
    counts = (change != 0).any(dim=1).flatten(1).sum(dim=1)
    assert counts.max() == pixels
    assert counts.min() >= 1
    painted = (change != 0).any(dim=1, keepdim=True).expand_as(change)
    levels = seen[0][painted] * 255
    assert (levels - levels.round()).abs().max() < 1e-4
    assert len(levels.round().unique()) > 20


def test_zoo_asks_twice_as_often_as_it_has_coordinates_a_step() -> None:
    images, _ = examples()
    flat = torch.zeros(3 * SIZE[0] * SIZE[1])
    flat[0] = 1e-6  # never fooled: label 0 stays ahead
    source = LinearSource(flat)
    victim = WholeClassifier(linear(BlackBox(source, Ledger(None, "run"), store="off")))
    questions = Questions(victim, 0, torch.zeros(2), limit=45)
    with pytest.raises(Ended):
        Zoo(0.05, max_queries=45, num_coordinates=5).search(questions, images[0], 0, 0)
    assert source.seen == [10, 10, 10, 10, 5]
    assert questions.fooling is None


def test_zoo_finds_the_worst_case_of_a_linear_classifier() -> None:
    images, weight = examples(10)
    margins = (images.flatten(1) @ weight).abs()
    labels = (images.flatten(1) @ weight < 0).long()
    outcome = attacked(Zoo(0.015, 2000, None, 10), boxed(weight)[0], images, labels, batch=20)
    reached = margins / (0.015 * weight.abs().sum())
    fooled = torch.tensor(outcome.fooled)
    assert 0 < fooled.sum() < 10
    assert fooled[reached < 0.95].all()
    assert not fooled[reached > 1].any()


def test_the_margin_is_the_lead_over_the_best_other_class() -> None:
    scores = torch.tensor([[1.0, -2.0, 0.5], [1.0, 3.0, -1.0], [0.0, -1.0, 4.0]])
    assert Margin()(scores, torch.tensor([0, 0, 2])).tolist() == [0.5, 0.0, 4.0]


@pytest.mark.parametrize("size", [(2, 9), (7, 4), (3, 3)])
def test_square_takes_images_of_any_shape(size: tuple[int, int]) -> None:
    images, weight = examples(8, size)
    victim, ledger = boxed(weight, size=size)
    outcome = attacked(Square(0.05, 40), victim, images, (images.flatten(1) @ weight < 0).long())
    assert ledger.total() == victim.source.source.count
    assert any(outcome.fooled)


def test_questions_end_at_the_limit_and_a_success_is_paid_with_its_part() -> None:
    images, weight = examples()
    labels = (images.flatten(1) @ weight < 0).long()
    firsts, seconds = images[labels == 0], images[labels == 1]
    victim, ledger = boxed(weight)
    questions = Questions(victim, 0, torch.zeros(2), limit=7, size=3)
    assert questions(firsts[:4]).shape == (4, 2)
    with pytest.raises(Ended):
        questions(firsts[:4])
    assert (questions.sent, ledger.total(), questions.fooling) == (7, 7, None)
    questions = Questions(victim, 0, torch.zeros(2), limit=7, size=3)
    with pytest.raises(Ended):
        questions(torch.cat([firsts[:1], seconds[:2], firsts[:3]]))
    assert questions.sent == 3
    assert torch.equal(questions.fooling[0], seconds[0])


def test_a_curve_shows_round_numbers_of_queries() -> None:
    assert milestones(300) == [0, 1, 2, 5, 10, 20, 50, 100, 200, 300]
    assert milestones(1) == [0, 1]
    assert milestones(500)[-2:] == [200, 500]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OnePixel(pixels=0), "attack.pixels: expected a whole number >= 1, got 0"),
        (lambda: OnePixel(population=4), "attack.population: expected a whole number >= 5"),
        (lambda: OnePixel(max_queries=0), "attack.max_queries: expected a whole number >= 1"),
        (lambda: Square(0.0), r"attack.strength: expected numbers in \(0, 1\]"),
        (lambda: Square(0.1, first_part=0.0), "attack.first_part"),
        (lambda: Square(0.1, 0), "attack.max_queries"),
        (lambda: Zoo(2.0), "attack.strength"),
        (lambda: Zoo(0.1, 0), "attack.max_queries"),
        (lambda: Zoo(0.1, resolution=0), "attack.resolution"),
        (lambda: Zoo(0.1, num_coordinates=0), "attack.num_coordinates"),
        (lambda: Zoo(0.1, smoothing=0.0), "attack.smoothing: expected a number > 0"),
        (lambda: Zoo(0.1, lr=float("nan")), "attack.lr"),
    ],
)
def test_wrong_values_of_query_attacks_are_refused(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_square_alone_needs_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "art.attacks.evasion", None)
    with pytest.raises(ConfigError, match=r"attack=square: needs .* pip install reprogram\[attacks\]"):
        Square(0.1)
    OnePixel()
    Zoo(0.1)
