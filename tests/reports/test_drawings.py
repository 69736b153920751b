import base64
import io

import numpy as np
import pytest
from fabricated import predictions, rows
from PIL import Image
from sklearn.metrics import roc_auc_score

from reprogram.evaluation.metrics import point_metrics
from reprogram.evaluation.predictions import Predictions
from reprogram.reports.drawings import draw_curves, embedded, precision_recall, reliability, roc


def decoded(address: str, kind: str) -> bytes:
    assert address.startswith(f"data:{kind};base64,")
    return base64.b64decode(address.split(",")[1])


@pytest.mark.parametrize("classes", [2, 4])
def test_the_area_under_the_curve_is_the_metric(classes):
    found = predictions(rows(0, 300), classes=classes)
    expected = roc_auc_score(found.targets, found.scores[:, 1] if classes == 2 else found.scores, multi_class="ovr")
    assert np.trapezoid(*reversed(roc(found))) == pytest.approx(expected, abs=2e-3)


def test_recall_rises_and_precision_ends_at_the_prevalence():
    found = predictions(rows(0, 300))
    recall, precision = precision_recall(found)
    assert (np.diff(recall) >= 0).all()
    assert precision[recall == 1].min() == pytest.approx((found.targets == 1).mean())


def test_reliability_agrees_with_the_calibration_error():
    found = predictions(rows(0, 300), classes=4)
    (confidence, accuracy), counts = reliability(found)
    assert (len(counts), counts.sum()) == (15, 300)
    gap = np.abs(confidence - accuracy) @ counts[counts > 0] / 300
    assert gap == pytest.approx(point_metrics(found, False)["ece"])


def test_one_class_has_no_curves_but_reliability():
    ids = tuple(rows(0, 10))
    one = Predictions("test", ids, np.zeros(10, dtype=np.int64), np.tile([0.7, 0.3], (10, 1)))
    assert list(draw_curves({"reprogrammed": one})) == ["Reliability"]


def test_pictures_hold_the_names_and_the_same_curves_give_the_same_picture():
    models = {"reprogrammed": predictions(rows(0, 40)), "<b>probe & $x$": predictions(rows(0, 40), skill=0.5)}
    drawn = draw_curves(models)
    assert list(drawn) == ["ROC", "Precision and recall", "Reliability"]
    text = decoded(drawn["ROC"], "image/svg+xml").decode()
    assert "&lt;b&gt;probe &amp; $x$" in text
    assert "sensitivity" in text
    assert draw_curves(models) == drawn


def test_a_picture_of_noise_is_made_small_and_others_stay_sharp(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(700, 700, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    Image.new("RGB", (700, 400)).save(tmp_path / "plain.png")
    noise, plain = (decoded(embedded(tmp_path / f"{name}.png"), "image/webp") for name in ("noise", "plain"))
    assert len(noise) < 60_000
    assert Image.open(io.BytesIO(noise)).size == (300, 300)
    assert Image.open(io.BytesIO(plain)).size == (700, 400)


def test_a_missing_or_damaged_picture_is_left_out(tmp_path):
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    assert embedded(tmp_path / "damaged.png") is None
    assert embedded(tmp_path / "missing.png") is None
