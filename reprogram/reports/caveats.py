"""What a reader must know before believing a number: derived from the records by rule."""

import re
from collections.abc import Iterator

import numpy as np

from reprogram.evaluation.predictions import Predictions
from reprogram.evaluation.verdict import metric_title
from reprogram.reports.collect import OURS
from reprogram.reports.experiments import protocol_of
from reprogram.reports.summary import Summary

SHAREABLE = frozenset(
    {"CC BY 4.0", "CC BY 3.0", "CC BY-SA 4.0", "CC BY-SA 3.0", "CC0 1.0", "generated here, free to use"}
)  # licences under which pictures of examples may be passed on

_FEW_EXAMPLES = 200
_FEW_OF_A_CLASS = 20
_NAMED = 6  # classes in one sentence
_UNEQUAL = 3.0  # the largest class over the smallest
_NON_COMMERCIAL = re.compile(r"\bnc\b|non-?\s?commercial|research only", re.IGNORECASE)


def may_show_examples(summary: Summary) -> bool:
    """Whether target images may leave the run: not of private data, and only where the licence says so."""
    data = summary.record["data"]
    return not data["private"] and data["licence"] in SHAREABLE


def caveats(summary: Summary) -> list[str]:
    """All that apply, the most important first."""
    return [*_of_the_comparison(summary), *_of_the_test(summary), *_of_the_runs(summary), *_of_the_data(summary)]


def _of_the_comparison(summary: Summary) -> Iterator[str]:
    paper = summary.record.get("paper")
    if paper:
        yield f"The published value was not measured here: {paper.get('note') or 'nothing is noted about its split'}."
    chosen = summary.experiment.runs[0].config["protocol"]
    for key in ("shots", "train_fraction", "max_train", "max_val", "max_test"):
        if chosen.get(key) is not None:
            yield f"Not all examples are used: protocol.{key}={chosen[key]}."
    if chosen.get("duplicates") == "keep":
        yield "An image may be in two splits: protocol.duplicates=keep."


def _of_the_test(summary: Summary) -> Iterator[str]:
    test, classes = summary.pooled.first, summary.record["data"]["classes"]
    accuracy = summary.ours["accuracy"]
    if len(test.ids) < _FEW_EXAMPLES and accuracy["low"] is not None and accuracy["high"] is not None:
        half = (accuracy["high"] - accuracy["low"]) / 2
        yield f"Few test examples ({len(test.ids)}): an accuracy is uncertain by ±{100 * half:.0f} points."
    counts = np.bincount(test.targets, minlength=len(classes))
    small, large = int(counts.argmin()), int(counts.argmax())
    if counts[large] >= _UNEQUAL * counts[small]:
        share = 100 * counts / counts.sum()
        shares = " and ".join(f"{share[index]:.0f} % {classes[index]}" for index in (large, small))
        yield f"Unequal classes ({shares}): read balanced accuracy and AUROC, not accuracy."
    if counts[small] < _FEW_OF_A_CLASS:
        rare = [f"{classes[index]} {count}" for index, count in enumerate(counts) if count < _FEW_OF_A_CLASS]
        more = f" and of {len(rare) - _NAMED} others" if len(rare) > _NAMED else ""
        yield f"Few test examples of a class: {', '.join(rare[:_NAMED])}{more}."
    if test.groups is None:
        yield (
            "No patient, lesion or subject ids: examples of one patient may be in two splits, "
            "and intervals take them to be independent."
        )
    elif (groups := len(set(test.groups))) < _FEW_OF_A_CLASS:
        yield f"Only {groups} groups in the test split: intervals over them are rough."
    yield from _of_the_folds(summary, test)


def _of_the_folds(summary: Summary, test: Predictions) -> Iterator[str]:
    record, protocol = summary.record, protocol_of(summary.experiment.runs[0])
    everything = sum(record["data"]["sizes"].values())
    if protocol != "FixedSplit":
        if len(test.ids) < everything:
            yield f"Folds are missing: {len(test.ids)} of {everything} examples were tested."
        yield "Pooled AUROC and AUPRC rank scores of different programs together; the spread over folds does not."
    for seed in summary.pooled.left_out:
        yield f"Seed {seed} is left out: it tested fewer examples than the others."


def _of_the_runs(summary: Summary) -> Iterator[str]:
    records = [run.record for run in summary.experiment.runs]
    if len(summary.pooled.seeds) == 1:
        yield "A single seed: the intervals know nothing of how results vary from one training to the next."
    fewer = {
        metric_title(name): len(found)
        for name, found in summary.pooled.classifiers.items()
        if name != OURS and len(found) < len(summary.pooled.seeds)
    }
    if fewer:
        yield f"Of fewer seeds than the program: {', '.join(f'{name} ({count})' for name, count in fewer.items())}."
    commits = {record["environment"].get("commit") for record in records}
    if None in commits:
        yield "The commit of the code is not known."
    if any(commit and commit.endswith("-dirty") for commit in commits):
        yield "Made from code with uncommitted changes."
    if len(commits) > 1:
        yield f"Made by {len(commits)} different commits."
    if "local_probe" in summary.baselines:
        local = summary.experiment.runs[0].config["evaluation"]["local_source"]
        named = local.get("name") or local.get("target") or local["_target_"]
        yield f"The backbone of the local probe is {str(named).rsplit('.', 1)[-1]}; a better one may do better."
    uncertain = sum(record["queries"].get("uncertain") or 0 for record in records)
    if uncertain:
        yield f"{uncertain} queries may have been sent without an answer."


def _of_the_data(summary: Summary) -> Iterator[str]:
    data = summary.record["data"]
    if _NON_COMMERCIAL.search(data["licence"]):
        yield f"The licence of the data ({data['licence']}) allows no commercial use."
    if data["licence"] == "unknown":
        yield "The licence of the data is not known."
    if not may_show_examples(summary):
        yield f"No example is shown: the data {'are private' if data['private'] else 'may not be passed on'}."
