"""Directions: the right second moment, and a pure function of step, example and number."""

import pytest
import torch
from torch import Tensor

from reprogram.errors import ConfigError
from reprogram.estimators.base import StepKey
from reprogram.estimators.directions import KINDS, Directions

D = 5
KEY = StepKey(3, 1, 7)
THETA = torch.zeros(D, dtype=torch.float64)
ROWS = torch.tensor([4, 0, 9])

each = pytest.mark.parametrize("kind", KINDS)


def draw(kind: str, key: StepKey = KEY, rows: Tensor = ROWS, count: int = 3, own: bool = True) -> Tensor:
    return Directions(kind, count, own).draw(key, rows, THETA)


@each
def test_the_second_moment_is_the_identity_once_scaled(kind: str) -> None:
    drawn = torch.cat([draw(kind, rows=torch.arange(4000) + start).flatten(0, 1) for start in (0, 4000)])
    moment = Directions(kind, 1, False).scale(D) * drawn.T @ drawn / len(drawn)
    torch.testing.assert_close(moment, torch.eye(D, dtype=torch.float64), rtol=0, atol=0.06)
    torch.testing.assert_close(drawn.mean(dim=0), THETA, rtol=0, atol=0.04)  # no side is preferred


@each
def test_directions_have_their_lengths(kind: str) -> None:
    lengths = draw(kind).norm(dim=2)
    if kind in ("sphere", "orthogonal"):
        torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=0, atol=1e-6)
    elif kind == "rademacher":
        assert set(draw(kind).flatten().tolist()) == {-1.0, 1.0}
    else:
        assert lengths.std() > 0.1


@pytest.mark.parametrize("own", [True, False])
def test_orthogonal_directions_are_orthonormal_up_to_a_full_set(own: bool) -> None:
    drawn = draw("orthogonal", count=D, own=own)
    products = torch.einsum("qed,ped->eqp", drawn, drawn)
    torch.testing.assert_close(products, torch.eye(D).double().expand_as(products), rtol=0, atol=1e-6)
    with pytest.raises(ConfigError, match=r"num_directions: expected at most 5 orthogonal .* got 6"):
        draw("orthogonal", count=D + 1)


@each
def test_an_example_has_its_directions_whoever_it_is_drawn_with(kind: str) -> None:
    together, alone = draw(kind), draw(kind, rows=torch.tensor([9, 1]))
    assert torch.equal(together[:, 2], alone[:, 0])
    assert not torch.equal(together[:, 1], alone[:, 1])


@each
def test_shared_directions_do_not_depend_on_the_batch(kind: str) -> None:
    assert draw(kind, own=False).shape == (3, 1, D)
    assert torch.equal(draw(kind, own=False), draw(kind, rows=torch.tensor([1]), own=False))


@each
@pytest.mark.parametrize("own", [True, False])
def test_a_direction_depends_on_its_number_but_not_on_how_many_there_are(kind: str, own: bool) -> None:
    torch.testing.assert_close(draw(kind, count=2, own=own), draw(kind, count=4, own=own)[:2], rtol=0, atol=1e-6)
    assert not torch.equal(draw(kind, own=own)[0], draw(kind, own=own)[1])


@each
@pytest.mark.parametrize("own", [True, False])
def test_each_part_of_the_key_matters(kind: str, own: bool) -> None:
    drawn = [draw(kind, StepKey(*key), own=own) for key in ((3, 1, 7), (4, 1, 7), (3, 2, 7), (3, 1, 8), (1, 3, 7))]
    assert all(not torch.equal(one, other) for i, one in enumerate(drawn) for other in drawn[:i])
    assert torch.equal(drawn[0], draw(kind, own=own))


def test_they_have_the_type_of_theta() -> None:
    assert draw("sphere").dtype == torch.float64
    assert Directions("sphere", 1, True).draw(KEY, ROWS, THETA.float()).dtype == torch.float32
