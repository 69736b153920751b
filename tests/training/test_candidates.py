"""States that no epoch validates: before the first step, and where a training ends."""

from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import Logger
from test_selection import candidate, classifier, data, module, save, unasked

from reprogram.data.base import TaskData
from reprogram.errors import RunError
from reprogram.sources.black_box import BlackBox
from reprogram.sources.ledger import Ledger
from reprogram.training.candidates import Candidates, check_checkpoints
from reprogram.training.mapping_refresh import MappingRefresh
from reprogram.training.module import ReprogrammingModule
from reprogram.training.selection import Criterion, restore_best


class Trainer:
    """As much of one as a callback and the module see, in the second epoch."""

    global_rank, world_size, is_global_zero = 0, 1, True
    loggers: ClassVar[list[Logger]] = []
    fit_loop = SimpleNamespace(epoch_progress=SimpleNamespace(current=SimpleNamespace(ready=2)))

    def __init__(self, made: ReprogrammingModule, step: int = 0) -> None:
        self.early_stopping_callbacks = [EarlyStopping("val/accuracy")]
        self.global_step, self.current_epoch = step, 2  # Lightning's own has moved on when a training has ended
        self.made = made
        made._trainer = self  # type: ignore[assignment]

    def save_checkpoint(self, path: Path) -> None:
        save(self.made, path)


def candidates(task: TaskData, folder: Path) -> Candidates:
    return Candidates(MappingRefresh(task.splits["train"], 3), task.splits["val"], 3, folder, "val/accuracy")


def test_the_start_is_validated_saved_and_where_patience_counts_from(tmp_path: Path) -> None:
    made, task = module(classifier([[3], [2]])), data([0, 1, 1, 1])
    trainer = Trainer(made)
    made.train()
    start = candidates(task, tmp_path / "checkpoints")
    start.on_train_start(trainer, made)  # type: ignore[arg-type]
    (row,) = made.history
    assert (row["epoch"], row["step"], row["val/accuracy"]) == (-1, 0, 0.25)  # the mapping is the wrong way round
    assert made.queries == {"train": 0, "mapping": 0, "validation": 4}
    assert made.training
    assert trainer.early_stopping_callbacks[0].best_score == 0.25
    state = torch.load(tmp_path / "checkpoints" / "start.ckpt", weights_only=True)["state_dict"]
    assert state["classifier.mapping.assignment"].tolist() == [[3], [2]]
    assert not [key for key in state if "source" in key]

    start.on_train_start(trainer, made)  # type: ignore[arg-type]  # as in a run that is continued
    assert len(made.history) == 1
    assert made.queries["validation"] == 4


def test_what_a_training_ends_with_is_validated_and_kept(tmp_path: Path) -> None:
    made = module(classifier([[2], [3]]))
    made.history = [{"epoch": -1, "step": 0, "val/accuracy": 0.5}]
    trainer, last = Trainer(made, step=9), candidates(data([0, 0, 1, 0]), tmp_path)
    last.on_train_end(trainer, made)  # type: ignore[arg-type]
    row = made.history[-1]
    assert (row["epoch"], row["step"], row["val/accuracy"]) == (1, 9, 0.75)
    saved = torch.load(tmp_path / "end_9.ckpt", weights_only=True)
    assert saved["reprogram"]["history"][-1] == row

    last.on_train_end(trainer, made)  # type: ignore[arg-type]
    assert made.history[-1] is row  # that was validated already
    assert made.queries["validation"] == 4


@pytest.mark.parametrize(("budget", "validated"), [(2, True), (1, False)])  # two pairs of equal images
def test_an_end_that_cannot_be_paid_is_left_out(budget: int, validated: bool, tmp_path: Path, caplog) -> None:
    made = module(classifier([[2], [3]]))
    made.classifier.source = BlackBox(made.classifier.source, Ledger(None, "run", budget))
    made.history = [{"epoch": -1, "step": 0, "val/accuracy": 0.5}]
    candidates(data([0, 0, 1, 0]), tmp_path).on_train_end(Trainer(made, step=9), made)  # type: ignore[arg-type]
    assert [row["step"] for row in made.history] == ([0, 9] if validated else [0])
    assert (tmp_path / "end_9.ckpt").exists() == validated
    assert ("the last program is not validated" in caplog.text) != validated


@pytest.mark.parametrize(
    ("best", "ends", "chosen"),
    [
        (0.7, {9: 0.8}, 9),
        (0.7, {9: 0.6}, 5),
        (0.7, {9: 0.8, 12: 0.6}, 9),  # continued with a larger budget
        (0.7, {9: float("nan")}, 5),
        (None, {9: 0.6}, 9),
        (0.4, {9: 0.5}, 0),  # it must beat the mapping alone
    ],
)
def test_the_end_is_chosen_where_it_did_best(
    best: float | None, ends: dict[int, float], chosen: int, tmp_path: Path
) -> None:
    states = {0: candidate([[2], [3]], **{"val/x": 0.5})}
    save(states[0], tmp_path / "start.ckpt")
    for name, step, value in [("best", 5, best), *((f"end_{step}", step, value) for step, value in ends.items())]:
        if value is not None:
            states[step] = candidate([[0], [1]], **{"val/x": 0.5})
            states[step].history.append({"epoch": 1, "step": step, "val/x": value})
            save(states[step], tmp_path / f"{name}.ckpt")
    final = candidate([[1], [0]], **{"val/x": 0.5})
    assert restore_best(final, tmp_path, Criterion("val/x", "max"), unasked)["step"] == chosen
    assert torch.equal(final.classifier.program.theta, states[chosen].classifier.program.theta)


@pytest.mark.parametrize("broken", ["last", "start", "best", "end_9"])
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "gone"])
def test_a_run_is_not_continued_from_broken_files(broken: str, damage: str, tmp_path: Path) -> None:
    for name in ("last", "start", "best", "end_9"):
        save(candidate([[2], [3]]), tmp_path / f"{name}.ckpt")
    check_checkpoints(tmp_path / "last.ckpt")
    path = tmp_path / f"{broken}.ckpt"
    if damage == "gone":
        path.unlink()
        if broken in ("best", "end_9"):  # a training need not have them
            return check_checkpoints(tmp_path / "last.ckpt")
    else:
        path.write_bytes({"cut": path.read_bytes()[:1000], "garbage": b"no checkpoint", "empty": b""}[damage])
    with pytest.raises(RunError, match=rf"{broken}\.ckpt: expected a checkpoint, got (none|a broken file); put a copy"):
        check_checkpoints(tmp_path / "last.ckpt")
