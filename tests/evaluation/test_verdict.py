import pytest

from reprogram.evaluation.verdict import metric_title, verdict


def judged(gains: dict, missing=(), metric: str = "balanced_accuracy"):
    """Ours is 0.60; gains by baseline: value and p."""
    ours = {metric: {"value": 0.6}}
    baselines = {name: {metric: {"value": 0.6 - value}} for name, (value, _) in gains.items()}
    over = {name: {metric: {"value": value, "p_value": p}} for name, (value, p) in gains.items()}
    return verdict(ours, baselines, over, missing, metric)


def test_a_success_beats_every_baseline_and_names_the_closest():
    found = judged({"majority": (0.1, 0.002), "linear_probe": (0.03, 0.01)})
    assert found.success
    assert found.text == "better than every baseline (balanced accuracy at least +0.030, p at most 0.010)"


@pytest.mark.parametrize(("gain", "p"), [(-0.04, 0.01), (0.0, 1.0), (0.03, 0.05), (0.03, None)])
def test_one_unbeaten_baseline_is_enough(gain, p):
    found = judged({"majority": (0.1, 0.002), "linear_probe": (gain, p)})
    assert not found.success
    tested = "" if p is None else f", p = {p:.3f}"
    assert found.text == f"not better in balanced accuracy (0.600) than linear probe ({0.6 - gain:.3f}{tested})"


def test_nothing_is_claimed_without_the_baselines():
    found = judged({"majority": (0.1, 0.002)}, ["raw_linear", "linear_probe or feature_probe"])
    assert not found.success
    assert found.text == "no claim: baselines not computed: raw linear; linear probe or feature probe"
    assert judged({}).text == "no claim: baselines not computed: all"
    assert not judged({}).success


def test_what_is_lost_is_said_even_where_a_baseline_is_missing():
    found = judged({"majority": (-0.1, 0.002)}, ["raw_linear"])
    assert (
        found.text
        == "not better in balanced accuracy (0.600) than majority (0.700, p = 0.002); not computed: raw linear"
    )


def test_of_errors_less_is_better():
    assert judged({"majority": (-0.2, 0.01), "linear_probe": (-0.1, 0.02)}, metric="nll").success
    assert "NLL at least -0.100" in judged({"majority": (-0.2, 0.01), "linear_probe": (-0.1, 0.02)}, metric="nll").text
    assert not judged({"majority": (0.2, 0.01)}, metric="ece").success


def test_an_undefined_metric_is_no_success():
    undefined = {"auroc": {"value": None, "low": None, "high": None, "p_value": None}}
    found = verdict({"auroc": {"value": None}}, {"majority": undefined}, {"majority": undefined}, [], "auroc")
    assert (found.success, found.text) == (False, "not better in AUROC (n/a) than majority (n/a)")


def test_titles():
    assert [metric_title(name) for name in ("auroc", "f1_macro", "balanced_accuracy")] == [
        "AUROC", "macro F1", "balanced accuracy",
    ]  # fmt: skip
