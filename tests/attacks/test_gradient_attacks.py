"""FGSM and PGD against an implementation of their own, and against the known worst case of a linear classifier."""

import sys
from typing import Any

import numpy as np
import pytest
import torch
from linear_victim import LinearSource, examples, linear
from torch import Tensor
from torch.nn.functional import cross_entropy

from reprogram import build, sourcing
from reprogram.attacks.base import GradientAttack
from reprogram.attacks.campaign import follow, look
from reprogram.attacks.gradient import FGSM, PGD
from reprogram.attacks.victim import BareSource, WholeClassifier
from reprogram.classifier import ReprogrammedClassifier
from reprogram.errors import ConfigError
from reprogram.types import TaskSpec

CPU = torch.device("cpu")
CFG: dict[str, Any] = {
    "source": {"_target_": "reprogram.sources.embedded.embedded_source", "prepare": True},
    "access": {"_target_": None},
    "program": {"_target_": "reprogram.programs.frame.FrameProgram", "size": 32},
    "mapping": {"_target_": "reprogram.mappings.assignment.AssignmentMapping", "choice": "random", "per_class": 4},
    "seed": 0,
}


@pytest.fixture(scope="module", params=["three classes", "a threshold", "grey"])
def classifier(request) -> ReprogrammedClassifier:
    names = ("benign", "malignant") if request.param == "a threshold" else ("a", "b", "c")
    task = TaskSpec("toy", names, (12, 10))
    model = build.classifier(CFG, sourcing.source(CFG, "cpu", task), task, "cpu").eval()
    model.temperature, model.grey = 1.7, request.param == "grey"  # type: ignore[assignment]
    model.threshold = 0.3 if len(names) == 2 else None
    return model.requires_grad_(False)


@pytest.fixture
def images(classifier: ReprogrammedClassifier) -> Tensor:
    return torch.rand(6, 1 if classifier.grey else 3, 12, 10, generator=torch.Generator().manual_seed(1))


def slope(classifier: ReprogrammedClassifier, images: Tensor, labels: Tensor) -> Tensor:
    """Of the cross-entropy, by plain autograd."""
    images = images.clone().requires_grad_(True)
    log_probs = (classifier.scores(classifier.compose(images.expand(-1, 3, -1, -1))) / 1.7).log_softmax(1)
    if classifier.threshold is not None:
        log_probs = log_probs - torch.tensor([1 - classifier.threshold, classifier.threshold]).log()
    return torch.autograd.grad(cross_entropy(log_probs, labels, reduction="sum"), images)[0]


def test_fgsm_agrees_with_plain_autograd(classifier: ReprogrammedClassifier, images: Tensor) -> None:
    labels, victim = torch.tensor([0, 1, 0, 1, 0, 1]), WholeClassifier(classifier)
    for strength in (0.004, 0.1):
        found = FGSM([strength]).perturb(victim, images, labels, strength, 4)
        expected = (images + strength * slope(classifier, images, labels).sign()).clamp(0, 1)
        assert (found - expected).abs().max() <= 1e-6
        assert (found != images).float().mean() > 0.9


@pytest.mark.parametrize("random_starts", [0, 1])
def test_pgd_agrees_with_plain_autograd(classifier: ReprogrammedClassifier, images: Tensor, random_starts: int) -> None:
    labels, victim, strength = torch.tensor([0, 1, 0, 1, 0, 1]), WholeClassifier(classifier), 0.05
    attack = PGD([strength], steps=5, step_size=0.3, random_starts=random_starts, seed=4)
    found = attack.perturb(victim, images, labels, strength, 6)
    expected = images.clone()
    if random_starts:
        random = np.random.RandomState(np.random.SeedSequence((4, 0)).generate_state(1))
        noise = random.uniform(-strength, strength, (6, images[0].numel())).reshape(images.shape)
        expected = (images + torch.from_numpy(noise.astype(np.float32))).clamp(0, 1)
    for _ in range(5):
        stepped = (expected + 0.3 * strength * slope(classifier, expected, labels).sign()).clamp(0, 1)
        expected = images + (stepped - images).clamp(-strength, strength)
    assert (found - expected).abs().max() <= 1e-6
    assert (found - images).abs().max() <= strength + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("attack", [FGSM([0.01, 0.02, 0.05, 0.1]), PGD([0.01, 0.02, 0.05, 0.1], steps=4)])
@pytest.mark.parametrize("whole", [True, False])
def test_of_a_linear_classifier_the_accuracy_is_known(attack: GradientAttack, whole: bool) -> None:
    images, weight = examples()
    model = linear(LinearSource(weight))
    victim = WholeClassifier(model) if whole else BareSource(model.source)
    margins = images.flatten(1) @ weight
    labels = (margins < 0).long()
    outcome = follow(attack, victim, images, labels, look(victim, images, 7, CPU), 7, CPU)
    expected = [(margins.abs() > strength * weight.abs().sum()).double().mean() for strength in outcome.levels]
    found = [(victim.decide(scores) == labels).double().mean() for scores in outcome.scores]
    assert outcome.levels == [0, 0.01, 0.02, 0.05, 0.1]
    assert found == expected
    assert 0 < expected[2] < expected[1] < 1


def test_what_was_wrong_before_is_left_alone() -> None:
    images, weight = examples()
    victim = WholeClassifier(linear(LinearSource(weight)))
    labels = (images.flatten(1) @ weight < 0).long()
    labels[:5] = 1 - labels[:5]
    outcome = follow(FGSM([0.1]), victim, images, labels, look(victim, images, 7, CPU), 7, CPU)
    assert torch.equal(outcome.images[:5], images[:5])
    assert torch.equal(outcome.scores[0, :5], outcome.scores[1, :5])
    assert (outcome.images[5:] != images[5:]).flatten(1).any(dim=1).all()


def test_the_state_of_numpy_is_as_before_and_starts_are_a_matter_of_the_seed() -> None:
    images, weight = examples()
    victim = WholeClassifier(linear(LinearSource(weight)))
    np.random.seed(7)
    expected = np.random.RandomState(7).rand()
    drawn = [PGD([0.1], steps=1, step_size=0.1, seed=seed).perturb(victim, images, torch.zeros(20).long(), 0.1, 20)
             for seed in (0, 0, 1)]  # fmt: skip
    assert np.random.rand() == expected
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FGSM([]), r"attack.strengths: expected numbers in \(0, 1\]"),
        (lambda: FGSM([0.1, 0.0]), r"got \[0.1, 0.0\]"),
        (lambda: PGD([1.5]), r"got \[1.5\]"),
        (lambda: PGD([0.1], steps=0), r"attack.steps: expected a whole number >= 1, got 0"),
        (lambda: PGD([0.1], random_starts=-1), r"attack.random_starts: expected a whole number >= 0"),
        (lambda: PGD([0.1], step_size=0.0), r"attack.step_size: expected a part of the strength in \(0, 1\], got 0.0"),
    ],
)
def test_wrong_values_are_refused(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "art.attacks.evasion", None)
    with pytest.raises(ConfigError, match=r"attack=fgsm: needs .* pip install reprogram\[attacks\]"):
        FGSM([0.1])
