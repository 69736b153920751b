"""The commands as a user types them: manual page, mistakes, sweeps, scoring again, predicting."""

import csv
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from reprogram.commands import evaluate, predict, train
from reprogram.commands.launch import importing

ROOT = Path(__file__).parents[2]
QUICK = (
    "protocol.max_train=96", "protocol.max_val=40", "protocol.max_test=40", "trainer.max_epochs=1", "logger=none",
    "trainer.enable_progress_bar=false", "evaluation.num_resamples=20", "mapping=frequency",
)  # fmt: skip


@pytest.fixture
def run(run_command):
    return run_command


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (train, ["NAME", "EXAMPLES", "program.size=20,28,36", "resume=", "trainer: cpu, ddp, ddp_cpu, gpu", "seed: 0"]),
        (evaluate, ["NAME", "reprogram-evaluate run=", "split: test"]),
        (predict, ["NAME", "reprogram-predict run=", "skip_unreadable: false"]),
    ],
    ids=["train", "evaluate", "predict"],
)
def test_help_reads_as_a_manual_page(module, words, run) -> None:
    code, out, _ = run(module, "--help")
    assert code == 0
    for word in words:
        assert word in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["program.siz=3"], "did you mean program.size"),
        (["program=frme"], "did you mean frame"),
        (["progam=frame"], "did you mean program"),
        (["lr=0.1"], "did you mean optimizer.lr"),
        (["source=ensemble", "source@source.members.a=timm", "foo=3"], "use +source@source.members.a=timm"),
        (
            ["source=ensemble", "+source@source.members.a=timm", "source.members.a.nam=x"],
            "did you mean source.members.a.name",
        ),
        (["experiment=white_box/mnist_resnet81"], "did you mean white_box/mnist_resnet18"),
        (["program.size=abc"], "program.size: expected int"),
        (["program.size=65"], "program.size: expected at most 64x64"),
        (["trainer.max_epochs=two"], "trainer.max_epochs: expected"),
        (["data.batch_size=0"], "batch_size"),
        (["mapping=frequency", "mapping.per_class=137"], "do not fit into 272 source classes"),
        (["mapping.refresh=sometimes"], "expected never, once, validation, or a number of epochs"),
        (["data=npz"], "data.path: is required"),
        (["data=npz", "data.path=none.npz"], "none.npz"),
        (["source=module"], "source.target: is required"),
        (["source=module", "source.target=no.such", "source.image_size=[8,8]"], "cannot import 'no.such'"),
        (["source=torchvision", "source.weights=none.pth"], "none.pth"),
        (["optimizer.lr=-1"], "optimizer.lr: expected a number >= 0, got -1"),
        (["optimizer.lr=nan"], "optimizer.lr: expected a number >= 0, got nan"),
        (["optimizer.lr=inf"], "optimizer.lr: expected a number >= 0, got inf"),
        (["optimizer.mapping_lr=true"], "optimizer.mapping_lr: expected a number >= 0 or null, got True"),
        (["trainer.gradient_clip_val=nan"], "trainer.gradient_clip_val: expected a number > 0 or null, got nan"),
        (["trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val: expected a number > 0 or null, got -1"),
        (["trainer.limit_train_batches=0"], "limit_train_batches: expected at least one batch"),
        (["trainer.max_steps=0"], "trainer.max_steps: expected a whole number >= 1"),
        (["loss=focal", "loss.gamma=nan"], "loss.gamma: expected a number >= 0, got nan"),
        (["scheduler=exponential", "scheduler.final=0"], "scheduler.final: expected a fraction"),
        (["scheduler=multistep", "scheduler.milestones=[30]"], "scheduler.milestones: expected fractions"),
        (["optimizer.mapping_lr=-1"], "mapping_lr"),
        (["callbacks.mode=up"], "callbacks.mode: expected min or max"),
        (["callbacks.monitor=val/typo"], "val/balanced_accuracy"),
        (["evaluation.baselines=[typo]"], "expected majority, raw_linear, mapping_only, linear_probe"),
        (["evaluation.num_resamples=0"], "num_resamples"),
        (["seed=-1"], "seed"),
        (["seed=x"], "seed"),
        (["resume=nowhere"], "drop protocol.max_train=96"),
        (["trainer.devices=0"], "trainer"),
        (["trainer.accumulate_grad_batches=0"], "accumulate_grad_batches: expected a whole number"),
        (["trainer.limit_train_batches=abc"], "limit_train_batches: expected"),
        (["trainer.precision=bf16-true"], "source.precision"),
        (["evaluation.baselines=majority"], "expected a list of names"),
        (["data.augmentation=true"], "data.augmentation"),
        (["seed=5000000000"], "below 2^32"),
        (["experiment=white_box/mnist_resnet18"], "REPROGRAM_ASSETS"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_message_and_no_traceback(arguments, message, run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("REPROGRAM_ASSETS", raising=False)
    code, out, err = run(train, *QUICK[:-1], *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in out + err
    assert not (tmp_path / "runs").exists()


def test_a_reader_that_has_seen_enough_gets_no_traceback() -> None:
    command = f"'{sys.executable}' -m reprogram.commands.train --help | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("NAME\n", "")


def fresh(program: str, folder: Path) -> str:
    """Standard output of a program in an interpreter that has imported nothing yet."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def test_the_manual_pages_are_shown_without_pytorch(tmp_path: Path) -> None:
    program = """
import contextlib, io, sys
from reprogram.commands import evaluate, predict, report, train
for module in (evaluate, predict, report, train):
    sys.argv = ["command", "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        module.main()
    assert shown.getvalue().startswith("NAME")
print(sorted({"torch", "pytorch_lightning", "numpy", "wandb", "reprogram.build"} & set(sys.modules)))
"""
    assert fresh(program, tmp_path) == "[]\n"


def test_training_starts_without_what_it_may_not_need(tmp_path: Path) -> None:
    program = """
import os, sys
import pytorch_lightning  # what it imports itself cannot be avoided
brought = set(sys.modules)
from reprogram import build
from reprogram.commands import train
from reprogram.training.module import ReprogrammingModule

OTHERS = {"cmaes", "jinja2", "medmnist", "nilearn", "onnxruntime", "open_clip", "timm", "wandb"}
load = build.task_data

def task_data(cfg):
    print("before the data", sorted((OTHERS | {"sklearn"}) & set(sys.modules) - brought))
    return load(cfg)

def on_train_epoch_start(module):
    print("before the first step", sorted(OTHERS & set(sys.modules) - brought), flush=True)
    os._exit(0)

build.task_data, ReprogrammingModule.on_train_epoch_start = task_data, on_train_epoch_start
sys.argv = ["reprogram-train", "run_dir=run", "trainer.enable_progress_bar=false"]
train.main()
"""
    lines = fresh(program, tmp_path).splitlines()
    assert [line for line in lines if line.startswith("before")] == ["before the data []", "before the first step []"]


def test_only_the_first_import_is_kept_from_the_garbage_collector(monkeypatch) -> None:
    with importing():  # PyTorch is there: what a job of a sweep has left must be collected
        assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    monkeypatch.delitem(sys.modules, "torch")
    try:
        with importing():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_train_evaluate_predict(run, tmp_path: Path) -> None:
    code, out, _ = run(train, *QUICK, "run_dir=first")
    assert code == 0
    for word in ("reprogrammed", "majority", "mapping only", "linear probe", "first/examples.png"):
        assert word in out

    code, out, _ = run(evaluate, "run=first", "num_resamples=20")
    assert code == 0
    assert "the same numbers as recorded" in out
    scored = json.loads((tmp_path / "first/evaluations/breast_cancer_test/metrics.json").read_text())["metrics"]
    recorded = json.loads((tmp_path / "first/metrics.json").read_text())["test"]
    assert {name: found["value"] for name, found in scored.items()} == pytest.approx(
        {name: found["value"] for name, found in recorded.items()}, abs=1e-6
    )

    Image.fromarray(torch.randint(0, 255, (24, 20, 3), dtype=torch.uint8).numpy()).save(tmp_path / "scan.png")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    code, out, err = run(predict, "run=first", "input=scan.png")
    assert code == 0
    rows = list(csv.DictReader(out.splitlines()))
    assert rows[0]["file"] == "scan.png"
    assert rows[0]["predicted"] in ("benign", "malignant")
    assert float(rows[0]["score_benign"]) + float(rows[0]["score_malignant"]) == pytest.approx(1, abs=1e-5)
    code, _, err = run(predict, "run=first", "input=[scan.png,broken.png]")
    assert code == 2
    assert "1 of 2 images cannot be read" in err
    assert "broken.png" in err
    code, _, err = run(predict, "run=first", "input=[scan.png,broken.png]", "skip_unreadable=true", "output=out.csv")
    assert code == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 2


def test_a_sweep_ends_with_one_table_and_survives_a_bad_job(run, tmp_path: Path) -> None:
    code, out, _ = run(train, "-m", *QUICK, "evaluation.baselines=[]", "program.size=40,99")
    (folder,) = (tmp_path / "runs").glob("sweep_*")
    summary = (folder / "summary.md").read_text()
    assert "| job | size | val | test [95 % interval] | run |" in summary
    assert "| 1 | 99 | n/a | n/a | failed: program.size: expected at most 64x64" in summary
    assert "2 runs by balanced accuracy, 1 failed" in out
    assert next(line for line in out.splitlines() if line.startswith("reprogram-train ")).endswith(" program.size=40")
    assert code != 0  # a script must notice the job that failed
    written = (folder / "0/metrics.json").stat().st_mtime_ns
    assert not (folder / "1/metrics.json").exists()

    again = ("-m", f"hydra.sweep.dir={folder}", *QUICK, "evaluation.baselines=[]")
    code, out, _ = run(train, *again, "program.size=40,36")  # what was wrong is put right
    assert code == 0
    assert out.count("finished before: ") == 1
    assert "2 runs by balanced accuracy\n" in out.replace(" \n", "\n").replace("  ", "")
    assert (folder / "0/metrics.json").stat().st_mtime_ns == written
    assert (folder / "1/metrics.json").is_file()
    code, _, _ = run(train, *again, "program.size=44")  # another configuration in the place of a finished one
    assert code == 2
    assert (folder / "0/metrics.json").stat().st_mtime_ns == written
    code, out, _ = run(train, *again, "program.size=40,36")
    assert out.count("finished before: ") == 2


def test_a_dry_run_of_a_grid_is_no_failure(run, tmp_path: Path) -> None:
    plan = ("recipe=black_box", "data=digits", "access.query_budget=20000", "access.dry_run=true")
    assert run(train, "-m", *plan, *QUICK, "seed=0,1")[0] == 0
    assert not list((tmp_path / "runs").rglob("summary.md"))


@pytest.mark.parametrize(
    ("launcher", "module"),
    [("joblib", "hydra_plugins.hydra_joblib_launcher"), ("submitit_local", "hydra_plugins.hydra_submitit_launcher")],
)
def test_a_launcher_with_processes_of_its_own_gives_the_same_summary(launcher, module, tmp_path: Path) -> None:
    pytest.importorskip(module)
    line = ("-m", f"hydra/launcher={launcher}", "hydra.sweep.dir=sweep", *QUICK, "evaluation.baselines=[]")
    for found_before in (0, 1):
        result = subprocess.run(
            [sys.executable, "-m", "reprogram.commands.train", *line, "program.size=40,99"],
            cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert result.returncode == 2, result.stdout + result.stderr
        assert "1 jobs of the sweep failed" in result.stderr
        assert "2 runs by balanced accuracy, 1 failed" in result.stdout
        said = result.stdout + "".join(path.read_text() for path in tmp_path.rglob("*_log.out"))
        assert said.count("finished before: ") == found_before
    with (tmp_path / "sweep/summary.csv").open() as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["finished", "failed"]


@pytest.mark.parametrize(("module", "key"), [(evaluate, "run"), (predict, "run")])
def test_missing_and_wrong_runs(module, key, run) -> None:
    code, _, err = run(module)
    assert code == 2
    assert f"{key}: is required" in err
    code, _, err = run(module, "run=nowhere", *(["input=x.png"] if module is predict else []))
    assert code == 2
    assert "nowhere" in err or "x.png" in err
