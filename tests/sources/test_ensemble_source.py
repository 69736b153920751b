"""Several sources that answer as one, against the formulas."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reprogram import sourcing
from reprogram.errors import ConfigError, ShapeError
from reprogram.instantiation import call
from reprogram.sources.base import SourceModel
from reprogram.sources.black_box import BlackBox
from reprogram.sources.ensemble import EnsembleSource
from reprogram.sources.ledger import Ledger
from reprogram.sources.network import NetworkSource
from reprogram.sources.prepared import PreparedSource
from reprogram.types import SourceSpec, TaskSpec

HALF = (0.5, 0.5, 0.5)


EMBEDDED = {"_target_": "reprogram.sources.embedded.embedded_source", "prepare": True, "precision": "float32"}


def member(size: tuple[int, int] = (8, 6), names: str = "abcd", name: str = "net", seed: int = 0) -> NetworkSource:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return NetworkSource(name, nn.Sequential(*layers, nn.Linear(8, len(names))), size, HALF, (0.2,) * 3, list(names))


class Opaque(SourceModel):
    """Gives scores and no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = SourceSpec("opaque", (8, 6), tuple("abcd"), differentiable=False)

    def forward(self, images: Tensor) -> Tensor:
        return images.detach().mean((2, 3)).repeat(1, 2)[:, :4].log_softmax(1)

    @property
    def fingerprint(self) -> str:
        return "0" * 64


def pair(**choices: object) -> EnsembleSource:
    return EnsembleSource({"one": member(seed=1), "two": member(seed=2)}, **choices)


def test_average_is_the_mean_of_the_probabilities() -> None:
    members = {name: member(seed=seed) for seed, name in enumerate(("one", "two", "three"))}
    images = torch.rand(5, 3, 8, 6)
    expected = (members["one"](images).exp() + members["two"](images).exp() + members["three"](images).exp()) / 3
    found = EnsembleSource(members)(images)
    torch.testing.assert_close(found.exp(), expected)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(5))
    assert found.dtype == torch.float32


def test_concatenation_gives_every_member_an_equal_share() -> None:
    one, two, images = member(names="abcd"), member(names="xy", seed=1), torch.rand(5, 3, 8, 6)
    made = EnsembleSource({"one": one, "two": two}, "concatenate")
    found = made(images).exp()
    torch.testing.assert_close(found[:, :4], one(images).exp() / 2)
    torch.testing.assert_close(found[:, 4:], two(images).exp() / 2)
    assert made.spec.class_names == ("a", "b", "c", "d", "x", "y")


def test_only_names_that_several_members_have_get_a_prefix() -> None:
    members = {"one": member(names="abb"), "two": member(names="xb"), "three": member(names="yz")}
    names = EnsembleSource(members, "concatenate").spec.class_names
    assert names == ("a", "one/b", "one/b", "x", "two/b", "y", "z")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("abce", r"got 4 of one and 4 of two \(class 3: 'd', 'e'\)"),
        ("bacd", r"\(class 0: 'a', 'b'\)"),
        ("abc", r"got 4 of one and 3 of two; set source\.combine=concatenate"),
    ],
)
def test_only_the_same_classes_are_averaged(names: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"source\.combine: expected the same classes .*{message}"):
        EnsembleSource({"one": member(), "two": member(names=names)})


def test_a_member_of_another_size_gets_the_canvas_resized() -> None:
    small, large = member((8, 6), seed=1), member((10, 16), seed=2)
    made, images = EnsembleSource({"small": small, "large": large}), torch.rand(3, 3, 10, 16)
    assert made.spec.image_size == (10, 16)
    resized = F.interpolate(images, (8, 6), mode="bilinear", antialias=True).clamp(0, 1)
    torch.testing.assert_close(made(images).exp(), (small(resized).exp() + large(images).exp()) / 2)
    chosen = EnsembleSource({"small": small, "large": large}, image_size=(20, 20))
    assert chosen.spec.image_size == (20, 20)
    constant = torch.full((1, 3, 1, 1), 0.3)
    torch.testing.assert_close(chosen(constant.expand(1, 3, 20, 20)), made(constant.expand(1, 3, 10, 16)))
    with pytest.raises(ShapeError, match=r"net\+net: expected images \[B, 3, 20, 20\], got \[3, 3, 10, 16\]"):
        chosen(images)


class Watched(NetworkSource):
    def forward(self, images: Tensor) -> Tensor:
        assert images.min() >= 0
        assert images.max() <= 1
        return super().forward(images)


def test_a_white_canvas_stays_valid_and_keeps_its_gradient() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, (7, 9)), nn.Flatten())
    small = Watched("small", network, (7, 9), HALF, HALF, list("abcd"))
    images = torch.ones(1, 3, 31, 37, requires_grad=True)
    resized = F.interpolate(images, (7, 9), mode="bilinear", antialias=True)
    assert resized.max() > 1  # by rounding
    made = EnsembleSource({"small": small, "large": member((31, 37), names="xy")}, "concatenate")
    (found,) = torch.autograd.grad(made(images)[:, 0].sum(), images)
    (expected,) = torch.autograd.grad(NetworkSource.forward(small, resized)[:, 0].sum(), images)
    torch.testing.assert_close(found, expected)


