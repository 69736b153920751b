"""What a run directory may be used for."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from reprogram.errors import RunError, RunFinished
from reprogram.records import RunDirectory, environment

CONFIG: dict[str, Any] = {"seed": 0, "optimizer": {"lr": 0.1}, "run_dir": "a", "resume": None, "source": {"std": [0.5]}}


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "runs" / "one")


def test_a_fresh_folder_is_made_when_it_is_claimed(directory: RunDirectory) -> None:
    assert directory.check(CONFIG) is None
    assert not directory.path.exists()
    directory.claim(CONFIG)
    assert [file.name for file in directory.path.iterdir()] == ["config.yaml"]
    assert yaml.safe_load(directory.config_file.read_text()) == CONFIG
    assert directory.read_config() == CONFIG


def test_names_that_are_not_ascii_survive(directory: RunDirectory) -> None:
    directory.claim({"class_names": ["naevus", "Muttermal ä", "痣"]})
    assert directory.read_config() == {"class_names": ["naevus", "Muttermal ä", "痣"]}
    assert "痣" in directory.config_file.read_text(encoding="utf-8")


def test_an_unfinished_run_is_continued_with_its_own_configuration(directory: RunDirectory) -> None:
    directory.claim(CONFIG)
    assert directory.check(CONFIG) is None  # killed before the first checkpoint: starts afresh
    (directory.path / "checkpoints").mkdir()
    checkpoint = directory.path / "checkpoints" / "last.ckpt"
    checkpoint.touch()
    assert directory.check(CONFIG) == checkpoint == directory.last_checkpoint


def test_where_it_lies_and_how_it_is_resumed_make_no_other_configuration(directory: RunDirectory) -> None:
    directory.claim(CONFIG)
    assert directory.check({**CONFIG, "run_dir": "b", "resume": "b"}) is None


def test_a_run_from_before_there_was_a_key_that_is_null_is_the_same(directory: RunDirectory) -> None:
    older = {**CONFIG, "protocol": {"seed": 0}}
    directory.claim(older)
    newer = {**older, "start_from": None, "protocol": {"seed": 0, "labels": None}}
    assert directory.check(newer) is None
    with pytest.raises(RunError, match=r"differing: protocol, start_from\)"):
        directory.check({**newer, "start_from": "/runs/a", "protocol": {"seed": 0, "labels": "/labels.csv"}})


def test_another_configuration_is_refused_with_the_differing_keys(directory: RunDirectory) -> None:
    directory.claim(CONFIG)
    other = {key: value for key, value in CONFIG.items() if key != "source"} | {"optimizer": {"lr": 0.2}, "extra": 1}
    with pytest.raises(RunError, match=r"another configuration \(differing: extra, optimizer, source\).*resume="):
        directory.check(other)


def test_a_finished_run_is_never_continued(directory: RunDirectory) -> None:
    directory.claim(CONFIG)
    directory.write_metrics({"task": "toy"})
    with pytest.raises(RunFinished, match=r"holds a finished run of this configuration") as found:
        directory.check(CONFIG)
    assert found.value.metrics["task"] == "toy"
    with pytest.raises(RunError, match=r"a finished run of another configuration \(differing: seed\); choose another"):
        directory.check({**CONFIG, "seed": 1})
    directory.config_file.unlink()
    with pytest.raises(RunError, match=r"holds a finished run; choose another run_dir"):
        directory.check(CONFIG)


def test_as_many_processes_continue_as_there_are(directory: RunDirectory) -> None:
    trainer = {"devices": 4, "num_nodes": 2, "strategy": {"timeout": 600}, "max_epochs": 3}
    directory.claim({**CONFIG, "trainer": trainer})
    assert directory.check({**CONFIG, "trainer": {**trainer, "devices": 1, "num_nodes": 1, "strategy": "auto"}}) is None
    with pytest.raises(RunError, match=r"differing: trainer"):
        directory.check({**CONFIG, "trainer": {**trainer, "max_epochs": 4}})


def test_metrics_carry_their_schema(directory: RunDirectory) -> None:
    directory.claim(CONFIG)
    directory.write_metrics({"task": "toy", "test": {"accuracy": {"value": 0.5}}})
    assert directory.read_metrics() == {"schema_version": 2, "task": "toy", "test": {"accuracy": {"value": 0.5}}}
    assert next(iter(json.loads(directory.metrics_file.read_text()))) == "schema_version"


def test_reading_what_is_not_there_says_what_is_missing(directory: RunDirectory) -> None:
    with pytest.raises(RunError, match=r"expected a run directory, but it holds no config\.yaml"):
        directory.read_config()
    directory.claim(CONFIG)
    with pytest.raises(RunError, match=r"expected a finished run, but it holds no metrics\.json; resume="):
        directory.read_metrics()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"run_dir: cannot write to .*file/run: Not a directory; choose another"):
        RunDirectory(tmp_path / "file" / "run").claim(CONFIG)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="cannot write"):
        RunDirectory(tmp_path / "run").claim(CONFIG)


def test_the_environment_names_versions_device_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["reprogram-train", "seed=3"])
    found = environment(torch.device("cpu"))
    assert found["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["command"] == "reprogram-train seed=3"
    assert "CPU cores" in found["device"]
    assert found["threads"] == torch.get_num_threads()
    assert found["commit"] is None or len(found["commit"].removesuffix("-dirty")) == 40
    json.dumps(found)


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment(torch.device("cpu"))["commit"] is None


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    first, second = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "run")
    first.lock()
    with pytest.raises(RunError, match="in use by another process"):
        second.lock()
    first.unlock()
    second.lock()
    second.unlock()


def test_a_query_budget_may_be_raised_but_nothing_else_of_the_access(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.claim({"seed": 0, "access": {"query_budget": 10, "top_k": 5}})
    assert directory.check({"seed": 0, "access": {"query_budget": 20, "top_k": 5}}) is None
    with pytest.raises(RunError, match="differing: access"):
        directory.check({"seed": 0, "access": {"query_budget": 20, "top_k": 4}})


def test_a_run_that_was_cut_off_may_be_judged_otherwise_but_not_beside_other_baselines(directory: RunDirectory) -> None:
    judged = {"baselines": ["majority"], "num_resamples": 10, "local_source": {"name": "resnte18"}}
    directory.claim(CONFIG | {"evaluation": judged})
    directory.check(CONFIG | {"evaluation": judged | {"local_source": {"name": "resnet18"}, "num_resamples": 20}})
    with pytest.raises(RunError, match=r"differing: evaluation"):
        directory.check(CONFIG | {"evaluation": judged | {"baselines": []}})
