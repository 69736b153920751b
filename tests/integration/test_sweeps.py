"""Searches with real runs: jobs that fail, runs that are ended early, workers that are killed."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import postgres_process
import pytest

from reprogram import channel
from reprogram.errors import RunPruned
from reprogram.runs import train

pytest.importorskip("optuna")

ROOT = Path(__file__).parents[2]
RUN = (
    *("data=digits", "protocol.max_train=96", "protocol.max_val=40", "protocol.max_test=40", "mapping=frequency"),
    *("trainer.max_epochs=1", "evaluation.baselines=[]", "evaluation.num_resamples=20", "logger=none"),
    *("trainer.enable_progress_bar=false", "sweep/space=none"),
)


def start(folder: Path, *overrides: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "reprogram.commands.sweep", *overrides]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def run(folder: Path, *overrides: str) -> tuple[int, str]:
    process = start(folder, *overrides)
    out, _ = process.communicate(timeout=600)
    return process.returncode, out


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_job_that_fails_is_tried_again_and_reported_and_the_rest_is_done(tmp_path: Path) -> None:
    line = (*RUN, "sweep=grid", "+sweep.space.program.size=[99,32]", "sweep.retries=1", "sweep.name=grid")
    code, out = run(tmp_path, *line)
    assert code == 2
    assert out.count("attempt 1: failed: program.size: expected at most 64x64") == 1
    assert out.count("attempt 2: failed: program.size: expected at most 64x64") == 1
    folder = tmp_path / "runs/grid"
    rows = table(folder)
    assert [(row["state"], row["program.size"]) for row in rows] == [("failed", "99"), ("finished", "32")]
    record = json.loads((tmp_path / rows[1]["run_dir"] / "metrics.json").read_text())
    assert float(rows[1]["val"]) == record["val"]["balanced_accuracy"]["value"]
    assert float(rows[1]["test"]) == record["test"]["balanced_accuracy"]["value"]
    written = (folder / "journal.log").stat().st_size, (tmp_path / rows[1]["run_dir"] / "metrics.json").stat().st_mtime
    code, again = run(tmp_path, *line)
    assert code == 2
    assert "attempt" not in again  # all is done, or given up
    assert (tmp_path / rows[1]["run_dir"] / "metrics.json").stat().st_mtime == written[1]
    code, shown = run(tmp_path, "summary=runs/grid")
    assert code == 0
    assert (
        "program.size=32"
        in shown.splitlines()[shown.splitlines().index(next(filter(_is_best, shown.splitlines()))) + 1]
    )


def _is_best(line: str) -> bool:
    return line.startswith("best ")


def test_a_run_that_is_ended_early_is_unscored_and_can_be_continued(small, tmp_path: Path, monkeypatch) -> None:
    cfg = small("data=digits", "mapping=frequency", "trainer.max_epochs=3", "evaluation.baselines=[]")
    heard, (curve, write_to), (read_from, answer) = [], os.pipe(), os.pipe()
    os.write(answer, b"go on\nstop\n")
    monkeypatch.setenv(channel.VARIABLE, f"{write_to},{read_from}")
    with pytest.raises(RunPruned, match="validation 2"):
        train(cfg)
    os.close(write_to)
    with os.fdopen(curve) as lines:
        heard = [json.loads(line) for line in lines]
    assert [[number for number, _ in part] for part in heard] == [[0, 1], [2]]
    assert not (tmp_path / "run/metrics.json").exists()
    monkeypatch.delenv(channel.VARIABLE)
    result = train(cfg)
    assert result is not None
    assert result.metrics["history"][-1]["epoch"] == 2
    values = [row["val/balanced_accuracy"] for row in result.metrics["history"]]
    assert values[:3] == [value for part in heard for _, value in part]


def test_successive_halving_ends_what_does_badly(tmp_path: Path) -> None:
    """The better one comes first: an image of 20 pixels, in a frame of 44, has little to show."""
    line = (*RUN, "sweep=asha", "sweep.sampler=null", "+sweep.space.program.size=[32,20]", "sweep.jobs=2")
    code, out = run(tmp_path, *line, "trainer.max_epochs=2", "sweep.name=asha")
    assert code == 0, out
    assert [row["state"] for row in table(tmp_path / "runs/asha")] == ["finished", "ended early"]
    ended = tmp_path / table(tmp_path / "runs/asha")[1]["run_dir"]
    assert not (ended / "metrics.json").exists()
    assert "pruned   validation 1: others do better" in (ended / "output.log").read_text()


def test_queries_of_all_jobs_stay_within_their_budget(tmp_path: Path) -> None:
    choices = [choice for choice in RUN if not choice.startswith(("mapping", "trainer.max"))]
    line = (
        *(*choices, "recipe=black_box", "access.query_budget=1200", "access.price_per_1000=2", "sweep=front"),
        *("+sweep.space.estimator.num_directions=[1,2]", "sweep.sampler=null", "sweep.jobs=2", "sweep.name=front"),
        *("access.queries_per_second=100", "sweep/space=none"),
    )
    code, out = run(tmp_path, *line, "sweep.query_budget=2000", "sweep.dry_run=true")
    assert code == 0, out
    assert "at most 2,000 queries, 4.00 in your currency" in out
    assert not (tmp_path / "runs").exists()
    code, out = run(tmp_path, *line, "sweep.query_budget=1300")
    assert code == 0, out
    rows = table(tmp_path / "runs/front")
    assert [row["state"] for row in rows] == ["finished"]  # the second job could pass 1,300
    record = json.loads((tmp_path / rows[0]["run_dir"] / "metrics.json").read_text())
    assert int(rows[0]["queries"]) == record["queries"]["total"] <= 1200
    assert "1 runs that none beats in NLL without more queries" in out


@pytest.mark.skipif(postgres_process.missing() is not None, reason=str(postgres_process.missing()))
def test_on_postgresql_a_killed_worker_costs_no_result(tmp_path: Path) -> None:
    """``scripts/check_sweep.py`` is the same at its full size."""
    from optuna.trial import TrialState

    from reprogram.sweeps.storage import load_study

    line = (*RUN, "sweep=random", "sweep.jobs=4", "sweep.workers=2", "sweep.grace=8", "sweep.name=killed")
    line = (*line, "+sweep.space.optimizer.lr={low: 0.01, high: 0.5, log: true}")
    with postgres_process.running() as url:
        process = start(tmp_path, *line, f"sweep.storage={url}")
        victim = None
        while victim is None:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.3)
            if (tmp_path / "runs/killed/sweep.json").is_file():
                for trial in load_study(tmp_path, url, "killed").trials:
                    if trial.user_attrs.get("beat", 0) >= 2 and trial.state is TrialState.RUNNING:
                        victim = trial
        pid = re.search(r"pid (\d+)", victim.user_attrs["worker"])
        assert pid is not None
        os.kill(int(pid[1]), signal.SIGKILL)
        out, _ = process.communicate(timeout=600)
        assert process.returncode == 0, out
        found = load_study(tmp_path, url, "killed").trials
    assert found[victim.number].state is TrialState.FAIL
    results = [trial for trial in found if trial.state is TrialState.COMPLETE]
    assert Counter(trial.user_attrs["job"] for trial in results) == dict.fromkeys(range(4), 1)
    (again,) = [trial for trial in results if trial.user_attrs["attempt"]]
    assert again.params == victim.params
    assert again.user_attrs["run_dir"] == victim.user_attrs["run_dir"]
    assert len(list(tmp_path.glob("runs/killed/*/metrics.json"))) == 4
    assert postgres_process.PASSWORD not in out
