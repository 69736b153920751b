"""Runs that are trained on the labelled part of the training rows alone."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from reprogram import build
from reprogram.errors import ConfigError, DataError
from reprogram.rescoring import evaluate
from reprogram.runs import train


def listed(cfg, folder: Path, rows: Sequence[int], trust: float | None = None) -> Path:
    """Labels of some training rows of a run, as the data have them."""
    data = build.task_data(build.plain(cfg))
    split, names = data.splits["train"], data.spec.class_names
    cells = [[split.ids[row], names[split.targets[row]], *([] if trust is None else [str(trust)])] for row in rows]
    path = folder / "labels.csv"
    path.write_text("\n".join(map(",".join, [["id", "label", "trust"][: len(cells[0])], *cells])), encoding="utf-8")
    return path


def test_a_run_is_trained_on_what_is_labelled(small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed(small(), tmp_path, range(0, 96, 4))
    monkeypatch.chdir(tmp_path)
    result = train(small("protocol.labels=labels.csv"))
    assert result.metrics["data"]["sizes"] == {"train": 24, "val": 40, "test": 40}
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["protocol"]["labels"] == str(tmp_path / "labels.csv")  # from wherever the run is continued
    again = {"run": str(tmp_path / "run"), "split": "test", "output": None, "num_resamples": 20, "batch_size": None}
    assert evaluate({**again, "accelerator": "cpu"})["recorded"] == result.metrics["test"]
    (tmp_path / "labels.csv").rename(tmp_path / "moved.csv")
    with pytest.raises(DataError, match=r"no such file: .*labels\.csv; put it back"):
        evaluate({**again, "accelerator": "cpu"})
    with pytest.raises(ConfigError, match=r"protocol\.labels: expected a CSV file"):
        train(small("protocol.labels=3", run_dir="other"))


@pytest.mark.parametrize("box", [[], ["recipe=black_box", "access.query_budget=2000"]], ids=["white", "black"])
@pytest.mark.parametrize("mapping", ["linear", "frequency", "bayesian_plus"])
def test_one_labelled_class_is_enough_to_train(box: list[str], mapping: str, small, tmp_path: Path) -> None:
    cfg = small("data=digits")
    targets = build.task_data(build.plain(cfg)).splits["train"].targets
    path = listed(cfg, tmp_path, (targets == 3).nonzero().flatten().tolist()[:2])
    choice = ("data=digits", f"mapping={mapping}", f"protocol.labels={path}", "loss=class_balanced", *box)
    result = train(small(*choice, "evaluation.baselines=[majority,raw_linear,mapping_only,linear_probe]"))
    assert result.metrics["data"]["sizes"]["train"] == 2
    assert result.metrics["left_out"] == []
    accuracy = result.metrics["baselines"]["majority"]["test"]["accuracy"]["value"]
    assert accuracy == pytest.approx(result.metrics["per_class"]["3"]["support"] / 40)


@pytest.mark.parametrize("mapping", ["linear", "frequency"])
def test_trust_counts_only_where_it_is_less_than_full(mapping: str, small, tmp_path: Path) -> None:
    found = {}
    for name, trust in (("none", None), ("full", 1.0), ("half", 0.5), ("mixed", 0.5)):
        path = listed(small(), tmp_path, range(0, 96, 2), trust)
        if name == "mixed":
            path.write_text(path.read_text().replace("malignant,0.5", "malignant,0.05"))
        choice = (f"protocol.labels={path}", f"mapping={mapping}", "evaluation.baselines=[majority,mapping_only]")
        train(small(*choice, "mapping.refit_at_end=false", run_dir=name))
        found[name] = (tmp_path / name / "predictions.csv").read_text()
    assert found["none"] == found["full"] != found["mixed"]
    assert (found["half"] == found["full"]) == (mapping == "frequency")  # there shares alone count