def test_the_gradient_is_that_of_the_formula() -> None:
    made = EnsembleSource({"one": member(seed=1).double(), "two": member((5, 7), seed=2).double()}, "concatenate")
    images = torch.rand(1, 3, 8, 6, dtype=torch.float64, requires_grad=True)
    assert made.spec.differentiable
    assert torch.autograd.gradcheck(lambda x: made(x)[:, ::3], images)


def test_one_member_without_a_gradient_leaves_none() -> None:
    made = EnsembleSource({"net": member(), "opaque": Opaque()})
    images = torch.rand(2, 3, 8, 6, requires_grad=True)
    assert not made.spec.differentiable
    found = made(images)
    assert not found.requires_grad
    torch.testing.assert_close(found.exp(), (member()(images).exp() + Opaque()(images).exp()) / 2)


def test_members_are_frozen_and_in_evaluation_mode_for_life() -> None:
    made, images = pair(), torch.rand(2, 3, 8, 6)
    before = made(images)
    made.train()
    assert not any(module.training for module in made.modules())
    assert not any(parameter.requires_grad for parameter in made.parameters())
    assert torch.equal(made(images), before)


def test_the_fingerprint_knows_members_order_and_facts() -> None:
    one, two = member(seed=1), member(seed=2)
    assert pair().fingerprint == EnsembleSource({"a": one, "b": two}).fingerprint
    assert len(pair().fingerprint) == 64
    others = [
        EnsembleSource({"two": two, "one": one}),
        EnsembleSource({"one": one, "two": one}),
        EnsembleSource({"one": one, "two": two, "three": two}),
        pair(combine="concatenate"),
        pair(image_size=(8, 7)),
    ]
    assert len({pair().fingerprint, *(other.fingerprint for other in others)}) == 6


def test_prepared_members_answer_as_before_and_say_what_was_done() -> None:
    images = torch.rand(2, 3, 8, 6)
    prepared = {name: PreparedSource(member(seed=seed), "float32") for seed, name in ((1, "one"), (2, "two"))}
    made = EnsembleSource(prepared)
    torch.testing.assert_close(made(images), pair()(images), atol=1e-5, rtol=0)
    assert made.fingerprint == pair().fingerprint
    assert made.preparation is not None
    assert "one: 1 BatchNorms folded" in made.preparation
    assert "; two: 1 BatchNorms folded" in made.preparation
    assert EnsembleSource({"one": prepared["one"], "two": member()}).preparation is None


def test_an_image_is_one_query_whatever_the_number_of_members() -> None:
    hidden = BlackBox(pair(), Ledger(None, "run"))
    hidden(torch.rand(3, 3, 8, 6))
    queries = hidden.queries()
    assert queries is not None
    assert sum(queries.values()) == 3
    assert hidden.spec.class_names == tuple("abcd")


def test_it_is_built_from_a_block(members: Mapping[str, SourceModel]) -> None:
    block = {"_target_": "reprogram.sources.ensemble.EnsembleSource", "combine": "concatenate", "image_size": [9, 9]}
    made = call(block, "source", members=members)
    assert isinstance(made, EnsembleSource)
    assert (made.spec.image_size, made.spec.num_classes) == ((9, 9), 8)
    assert made.spec.name == "resnet+vit"
    assert math.isclose(float(made(torch.rand(1, 3, 9, 9)).exp().sum()), 1, abs_tol=1e-6)


@pytest.fixture
def members() -> Mapping[str, SourceModel]:
    return {"one": member(name="resnet"), "two": member(name="vit", seed=1)}


def test_wrong_choices_are_refused(members: Mapping[str, SourceModel]) -> None:
    for few in ({}, {"one": members["one"]}):
        with pytest.raises(
            ConfigError, match=rf"source\.members: expected at least two sources, got {len(few)}; add one"
        ):
            EnsembleSource(few)
    with pytest.raises(ConfigError, match=r"source\.combine: expected one of average, concatenate, got 'vote'"):
        EnsembleSource(members, "vote")
    with pytest.raises(ConfigError, match=r"source\.image_size: expected \[height,width\] in pixels, got \[0, 9\]"):
        EnsembleSource(members, image_size=(0, 9))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": {"a": "embedded", "b": "embedded"}}, r"source\.members\.a: expected the keys of a source"),
        ({"members": {"a": EMBEDDED, "b": EMBEDDED}, "prepare": True}, r"source\.prepare: expected false"),
        (
            {"members": {"a": {**EMBEDDED, "prepare": "abc"}, "b": EMBEDDED}},
            r"source\.members\.a\.prepare: expected tr",
        ),
    ],
)
def test_wrong_blocks_name_their_key(changes: dict[str, Any], message: str) -> None:
    block = {"_target_": "reprogram.sources.ensemble.EnsembleSource", **changes}
    cfg = {"source": block, "access": {"_target_": None}}
    with pytest.raises(ConfigError, match=message):
        sourcing.source(cfg, "cpu", TaskSpec("toy", ("a", "b"), (4, 4)))
