"""A source behind its scores: what is hidden, what is counted, what is stored, and what happens when it fails."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reprogram.errors import ConfigError, OracleError, QueryBudgetExceeded, ShapeError
from reprogram.sources.base import SourceModel
from reprogram.sources.black_box import BlackBox
from reprogram.sources.encoding import encode
from reprogram.sources.ledger import Ledger
from reprogram.sources.reported import as_reported
from reprogram.types import SourceSpec

K_S = 5


class Oracle(SourceModel):
    """Scores by a linear layer, remembers what it saw, and can be told to answer something else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 4 * 4, K_S)
        self.spec = SourceSpec("oracle", (4, 4), tuple("abcde"), feature_dim=48)
        self.seen: list[Tensor] = []
        self.instead: Callable[[Tensor], Any] = lambda answer: answer
        self.name = "oracle 1"

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.clone())
        answer: Tensor = self.instead(self.layer(images.flatten(1).float()).log_softmax(1))
        return answer

    @property
    def fingerprint(self) -> str:
        return self.name

    @property
    def count(self) -> int:
        return sum(len(images) for images in self.seen)


def boxed(budget: int | None = None, path: Path | None = None, **choices: Any) -> tuple[BlackBox, Oracle, Ledger]:
    oracle, ledger = Oracle(), Ledger(path, "run", budget)
    return BlackBox(oracle, ledger, **choices), oracle, ledger


# --------------------------------------------------------------------------------------------------------------- hidden


def test_the_answers_are_those_of_the_source() -> None:
    box, oracle, _ = boxed(micro_batch=3)
    images = torch.rand(8, 3, 4, 4)
    answers = box(images)
    torch.testing.assert_close(answers, oracle(images).detach())
    assert [len(seen) for seen in oracle.seen] == [3, 3, 2, 8]
    assert box.fingerprint == "oracle 1"
    assert box(images.double()).dtype == torch.float64


def test_no_gradient_passes() -> None:
    box, oracle, _ = boxed()
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    answers = box(images)
    assert not answers.requires_grad
    assert not answers.is_inference()
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(answers.sum(), images)
    assert not oracle.seen[0].requires_grad
    weights = torch.ones(K_S, requires_grad=True)
    (answers * weights).sum().backward()  # a mapping above it still learns
    assert weights.grad is not None
    torch.testing.assert_close(weights.grad, answers.sum(0))


def test_the_spec_hides_what_the_source_could_show() -> None:
    box, oracle, _ = boxed()
    assert box.spec == SourceSpec("oracle", (4, 4), tuple("abcde"), feature_dim=None, differentiable=False)
    assert oracle.spec.differentiable
    assert not any(parameter.requires_grad for parameter in box.parameters())
    assert not any(module.training for module in box.train().modules())
    assert next(box.to(torch.float64).parameters()).dtype == torch.float64  # it moves with the box


def test_what_was_done_to_the_source_is_still_told() -> None:
    assert boxed()[0].preparation is None
    oracle = Oracle()
    oracle.preparation = "two BatchNorms folded"  # type: ignore[assignment]
    assert BlackBox(oracle, Ledger(None, "run")).preparation == "two BatchNorms folded"


@pytest.mark.parametrize(("top_k", "decimals"), [(2, None), (None, 2), (1, 1)])
def test_only_what_the_api_reports_is_told(top_k: int | None, decimals: int | None) -> None:
    box, oracle, _ = boxed(top_k=top_k, decimals=decimals)
    images = torch.rand(4, 3, 4, 4)
    assert torch.equal(box(images), as_reported(oracle(images).detach(), top_k, decimals))


@pytest.mark.parametrize("encoding", ["float", "png", "jpeg"])
def test_the_source_sees_the_encoded_image(encoding: str) -> None:
    box, oracle, _ = boxed(encoding=encoding, jpeg_quality=40)
    images = torch.rand(4, 3, 4, 4)
    box(images)
    assert torch.equal(oracle.seen[0], encode(images, encoding, 40))


# -------------------------------------------------------------------------------------------------------------- counted


