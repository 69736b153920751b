import pytest
from fabricated import make_run

from reprogram.reports.collect import collect
from reprogram.reports.experiments import group

KFOLD = {"_target_": "reprogram.data.protocols.KFold", "folds": 10, "seed": 0}
SITES = {"_target_": "reprogram.data.protocols.LeaveOneOut", "attribute": "site", "value": None}


def headings(tmp_path, *configs) -> list[tuple[str, int]]:
    for number, config in enumerate(configs):
        make_run(tmp_path / str(number), seed=config.pop("seed", 0), config=config)
    return [(found.heading, len(found.runs)) for found in group(collect(f"{tmp_path}/*")[0])]


def test_seeds_are_one_experiment_whatever_else_a_repeat_may_change(tmp_path):
    assert headings(
        tmp_path,
        {"seed": 0},
        {"seed": 1, "logger": {"csv": False}, "trainer": {"enable_progress_bar": False}},
        {"seed": 2, "evaluation": {"baselines": []}, "access": {"ledger": "elsewhere.sqlite"}},
    ) == [("ham10000 · resnet50 · white box · frame + linear", 3)]


@pytest.mark.parametrize(
    ("protocol", "key", "told"), [(KFOLD, "fold", "10 folds"), (SITES, "index", "leave one site out")]
)
def test_folds_are_one_experiment(tmp_path, protocol, key, told):
    found = headings(tmp_path, *({"protocol": {**protocol, key: fold}} for fold in range(3)))
    assert found == [(f"ham10000 · resnet50 · white box · frame + linear · {told}", 3)]


def test_a_heading_says_what_differs(tmp_path):
    black_box = {"access": {"_target_": "reprogram.sources.black_box.BlackBox"}}
    assert headings(
        tmp_path,
        {},
        {"program": {"size": 128}},
        {"program": {"_target_": "reprogram.programs.full.FullProgram"}},
        black_box,
        {**black_box, "mapping": {"_target_": "reprogram.mappings.frequency.FrequencyMapping"}},
    ) == [
        ("ham10000 · resnet50 · white box · frame + linear · program.size=null", 1),
        ("ham10000 · resnet50 · white box · frame + linear · program.size=128", 1),
        ("ham10000 · resnet50 · white box · full + linear", 1),
        ("ham10000 · resnet50 · black box · frame + linear", 1),
        ("ham10000 · resnet50 · black box · frame + frequency", 1),
    ]


def test_few_of_many_differences_are_named(tmp_path):
    many = {"trainer": {f"key{i}": i for i in range(9)}, "loss": {"_target_": "reprogram.losses.Focal"}}
    heading, _ = headings(tmp_path, {}, many)[1]
    assert heading.count("=") == 4
    assert heading.endswith(" · trainer.key0=0 · trainer.key1=1 · trainer.key2=2 · trainer.key3=3")
