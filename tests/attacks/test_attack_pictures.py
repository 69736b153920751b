"""Pictures of attacks: what stands in them."""

import dataclasses
from pathlib import Path

import pytest
import torch
from linear_victim import LinearSource, examples, linear
from matplotlib.figure import Figure
from matplotlib.image import imread

from reprogram.attacks.campaign import Outcome, follow, look
from reprogram.attacks.gradient import FGSM
from reprogram.attacks.pictures import draw_attacked, draw_curve
from reprogram.attacks.victim import WholeClassifier

CPU = torch.device("cpu")


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    saved, original = [], Figure.savefig

    def save(self, *args, **kwargs) -> None:
        original(self, *args, **kwargs)
        saved.append(self)

    monkeypatch.setattr(Figure, "savefig", save)
    return saved


def attacked(strength: float) -> tuple[WholeClassifier, torch.Tensor, Outcome]:
    images, weight = examples()
    victim = WholeClassifier(linear(LinearSource(weight)))
    clean = look(victim, images, 20, CPU)
    return victim, images, follow(FGSM([strength]), victim, images, victim.decide(clean), clean, 20, CPU)


def test_fooled_images_stand_beside_what_they_were(tmp_path: Path, figures: list[Figure]) -> None:
    victim, images, outcome = attacked(0.1)
    assert draw_attacked(tmp_path / "examples.png", victim, images, outcome, "a title")
    axes = figures[0].axes
    assert len(axes) == 4 * 4
    row = outcome.fooled.index(True)
    shown = [torch.from_numpy(one.images[0].get_array()).permute(2, 0, 1) for one in axes[:3]]
    torch.testing.assert_close(shown[0], images[row].double(), check_dtype=False)
    torch.testing.assert_close(shown[1], outcome.images[row].double(), check_dtype=False)
    assert shown[2].min() == pytest.approx(0, abs=1e-5)  # the whole of a sign step is black or white
    assert shown[2].max() == pytest.approx(1, abs=1e-5)
    assert axes[2].get_title() == "difference x 5 (most 0.1)"
    before, after = victim.decide(outcome.scores[0])[row], victim.decide(outcome.scores[-1])[row]
    assert axes[0].get_title() == f"original: {victim.spec.class_names[before]}"
    assert axes[1].get_title() == f"attacked: {victim.spec.class_names[after]}"
    widths = [bar.get_width() for bar in axes[3].patches]
    expected = victim.probabilities(outcome.scores[[0, -1], row])
    order = [int(after), int(before)]  # from below
    assert widths == pytest.approx([*expected[0, order].tolist(), *expected[1, order].tolist()])


def test_an_image_that_is_decided_anew_without_a_change_is_shown(tmp_path: Path, figures: list[Figure]) -> None:
    victim, images, outcome = attacked(0.1)
    same = dataclasses.replace(outcome, images=images)
    assert draw_attacked(tmp_path / "examples.png", victim, images, same, "a title")
    assert figures[0].axes[2].get_title() == "difference x 1 (most 0)"


def test_without_a_fooled_image_there_is_no_picture(tmp_path: Path) -> None:
    victim, images, outcome = attacked(1e-4)
    (tmp_path / "examples.png").write_text("of an earlier attack")
    assert not draw_attacked(tmp_path / "examples.png", victim, images, outcome, "a title")
    assert not (tmp_path / "examples.png").exists()


@pytest.mark.parametrize(("measure", "levels"), [("strength", [0, 0.01, 0.1]), ("queries", [0, 1, 100])])
def test_the_curve_has_its_band(tmp_path: Path, figures: list[Figure], measure: str, levels: list[float]) -> None:
    accuracy = [{"value": one, "low": one - 0.1, "high": one + 0.1} for one in (0.9, 0.6, 0.2)]
    accuracy[0] |= {"low": None, "high": None}  # one group
    draw_curve(tmp_path / "curve.png", measure, levels, accuracy, "a title")
    (axes,) = figures[0].axes
    assert axes.lines[0].get_xydata().tolist() == [[levels[0], 0.9], [levels[1], 0.6], [levels[2], 0.2]]
    assert axes.get_xlim() == (0, levels[-1])
    assert measure in axes.get_xlabel()
    assert imread(tmp_path / "curve.png").std() > 0