def test_every_image_is_counted_before_it_is_sent_under_its_purpose() -> None:
    box, oracle, ledger = boxed(micro_batch=2)
    counted: list[int] = []
    oracle.instead = lambda answer: (counted.append(ledger.total()), answer)[1]
    with box.asked_for("train"):
        box(torch.rand(3, 3, 4, 4))
        with box.asked_for("validation"):
            box(torch.rand(4, 3, 4, 4))
    box(torch.rand(1, 3, 4, 4))
    assert counted == [2, 3, 5, 7, 8]
    assert {purpose: count for purpose, count in ledger.spent().items() if count} == {
        "train": 3,
        "validation": 4,
        "other": 1,
    }
    ledger.begin()
    assert ledger.uncertain == 0


def test_what_the_budget_does_not_allow_is_not_sent() -> None:
    box, oracle, ledger = boxed(budget=5, micro_batch=2)
    images = torch.rand(6, 3, 4, 4)
    with pytest.raises(QueryBudgetExceeded):
        box(images)
    assert oracle.count == ledger.total() == 4
    box(images[:5])  # four are known, one is left
    assert oracle.count == ledger.total() == 5


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(2, 3, 4, 5), r"expected images \[B, 3, 4, 4\], got \[2, 3, 4, 5\]"),
        (torch.rand(3, 4, 4), r"got \[3, 4, 4\]"),
        (torch.full((1, 3, 4, 4), torch.nan), r"expected pixels in \[0, 1\], got some outside or NaN"),
        (torch.full((1, 3, 4, 4), 1.5), r"nothing was sent"),
        (torch.full((1, 3, 4, 4), -0.1), r"nothing was sent"),
    ],
)
def test_what_is_no_image_is_not_paid_for(images: Tensor, message: str) -> None:
    box, oracle, ledger = boxed()
    with pytest.raises(ShapeError, match=message):
        box(images)
    assert oracle.count == ledger.total() == 0


# --------------------------------------------------------------------------------------------------------------- stored


@pytest.mark.parametrize(
    ("choices", "stored"),
    [
        ({"store": "on"}, {"train": True, "test": True}),
        ({"store": "off", "priced": True}, {"train": False, "test": False}),
        ({"store": "auto"}, {"train": False, "test": True}),
        ({"store": "auto", "priced": True}, {"train": True, "test": True}),
    ],
)
def test_an_image_is_asked_again_only_where_answers_are_not_stored(
    choices: dict[str, Any], stored: dict[str, bool]
) -> None:
    for purpose, known in stored.items():
        box, oracle, ledger = boxed(top_k=3, decimals=4, **choices)
        image = torch.rand(1, 3, 4, 4)
        images = torch.cat([image, torch.rand(2, 3, 4, 4), image])  # two are the same
        with box.asked_for(purpose):
            first, second = box(images), box(images.flip(0)).flip(0)
        if known:
            assert torch.equal(first, second)
        assert torch.equal(first[0], first[3])
        torch.testing.assert_close(second, first)
        assert oracle.count == ledger.total() == (3 if known else 8)


def test_stored_and_fresh_answers_are_equal_bit_by_bit_and_survive_the_process(tmp_path: Path) -> None:
    file, images = tmp_path / "ledger.sqlite", torch.rand(7, 3, 4, 4)
    box, oracle, _ = boxed(path=file, encoding="png")
    fresh = box(images)
    resumed = BlackBox(oracle, Ledger(file, "another run"), encoding="png", micro_batch=2)
    assert torch.equal(resumed(images), fresh)
    assert oracle.count == 7
    degraded = BlackBox(oracle, Ledger(file, "run"), encoding="png", top_k=2, decimals=2)
    assert torch.equal(degraded(images), as_reported(fresh, 2, 2))  # what is stored is the whole answer
    assert oracle.count == 7


def test_another_source_or_encoding_is_another_question(tmp_path: Path) -> None:
    file, images = tmp_path / "ledger.sqlite", torch.rand(2, 3, 4, 4).round()  # the same in 8 bits
    box, oracle, ledger = boxed(path=file)
    box(images)
    BlackBox(oracle, ledger, encoding="png")(images)
    assert oracle.count == 4
    oracle.name = "oracle 2"
    box(images)
    assert oracle.count == 6


