import pytest
from fabricated import CLASSES, make_run, rows

from reprogram.reports.caveats import caveats, may_show_examples
from reprogram.reports.collect import collect
from reprogram.reports.experiments import group
from reprogram.reports.summary import summarise

KFOLD = {"_target_": "reprogram.data.protocols.KFold", "folds": 3}
DATA = {
    "licence": "CC BY 4.0", "citation": "", "private": False, "classes": CLASSES, "groups": True,
    "sizes": {"train": 300, "val": 60, "test": 300},
}  # fmt: skip
ENVIRONMENT = {"commit": "a" * 40, "command": "reprogram-train"}


def of(folder):
    (experiment,) = group(collect(f"{folder}/*")[0])
    return summarise(experiment, 20)


def test_a_large_clean_repeated_test_needs_no_caveat(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / str(seed), rows(0, 300), seed, data=DATA, environment=ENVIRONMENT)
    assert caveats(of(tmp_path)) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"data": {**DATA, "licence": "CC BY-NC 4.0"}}, "licence of the data (CC BY-NC 4.0) allows no commercial use."),
        ({"data": {**DATA, "licence": "unrestricted for non-commercial research"}}, "allows no commercial use."),
        ({"data": {**DATA, "licence": "unknown"}}, "The licence of the data is not known."),
        ({"data": {**DATA, "private": True}}, "No example is shown: the data are private."),
        ({"environment": {**ENVIRONMENT, "commit": "b-dirty"}}, "Made from code with uncommitted changes."),
        ({"environment": {**ENVIRONMENT, "commit": None}}, "The commit of the code is not known."),
        ({"queries": {"train": 5, "total": 5, "uncertain": 64}}, "64 queries may have been sent without an answer."),
        ({"config": {"protocol": {"shots": 16}}}, "Not all examples are used: protocol.shots=16."),
        ({"config": {"protocol": {"duplicates": "keep"}}}, "An image may be in two splits: protocol.duplicates=keep."),
        ({"groups": False}, "No patient, lesion or subject ids:"),
        ({"test": rows(0, 30)}, "Few test examples (30): an accuracy is uncertain by ±"),
        ({"test": rows(0, 30)}, "Few test examples of a class: benign 15, malignant 15."),
        ({"test": rows(0, 30)}, "Only 15 groups in the test split"),
        ({"classes": "abcdefg"}, "Unequal classes ("),
        ({}, "A single seed:"),
        (
            {"paper": {"table": "BAR, Table 5", "metric": "accuracy", "value": 0.82, "note": "from memory"}},
            "The published value was not measured here: from memory.",
        ),
        (
            {"config": {"protocol": KFOLD}, "test": rows(0, 100), "data": DATA},
            "Folds are missing: 100 of 660 examples were tested.",
        ),
        ({"config": {"protocol": KFOLD}}, "Pooled AUROC and AUPRC rank scores of different programs"),
    ],
)  # fmt: skip
def test_each_rule(tmp_path, arguments, told):
    make_run(tmp_path / "run", **arguments)
    assert any(told in text for text in caveats(of(tmp_path)))


def test_what_differs_between_the_runs(tmp_path):
    for seed in (0, 1, 2):
        skills = {"reprogrammed": 1.0, "majority": 0.0} if seed == 0 else {"reprogrammed": 1.0}
        environment = {**ENVIRONMENT, "commit": str(seed % 2)}
        make_run(tmp_path / f"{seed}", rows(0, 40), seed, skills, environment=environment)
        if seed < 2:
            make_run(tmp_path / f"{seed}b", rows(40, 80), seed, skills, environment=environment)
    found = caveats(of(tmp_path))
    assert "Seed 2 is left out: it tested fewer examples than the others." in found
    assert "Of fewer seeds than the program: majority (1)." in found
    assert "Made by 2 different commits." in found


@pytest.mark.parametrize(
    ("private", "licence", "shown"),
    [
        (False, "CC BY 4.0", True), (False, "CC BY-SA 3.0", True), (False, "generated here, free to use", True),
        (True, "CC BY 4.0", False), (False, "CC BY-NC 4.0", False), (False, "unknown", False),
    ],
)  # fmt: skip
def test_examples_are_shown_only_where_they_may_be(tmp_path, private, licence, shown):
    make_run(tmp_path / "run", data={**DATA, "private": private, "licence": licence})
    assert may_show_examples(of(tmp_path)) is shown
