"""Two processes on the CPU give what one gives with the same global batch."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.ddp

COMMON = (
    "optimizer=sgd", "optimizer.momentum=0", "optimizer.lr=1.0",
    "scheduler=constant", "source.precision=float32", "trainer.max_steps=20",
    "trainer.max_epochs=10", "protocol.max_train=95", "data.batch_size=17",
    "protocol.max_val=41", "protocol.max_test=40",
    "evaluation.num_resamples=20", "evaluation.baselines=[]", "trainer.enable_progress_bar=false",
)  # fmt: skip


def _train(run_dir: Path, *overrides: str) -> dict:
    command = [sys.executable, "-m", "reprogram.commands.train", *COMMON, f"run_dir={run_dir}", *overrides]
    # one thread everywhere: another number rounds differently, and a convex fit magnifies that to 5e-5 of a pixel
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=one_thread, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((run_dir / "metrics.json").read_text())


@pytest.mark.parametrize("mapping", ["frequency", "linear"])
def test_two_processes_give_the_same_program_as_one(mapping, tmp_path: Path) -> None:
    overrides = (f"mapping={mapping}", "mapping.refresh=1", "mapping.refit_at_end=false")
    one = _train(tmp_path / "one", *overrides)
    two = _train(tmp_path / "two", "trainer=ddp_cpu", *overrides)

    first, second = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "two")
    )
    pixels, same = (torch.sigmoid(state["classifier.program.theta"]) for state in (first, second))
    assert (pixels - 0.5).abs().max() > 0.02  # something was learned
    assert (pixels - same).abs().max() <= 1e-4  # rounding depends on the size of a forward, and 20 steps magnify it
    if mapping == "frequency":
        assert torch.equal(first["classifier.mapping.assignment"], second["classifier.mapping.assignment"])
        assert torch.equal(first["classifier.mapping.counts"], second["classifier.mapping.counts"])
    artefacts = [load_file(tmp_path / name / "program" / "program.safetensors") for name in ("one", "two")]
    assert (artefacts[0]["program.theta"] - artefacts[1]["program.theta"]).abs().max() < 1e-3
    for key in ("accuracy", "auroc"):
        assert two["test"][key]["value"] == pytest.approx(one["test"][key]["value"], abs=1e-6)
    # 95 = 5 x 17 + 10: of 20 batches, three are seven examples short
    assert two["queries"]["train"] == one["queries"]["train"] == 20 * 17 - 3 * 7

    rows = []
    for name in ("one", "two"):
        with (tmp_path / name / "metrics.csv").open(newline="") as file:
            rows.append(list(csv.DictReader(file)))
    accuracies = [[float(row["val/accuracy"]) for row in found if row["val/accuracy"]] for found in rows]
    assert accuracies[0] == pytest.approx(accuracies[1])
    assert len(accuracies[0]) >= 3
