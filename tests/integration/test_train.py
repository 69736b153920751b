"""A training run from config to records, and the ways back into it."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir

import reprogram
from reprogram import build
from reprogram.commands.launch import config_folder
from reprogram.data.loader import to_float
from reprogram.errors import ConfigError, DataError, RunError
from reprogram.evaluation.predictions import read_csv
from reprogram.rescoring import evaluate
from reprogram.runs import train
from reprogram.sources.embedded import embedded_source

MAPPINGS = {
    "FLM": ("mapping=frequency", "mapping.refresh=once", "mapping.per_class=3"),
    "ILM": ("mapping=frequency", "mapping.refresh=1"),
    "linear": ("mapping=linear",),
    "fixed": ("mapping=assignment", "mapping.choice=random"),
}


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_a_run_leaves_the_records_of_the_design(mapping, small, tmp_path: Path) -> None:
    result = train(small(*MAPPINGS[mapping]))

    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert record["schema_version"] == 2
    assert (record["task"], record["source"], record["seed"]) == ("breast_cancer", "embedded", 0)
    for split in ("val", "test"):
        for name in ("accuracy", "balanced_accuracy", "auroc", "auprc"):
            found = record[split][name]
            assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
    expected = {"majority", "raw_linear", "mapping_only", "linear_probe", "feature_probe"}
    assert set(record["baselines"]) == set(record["over_baselines"]) == expected
    assert record["baselines"]["majority"]["test"]["auroc"]["value"] == 0.5
    assert record["groups"] == {}
    queries = record["queries"]
    assert queries["train"] == 2 * 96
    assert queries["test"] == 40
    assert queries["total"] == sum(
        queries[purpose] for purpose in ("train", "mapping", "validation", "test", "baseline")
    )
    assert record["source_fingerprint"] == embedded_source().fingerprint

    predictions, class_names = read_csv(tmp_path / "run" / "predictions.csv")
    test = next(entry for entry in predictions if entry.split == "test")
    accuracy = (test.scores.argmax(axis=1) == test.targets).mean()
    assert accuracy == record["test"]["accuracy"]["value"]
    with (tmp_path / "run" / "predictions.csv").open(newline="") as file:
        header = next(csv.reader(file))
    assert header == ["id", "split", "target", "score_benign", "score_malignant"]
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["seed"] == 0
    for picture in ("program", "examples", "curves", "confusion"):
        assert (tmp_path / "run" / f"{picture}.png").stat().st_size > 5_000
    assert result is not None
    assert class_names == result.classifier.class_names


def test_the_loaded_classifier_and_a_second_evaluation_give_the_same_numbers(small, tmp_path: Path) -> None:
    cfg = small()
    record = train(cfg).metrics
    again = evaluate(
        {"run": str(tmp_path / "run"), "split": "test", "output": None, "num_resamples": 20, "batch_size": None,
         "accelerator": "cpu"}
    )  # fmt: skip
    assert again["recorded"] == record["test"]
    for name, found in again["metrics"].items():
        assert found == pytest.approx(record["test"][name], abs=1e-6)

    classifier = reprogram.load(tmp_path / "run")
    assert classifier.threshold == record["threshold"]
    data = build.task_data(build.plain(cfg))
    images = data.splits["test"].images
    recorded = next(entry for entry in read_csv(tmp_path / "run" / "predictions.csv")[0] if entry.split == "test")
    with torch.no_grad():
        from_bytes = classifier(images)
        from_floats = classifier(to_float(images))
    assert torch.equal(from_bytes, from_floats)
    np.testing.assert_allclose(from_bytes.numpy(), recorded.scores, atol=1e-6)


def test_the_source_never_changes(small) -> None:
    from reprogram.sources.network import fingerprint

    result = train(small("source.prepare=false", "mapping=frequency"))
    source = result.classifier.source
    facts = (64, 64, *source.mean.flatten().tolist(), *source.std.flatten().tolist())
    assert not any(parameter.requires_grad for parameter in source.parameters())
    fresh = embedded_source()
    assert fingerprint(source.network, facts) == fingerprint(fresh.network, facts)
    for key, value in fresh.network.state_dict().items():
        assert torch.equal(source.network.state_dict()[key], value), key


def test_training_improves_on_the_untrained_program(small) -> None:
    cfg = small("mapping=frequency", "protocol.max_train=null", "protocol.max_val=null", "protocol.max_test=null",
                "trainer.max_epochs=4")  # fmt: skip
    record = train(cfg).metrics
    assert record["test"]["accuracy"]["value"] > record["baselines"]["mapping_only"]["test"]["accuracy"]["value"] + 0.1


def test_checkpoints_hold_no_weight_of_the_source(small, tmp_path: Path) -> None:
    train(small())
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert not [key for key in state if "source" in key]
    assert "classifier.program.theta" in state


def test_early_stopping_and_unknown_monitor(small) -> None:
    result = train(small("callbacks.patience=1", "optimizer.lr=0", "mapping=assignment", "trainer.max_epochs=9"))
    assert result.metrics["queries"]["train"] == 96  # nothing can improve on the start: stopped after the first epoch
    assert result.metrics["best_step"] == 0
    with pytest.raises(ConfigError, match="val/accuracy"):
        train(small("callbacks.monitor=val/typo", run_dir="other"))


@pytest.mark.parametrize(
    ("steps", "accumulate", "validated"), [(2, 1, [(-1, 0), (0, 2)]), (4, 2, [(-1, 0), (0, 3), (1, 4)])]
)
def test_a_training_that_ends_within_an_epoch_is_validated_where_it_ends(steps, accumulate, validated, small) -> None:
    choice = ("data.batch_size=20", f"trainer.max_steps={steps}", f"trainer.accumulate_grad_batches={accumulate}")
    record = train(small(*choice, "trainer.max_epochs=-1", "callbacks.patience=2", "optimizer.lr=0.001")).metrics
    assert [(row["epoch"], row["step"]) for row in record["history"]] == validated  # 5 batches an epoch
    assert record["queries"]["train"] == min(96, 20 * steps * accumulate) + max(0, 20 * (steps - 3) * accumulate)


def test_a_run_directory_is_not_used_twice(small, tmp_path: Path) -> None:
    train(small())
    with pytest.raises(RunError, match="finished run"):
        train(small())
    (tmp_path / "run" / "metrics.json").unlink()
    with pytest.raises(RunError, match=r"another configuration.*optimizer"):
        train(small("optimizer.lr=0.5"))


def test_a_refused_configuration_leaves_nothing_behind(small, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"program\.size"):
        train(small("program.size=65"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "overrides",
    [
        ("loss=focal", "scheduler=multistep", "program=full"),
        ("loss=class_balanced", "scheduler=constant", "optimizer=sgd", "trainer.accumulate_grad_batches=2"),
        ("data=digits", "mapping=frequency", "trainer.gradient_clip_val=1.0"),
        ("data.augmentation={_target_: reprogram.data.augmentation.Augmentation, horizontal_flip: true}",),
    ],
    ids=["focal-full", "balanced-sgd", "digits", "augmented"],
)
def test_every_choice_trains(overrides, small) -> None:
    assert train(small(*overrides)).metrics["test"]["nll"]["value"] > 0


def test_square_counting_trains_with_an_uneven_last_batch(small) -> None:
    sizes = ("data=squares", "data.num_train=64", "data.num_val=32", "data.num_test=32", "data.batch_size=7")
    record = train(small("mapping=frequency", sizes=sizes)).metrics
    assert record["task"] == "squares"
    assert record["queries"]["train"] == 2 * 64


def test_other_data_are_scored_whole_and_only_if_they_are_of_the_same_kind(small, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (60, 8, 8), dtype=np.uint8), np.arange(60) % 2
    split = np.repeat(["train", "val", "test"], [30, 15, 15])
    np.savez(tmp_path / "own.npz", images=images, labels=labels, split=split)
    np.savez(tmp_path / "outside.npz", images=images[::-1], labels=labels, site=np.array(["A"] * 60))
    np.savez(tmp_path / "features.npz", features=generator.normal(size=(60, 4)), labels=labels)
    np.savez(tmp_path / "training.npz", images=images, labels=labels, split=np.array(["train"] * 60))
    train(small("data=npz", f"data.path={tmp_path / 'own.npz'}", "trainer.max_epochs=1", sizes=()))

    def outside(name: str) -> dict:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            return evaluate(
                compose("evaluate", [f"run={tmp_path / 'run'}", "data=npz", f"data.path={tmp_path / name}.npz"])
            )

    found = outside("outside")
    assert found["recorded"] is None
    (predictions,), _ = read_csv(Path(found["output"]) / "predictions.csv")
    assert len(predictions.ids) == 60
    assert predictions.attributes["site"] == ("A",) * 60
    with pytest.raises(DataError, match="got features of another kind"):
        outside("features")
    with pytest.raises(DataError, match=r"training\.npz: expected rows of 'test', got \['train'\]"):
        outside("training")
