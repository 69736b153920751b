"""Whether a result may be called a success: it beats every baseline there should be, and not by luck."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reprogram.evaluation.intervals import Interval

MAIN = "balanced_accuracy"
LOWER_IS_BETTER = ("nll", "ece")
LEVEL = 0.05


@dataclass(frozen=True)
class Verdict:
    """A success or not, and the sentence that says so."""

    success: bool
    text: str


def verdict(
    ours: Mapping[str, Interval],
    baselines: Mapping[str, Mapping[str, Interval]],
    over_baselines: Mapping[str, Mapping[str, Interval]],
    missing: Sequence[str],
    metric: str = MAIN,
) -> Verdict:
    """Judges one metric of the test split.

    A success is better than every baseline, each with p < 0.05 in the paired test; as all of them must be beaten, the
    number of tests asks for no correction. A baseline that was not computed leaves nothing to claim.

    Args:
        ours: Metrics of the reprogrammed classifier.
        baselines: Metrics of each baseline.
        over_baselines: Ours minus theirs, with ``p_value``.
        missing: Baselines that were not computed and should have been.
        metric: The one to judge.
    """
    better = -1 if metric in LOWER_IS_BETTER else 1
    found = {name: over_baselines.get(name, {}).get(metric, {}) for name in baselines}
    gains = {name: better * (difference.get("value") or 0.0) for name, difference in found.items()}
    p_values = {name: difference.get("p_value") for name, difference in found.items()}
    unbeaten = [name for name in baselines if gains[name] <= 0 or (p := p_values[name]) is None or p >= LEVEL]
    title = metric_title(metric)
    if unbeaten:
        against = [
            f"{_spoken(name)} ({_number(baselines[name].get(metric))}"
            + (")" if (p := p_values[name]) is None else f", p = {p:.3f})")
            for name in unbeaten
        ]
        absent = f"; not computed: {_listed(missing)}" if missing else ""
        return Verdict(False, f"not better in {title} ({_number(ours.get(metric))}) than {', '.join(against)}{absent}")
    if missing or not baselines:
        return Verdict(False, f"no claim: baselines not computed: {_listed(missing) or 'all'}")
    least, most = min(gains.values()) * better, max(p for p in p_values.values() if p is not None)
    return Verdict(True, f"better than every baseline ({title} at least {least:+.3f}, p at most {most:.3f})")


def metric_title(name: str) -> str:
    """A metric or baseline as it is written in tables."""
    return _ABBREVIATIONS.get(name, _spoken(name))


_ABBREVIATIONS = {"auroc": "AUROC", "auprc": "AUPRC", "f1_macro": "macro F1", "nll": "NLL", "ece": "ECE"}


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _listed(names: Sequence[str]) -> str:
    return "; ".join(map(_spoken, names))  # one of them may be "this or that"


def _number(score: Interval | None) -> str:
    return "n/a" if score is None or score["value"] is None else f"{score['value']:.3f}"
