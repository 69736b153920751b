"""Two processes with uneven shares log the metrics that scikit-learn finds for all examples, each counted once."""

import json
import os
import socket
import warnings
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.multiprocessing
from sklearn import metrics as reference
from torch import nn

from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import Examples
from reprogram.data.loader import BatchLoader
from reprogram.estimators.backprop import Backprop
from reprogram.evaluation.scoring import score
from reprogram.losses import CrossEntropy
from reprogram.mappings.assignment import AssignmentMapping
from reprogram.programs.frame import FrameProgram
from reprogram.sources.network import NetworkSource
from reprogram.training.module import ReprogrammingModule
from reprogram.types import TaskSpec

pytestmark = pytest.mark.ddp

NUM_EXAMPLES, BATCH_SIZE, PROCESSES = 41, 8, 2  # 41 = 5 x 8 + 1: one process has nothing of its own in the last batch


def task_and_examples(num_classes: int) -> tuple[ReprogrammedClassifier, Examples]:
    torch.manual_seed(num_classes)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, num_classes + 2))
    source = NetworkSource("toy", network, (8, 8), (0.5, 0.5, 0.5), (0.1, 0.1, 0.1))
    task = TaskSpec("toy", tuple("abcd"[:num_classes]), (6, 6), ordinal=True)
    given = [[label] for label in range(num_classes)]
    mapping = AssignmentMapping(num_classes + 2, num_classes, "given", given=given)
    images = torch.randint(0, 256, (NUM_EXAMPLES, 3, 6, 6), dtype=torch.uint8)
    targets = torch.randint(0, num_classes, (NUM_EXAMPLES,))
    ids = tuple(map(str, range(NUM_EXAMPLES)))
    return ReprogrammedClassifier(FrameProgram((8, 8), 6), source, mapping, task), Examples(images, targets, ids)


def validate(rank: int, port: int, num_classes: int, folder: str) -> None:
    """One of the processes: leaves behind what it logged, and the images it asked the source for."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(PROCESSES)}
    os.environ |= {"NODE_RANK": "0", "LOCAL_RANK": str(rank)}
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    classifier, examples = task_and_examples(num_classes)
    module = ReprogrammingModule(classifier, CrossEntropy(), Backprop(), torch.optim.Adam)
    trainer = pl.Trainer(
        accelerator="cpu", strategy="ddp", devices=PROCESSES, logger=False, use_distributed_sampler=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.validate(module, BatchLoader(examples, BATCH_SIZE, False, 0, rank, PROCESSES), verbose=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    found = {"logged": logged, "history": module.history, "queries": module.queries["validation"]}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))


def by_hand_ece(targets: np.ndarray, scores: np.ndarray) -> float:
    confidence, right = scores.max(axis=1), scores.argmax(axis=1) == targets
    bins = np.ceil(confidence * 15)
    return sum(abs((right - confidence)[bins == place].sum()) for place in range(1, 16)) / len(targets)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_uneven_shares_give_the_metrics_of_all_examples(num_classes: int, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(validate, (port, num_classes, str(tmp_path)), nprocs=PROCESSES)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(PROCESSES))

    classifier, examples = task_and_examples(num_classes)
    alone = score(classifier.eval(), examples, "val", NUM_EXAMPLES, torch.device("cpu"))
    targets, scores, decided = alone.targets, alone.scores, alone.scores.argmax(axis=1)
    truth, ranks = (np.eye(num_classes)[targets], scores) if num_classes > 2 else (targets, scores[:, 1])
    expected = {
        "accuracy": reference.accuracy_score(targets, decided),
        "balanced_accuracy": reference.balanced_accuracy_score(targets, decided),
        "auroc": reference.roc_auc_score(truth, ranks),
        "auprc": reference.average_precision_score(truth, ranks),
        "f1_macro": reference.f1_score(targets, decided, average="macro"),
        "quadratic_kappa": reference.cohen_kappa_score(targets, decided, weights="quadratic"),
        "nll": reference.log_loss(targets, scores / scores.sum(axis=1, keepdims=True), labels=range(num_classes)),
        "ece": by_hand_ece(targets, scores),
    }
    if num_classes == 2:
        expected["sensitivity"] = reference.recall_score(targets, decided)
        expected["specificity"] = reference.recall_score(targets, decided, pos_label=0)
    assert 0.1 < expected["accuracy"] < 0.9  # neither trivial nor lost
    expected = {f"val/{name}": pytest.approx(value, abs=1e-6) for name, value in expected.items()}
    for process in (first, second):
        assert process["logged"] == expected
        assert process["history"] == [{"epoch": -1, "step": 0} | expected]
    # of the last batch one process sees its only example, and the other the same to keep step, which counts nowhere
    assert (first["queries"], second["queries"]) == (21, 21)