# ---------------------------------------------------------------------------------------------------------------- fails


def spoiled(value: float) -> Callable[[Tensor], Tensor]:
    def spoil(answer: Tensor) -> Tensor:
        answer = answer.clone()
        answer[1:, 2] = value
        return answer

    return spoil


@pytest.mark.parametrize(
    ("instead", "message"),
    [
        (lambda answer: answer[:, :4], r"oracle: expected 5 log-probabilities per image, \[4, 5\], got \[4, 4\]"),
        (lambda answer: answer[:3], r"got \[3, 5\]"),
        (lambda answer: answer.tolist(), r"got list"),
        (spoiled(torch.nan), r"expected finite log-probabilities, got NaN in the scores of 3 of 4 images"),
        (spoiled(-torch.inf), r"got infinity in the scores of 3 of 4 images"),
    ],
)
@pytest.mark.parametrize("purpose", ["train", "test"])
def test_an_answer_that_cannot_be_used_is_named_and_stays_counted(
    instead: Callable[[Tensor], Any], message: str, purpose: str
) -> None:
    box, oracle, ledger = boxed()
    oracle.instead = instead
    with box.asked_for(purpose), pytest.raises(OracleError, match=f"{message}.*nothing paid for is lost"):
        box(torch.rand(4, 3, 4, 4))
    assert ledger.spent()[purpose] == oracle.count == 4
    ledger.begin()
    assert ledger.uncertain == 4  # asked again by a run that goes on


def test_good_answers_beside_bad_ones_are_not_paid_for_again() -> None:
    box, oracle, ledger = boxed(micro_batch=4)
    oracle.instead = lambda answer: spoiled(torch.nan)(answer) if len(oracle.seen) == 2 else answer
    images = torch.rand(8, 3, 4, 4)
    with pytest.raises(OracleError, match="3 of 4 images"):
        box(images)
    box(images)
    assert torch.equal(oracle.seen[2], images[5:])  # the second micro-batch's last three
    assert ledger.total() == 11


def test_a_failing_source_becomes_an_oracle_error_and_its_images_stay_counted() -> None:
    box, oracle, ledger = boxed()

    def fail(answer: Tensor) -> Tensor:
        raise ConnectionResetError("by peer")

    oracle.instead = fail
    with pytest.raises(OracleError, match=r"oracle: the source failed \(ConnectionResetError: by peer\)") as info:
        box(torch.rand(4, 3, 4, 4))
    assert isinstance(info.value.__cause__, ConnectionResetError)
    assert ledger.total() == 4
    ledger.begin()
    assert ledger.uncertain == 4  # asked again by a run that goes on


def test_an_error_of_ours_and_an_interruption_pass_as_they_are() -> None:
    box, oracle, ledger = boxed()
    for error in (OracleError("429 for an hour"), KeyboardInterrupt()):

        def fail(answer: Tensor, error: BaseException = error) -> Tensor:
            raise error

        oracle.instead = fail
        with pytest.raises(type(error)) as info:
            box(torch.rand(2, 3, 4, 4))
        assert info.value is error
    assert ledger.total() == 4
    ledger.begin()
    assert ledger.uncertain == 4  # asked again by a run that goes on


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"store": "yes"}, r"access\.store: expected one of auto, on, off, got 'yes'"),
        ({"encoding": "gif"}, r"access\.encoding: expected one of float, png, jpeg, got 'gif'"),
        ({"micro_batch": 0}, r"access\.micro_batch: expected a whole number >= 1, got 0"),
        ({"jpeg_quality": 0}, r"access\.jpeg_quality: expected a whole number in 1\.\.100, got 0"),
        ({"jpeg_quality": 101}, r"access\.jpeg_quality.*got 101"),
        ({"top_k": 6}, r"access\.top_k: expected a whole number in 1\.\.5"),
        ({"decimals": 0}, r"access\.decimals: expected a whole number"),
    ],
)
def test_wrong_choices_are_refused_before_anything_is_asked(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        boxed(**choices)
