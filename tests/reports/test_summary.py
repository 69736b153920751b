import numpy as np
import pytest
from fabricated import make_run, rows
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from reprogram.errors import DataError
from reprogram.evaluation.intervals import paired_differences, resample_weights, with_intervals
from reprogram.reports.collect import collect
from reprogram.reports.experiments import group
from reprogram.reports.summary import summarise

KFOLD = {"_target_": "reprogram.data.protocols.KFold", "folds": 3}
ALL = {"reprogrammed": 3.0, "majority": 0.0, "raw_linear": 0.5, "mapping_only": 0.5, "linear_probe": 0.5}


def summary_of(folder, num_resamples: int = 200):
    (experiment,) = group(collect(f"{folder}/*")[0])
    return summarise(experiment, num_resamples)


def test_one_run_gives_the_numbers_of_its_own_predictions(tmp_path):
    make_run(tmp_path / "run")
    found = summary_of(tmp_path)
    (run,) = found.experiment.runs
    tested = run.tested
    assert found.scores["linear_probe"] == with_intervals(tested["linear_probe"], True, 200)
    metrics = ("accuracy", "auroc", "nll")
    expected = paired_differences(tested["reprogrammed"], tested["majority"], metrics, 200)
    assert {name: found.differences["majority"][name] for name in metrics} == expected
    assert (found.spread, found.repeats) == ({}, "1 run")


def test_seeds_are_averaged_within_each_resample(tmp_path):
    for seed in range(3):
        make_run(tmp_path / str(seed), seed=seed)
    found = summary_of(tmp_path)
    seeds = [run.tested["reprogrammed"] for run in found.experiment.runs]
    right = np.mean([one.scores.argmax(axis=1) == one.targets for one in seeds], axis=0)
    resampled = np.concatenate([w @ right / w.sum(axis=1) for w in resample_weights(seeds[0], 200, 0)])
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert found.ours["accuracy"] == pytest.approx({"value": right.mean(), "low": low, "high": high})
    each = [balanced_accuracy_score(one.targets, one.scores.argmax(axis=1)) for one in seeds]
    assert found.spread["balanced_accuracy"] == pytest.approx((np.mean(each), np.std(each, ddof=1)))
    assert (found.repeats, found.spread_over) == ("3 seeds", "3 seeds")


def test_folds_are_pooled_and_spread(tmp_path):
    for seed in (0, 1):
        for fold in range(3):
            path = tmp_path / f"{seed}{fold}"
            make_run(path, rows(20 * fold, 20 * fold + 20), seed, config={"protocol": {**KFOLD, "fold": fold}})
    found = summary_of(tmp_path)
    runs = [run for run in found.experiment.runs if run.record["seed"] == 0]
    targets = np.concatenate([run.tested["reprogrammed"].targets for run in runs])
    aurocs = []
    for seed in (0, 1):
        parts = [run.tested["reprogrammed"] for run in found.experiment.runs if run.record["seed"] == seed]
        aurocs.append(roc_auc_score(targets, np.concatenate([part.scores[:, 1] for part in parts])))
    assert found.ours["auroc"]["value"] == pytest.approx(np.mean(aurocs))
    alone = [
        roc_auc_score(p.targets, p.scores[:, 1]) for r in found.experiment.runs for p in [r.tested["reprogrammed"]]
    ]
    assert found.spread["auroc"] == pytest.approx((np.mean(alone), np.std(alone, ddof=1)))
    assert (found.repeats, found.spread_over) == ("3 folds, 2 seeds", "6 runs")
    assert {value: entry["n"] for value, entry in found.subgroups["site"].items()} == dict.fromkeys(
        ("site0", "site1", "site2"), 20
    )


def test_a_success_needs_every_baseline(tmp_path):
    make_run(tmp_path / "a" / "0", rows(0, 200), skills=ALL)
    found = summary_of(tmp_path / "a")
    assert found.verdicts["balanced_accuracy"].success
    assert found.baselines[-1] == min(ALL, key=lambda name: found.scores[name]["balanced_accuracy"]["value"])
    make_run(tmp_path / "b" / "0", rows(0, 200), skills={"reprogrammed": 3.0, "majority": 0.0})
    lacking = summary_of(tmp_path / "b").verdicts["balanced_accuracy"]
    assert lacking.text.startswith("no claim: baselines not computed: raw linear")


def test_what_cannot_be_pooled_names_the_experiment(tmp_path):
    for name in "ab":
        make_run(tmp_path / name)
    with pytest.raises(DataError, match=r"^ham10000 · resnet50 · white box · frame . linear: 60 examples are tested"):
        summary_of(tmp_path)
