import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from reprogram.evaluation.pictures import draw_confusion, draw_curves, draw_examples, draw_program
from reprogram.evaluation.predictions import Predictions

LONG = "actinic keratoses / intraepithelial carcinoma (Bowen's disease)"


@pytest.fixture
def figures(monkeypatch):
    """The figures saved during a test, for a look behind the pixels."""
    saved = []
    original = Figure.savefig

    def save(self, *args, **kwargs):
        original(self, *args, **kwargs)
        saved.append(self)

    monkeypatch.setattr(Figure, "savefig", save)
    return saved


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def assert_apart(figure: Figure, labels) -> None:
    """No two of these texts overlap, and none leaves the figure."""
    boxes = [label.get_window_extent() for label in labels if label.get_text()]
    for index, one in enumerate(boxes):
        assert one.x0 >= -1
        assert one.x1 <= figure.bbox.x1 + 1
        assert not any(one.overlaps(other) for other in boxes[index + 1 :])


def test_program_pixels_and_outline(tmp_path, figures):
    program = np.random.default_rng(0).random((3, 8, 16))
    draw_program(tmp_path / "program.png", program, (2, 4, 3, 5), "A program for $5 and $6, " + LONG)
    axes = figures[0].axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), program.transpose(1, 2, 0))
    assert [patch.get_bbox().bounds for patch in axes.patches] == [(3.5, 1.5, 5, 3)] * 2
    assert_apart(figures[0], [figures[0]._suptitle, axes.xaxis.label])
    picture = imread(tmp_path / "program.png")
    assert picture.shape[1] == 600
    # The top left program pixel, wherever the axes lie: its colour covers a part of the picture.
    assert (np.abs(picture[..., :3] - program[:, 0, 0]).max(axis=2) < 0.01).mean() > 0.002


def test_program_without_a_box_has_no_outline(tmp_path, figures):
    draw_program(tmp_path / "program.png", np.zeros((3, 4, 4)), None, "full")
    assert not figures[0].axes[0].patches
    assert figures[0].axes[0].get_xlabel() == "4 x 4 pixels"


def test_examples_tell_right_from_wrong(tmp_path, figures):
    canvases = np.random.default_rng(0).random((5, 3, 6, 6))
    draw_examples(
        tmp_path / "examples.png",
        canvases,
        ["ill", "well", "ill", "ill", LONG],
        ["ill", "ill", "ill", "ill", LONG],
        ["tench", "goldfish", "tench", "tench", LONG],
        [0.5, 0.256, 0.1, 0.1, 1.0],
        ["ill", "well", "ill", "ill", LONG],
        "examples",
    )
    shown = figures[0].axes
    assert [axes.axison for axes in shown] == [True] * 5 + [False] * 3
    assert shown[0].get_title() == "target: ill\ndecided: ill ✓"
    assert shown[1].get_title() == "target: well\ndecided: ill ✗"
    assert shown[1].get_xlabel() == "sees goldfish 0.26\n→ well"
    assert shown[0].title.get_color() != shown[1].title.get_color()
    np.testing.assert_allclose(shown[4].images[0].get_array(), canvases[4].transpose(1, 2, 0))
    assert_apart(figures[0], [axes.title for axes in shown[:5]] + [axes.xaxis.label for axes in shown[:5]])


def test_examples_without_a_class_to_class_mapping(tmp_path, figures):
    draw_examples(tmp_path / "e.png", np.ones((1, 3, 4, 4)), ["a"], ["b"], ["tench"], [0.5], None, "one")
    assert figures[0].axes[0].get_xlabel() == "sees tench 0.50"


def test_curves_skip_what_is_missing_and_mark_the_best_epoch(tmp_path, figures):
    history = [
        {"epoch": 0, "train/loss": 2.0, "val/loss": 2.5, "val/auroc": None, "lr": 0.1},
        {"epoch": 1, "train/loss": 1.0, "val/auroc": 0.8, "train/accuracy": 0.5},
        {"epoch": 2, "train/loss": 0.5, "val/loss": 1.5, "val/auroc": float("nan")},
    ]
    draw_curves(tmp_path / "curves.png", history, best=2)
    loss, metric = figures[0].axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in (*loss.lines, *metric.lines)}
    assert drawn == {
        "train loss": [[0, 2.0], [1, 1.0], [2, 0.5]],
        "val loss": [[0, 2.5], [2, 1.5]],
        "best epoch: 2": [[2, 0], [2, 1]],
        "train accuracy": [[1, 0.5]],
        "val auroc": [[1, 0.8]],
    }
    assert {text.get_text() for text in loss.get_legend().get_texts()} == {"train loss", "val loss", "best epoch: 2"}


def test_curves_over_queries_start_before_the_first_step(tmp_path, figures):
    history = [
        {"queries": 480, "val/accuracy": 0.5, "val/nll": 0.9},
        {"queries": 2480, "val/accuracy": 0.7, "train/loss": 0.6},
    ]
    draw_curves(tmp_path / "curves.png", history, 2480, "queries")
    loss, metric = figures[0].axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in metric.lines}
    assert drawn == {"val accuracy": [[480, 0.5], [2480, 0.7]], "best at 2,480 queries": [[2480, 0], [2480, 1]]}
    assert loss.get_xlabel() == metric.get_xlabel() == "queries"


def test_one_epoch_is_visible_and_none_is_no_error(tmp_path, figures):
    draw_curves(tmp_path / "one.png", [{"epoch": 0, "train/loss": 1.0, "val/accuracy": 0.5}], 0)
    assert figures[0].axes[0].lines[0].get_marker() == "s"
    assert figures[0].axes[1].lines[0].get_marker() == "o"
    draw_curves(tmp_path / "none.png", [], None)
    assert not figures[1].axes[0].lines


@pytest.mark.parametrize("num_classes", [2, 20])
def test_confusion_counts_and_shares(tmp_path, figures, num_classes):
    generator = np.random.default_rng(0)
    targets = generator.integers(num_classes - 1, size=300)  # the last class has no example
    decided = np.where(generator.random(300) < 0.7, targets, generator.integers(num_classes, size=300))
    ids = tuple(map(str, range(300)))
    names = [f"{LONG} {label}" for label in range(num_classes)]
    draw_confusion(tmp_path / "c.png", Predictions("test", ids, targets, np.eye(num_classes)[decided]), names, "title")
    axes = figures[0].axes[0]
    counts = np.array(texts(axes), dtype=int).reshape(num_classes, num_classes)
    expected = [
        [((targets == row) & (decided == column)).sum() for column in range(num_classes)] for row in range(num_classes)
    ]
    np.testing.assert_array_equal(counts, expected)
    shares = axes.images[0].get_array()
    np.testing.assert_allclose(shares.sum(axis=1), [1.0] * (num_classes - 1) + [0.0])
    assert len({label.get_text() for label in axes.get_yticklabels()}) == num_classes  # still told apart
    assert_apart(figures[0], [*axes.get_xticklabels(), axes.xaxis.label])
    assert_apart(figures[0], [*axes.get_yticklabels(), axes.yaxis.label])


def test_confusion_follows_the_operating_threshold(tmp_path, figures):
    scores = np.array([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4]])
    predictions = Predictions("test", ("a", "b", "c"), np.array([0, 1, 1]), scores)
    draw_confusion(tmp_path / "c.png", predictions, ["well", "ill"], "title", threshold=0.35)
    assert texts(figures[0].axes[0]) == ["1", "0", "1", "1"]
