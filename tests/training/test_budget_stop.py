"""Steps that are held before they are asked for, and the clean end when one is refused."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from reprogram.classifier import ReprogrammedClassifier
from reprogram.estimators.two_sided import TwoSided
from reprogram.losses import CrossEntropy
from reprogram.mappings.assignment import AssignmentMapping
from reprogram.programs.full import FullProgram
from reprogram.sources.black_box import BlackBox
from reprogram.sources.ledger import Ledger
from reprogram.sources.network import NetworkSource
from reprogram.training.budget_stop import BudgetStop
from reprogram.training.module import ReprogrammingModule
from reprogram.training.query_plan import Sizes
from reprogram.types import TaskSpec

STEP = 16
SIZES = Sizes(train=80, val=1, test=1, batch=8, accumulate=1, queries_per_example=2)
BATCHES = 10


def module(ledger: Ledger, **choices: Any) -> ReprogrammingModule:
    source = NetworkSource("toy", nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), (4, 4), (0, 0, 0), (1, 1, 1))
    task, program = TaskSpec("toy", ("a", "b"), (4, 4)), FullProgram((4, 4), 4)
    model = ReprogrammedClassifier(program, BlackBox(source, ledger, **choices), AssignmentMapping(3, 2), task)
    estimator = TwoSided()
    return ReprogrammingModule(model, CrossEntropy(), estimator, lambda groups: torch.optim.SGD(groups, lr=1.0))


class Trainer:
    """As much of one as the callback sees."""

    is_global_zero, should_stop, is_last_batch = True, False, False

    def __init__(self, max_steps: int = -1, behind: int = 0, batches: int = BATCHES) -> None:
        self.global_step, self.max_steps, self.num_training_batches = 0, max_steps, batches
        progress = SimpleNamespace(current=SimpleNamespace(ready=behind))
        self.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))


def spend(ledger: Ledger, count: int) -> None:
    with ledger.purpose("train"):
        ledger.spend(count)
        ledger.keep({})


def reserved(ledger: Ledger) -> int:
    free = ledger.free()
    assert ledger.budget is not None
    assert free is not None
    return ledger.budget - ledger.total() - free


def test_a_step_is_held_before_it_is_asked_for_until_none_can_be_paid() -> None:
    ledger, trainer = Ledger(None, "run", budget=3 * STEP + 5), Trainer()
    stop, made = BudgetStop(ledger, SIZES), module(ledger)
    stop.on_train_start(trainer, made)
    steps = 0
    while not trainer.should_stop:
        assert reserved(ledger) == STEP
        spend(ledger, STEP)
        steps += 1
        trainer.global_step += 1
        stop.on_train_batch_end(trainer, made, None, None, steps - 1)
    assert steps == 3
    assert ledger.total() == 3 * STEP
    assert reserved(ledger) == 0


@pytest.mark.parametrize("budget", [0, STEP - 1])
def test_not_even_the_first_step(budget: int) -> None:
    ledger, trainer = Ledger(None, "run", budget), Trainer()
    BudgetStop(ledger, SIZES).on_train_start(trainer, module(ledger))
    assert trainer.should_stop
    assert ledger.total() == 0


def test_a_neighbour_may_take_what_is_not_held() -> None:
    ledger, trainer = Ledger(None, "run", budget=2 * STEP), Trainer()
    stop, made = BudgetStop(ledger, SIZES), module(ledger)
    stop.on_train_start(trainer, made)
    with ledger.purpose("other"):
        ledger.spend(STEP)
    spend(ledger, STEP)  # was held
    stop.on_train_batch_end(trainer, made, None, None, 0)
    assert trainer.should_stop


def test_a_step_leaves_the_spare_to_what_comes_after_it() -> None:
    ledger, trainer = Ledger(None, "run", budget=2 * STEP + 3), Trainer()
    stop, made = BudgetStop(ledger, SIZES, spare=4), module(ledger)
    stop.on_train_start(trainer, made)
    assert (reserved(ledger), ledger.free()) == (STEP, STEP + 3)
    spend(ledger, STEP)
    stop.on_train_batch_end(trainer, made, None, None, 0)
    assert trainer.should_stop
    assert (reserved(ledger), ledger.free()) == (0, STEP + 3)


def test_accumulated_batches_are_held_together() -> None:
    ledger, trainer = Ledger(None, "run", budget=4 * STEP), Trainer()
    stop, made = BudgetStop(ledger, dataclasses.replace(SIZES, accumulate=2)), module(ledger)
    stop.on_train_start(trainer, made)
    held = []
    for batch in range(5):
        spend(ledger, STEP // 2)
        trainer.is_last_batch = batch == 4  # ends its step alone
        stop.on_train_batch_end(trainer, made, None, None, batch)
        held.append(reserved(ledger))
    half = STEP // 2
    assert held == [2 * STEP - half, 2 * STEP, 2 * STEP - half, 2 * STEP, 2 * STEP - half]
    assert trainer.should_stop  # 64 - 5 x 8 = 24 are left, a step may take 32


SHORT = dataclasses.replace(SIZES, train=27)  # batches of 8, 8, 8 and 3


@pytest.mark.parametrize(
    ("sizes", "batch", "last", "held"),
    [
        (SHORT, 1, False, 16),
        (SHORT, 2, False, 6),
        (SHORT, 3, True, 16),
        (dataclasses.replace(SHORT, accumulate=2), 1, False, 22),
        (dataclasses.replace(SHORT, accumulate=3), 2, False, 6),
    ],
)
def test_a_smaller_last_batch_is_held_at_its_own_size(sizes: Sizes, batch: int, last: bool, held: int) -> None:
    ledger, trainer = Ledger(None, "run", budget=held), Trainer(batches=4)
    trainer.is_last_batch = last
    BudgetStop(ledger, sizes).on_train_batch_end(trainer, module(ledger), None, None, batch)
    assert not trainer.should_stop
    assert reserved(ledger) == held


@pytest.mark.parametrize(("behind", "held"), [(0, 16), (3, 6), (4, 16)])
def test_a_run_that_is_continued_holds_the_step_it_has_come_to(behind: int, held: int) -> None:
    ledger = Ledger(None, "run", budget=100)
    BudgetStop(ledger, SHORT).on_train_start(Trainer(behind=behind, batches=4), module(ledger))
    assert reserved(ledger) == held


def test_the_last_step_is_validated_and_nothing_is_held_after_it() -> None:
    ledger, trainer = Ledger(None, "run", budget=10 * STEP), Trainer(max_steps=1)
    stop, made = BudgetStop(ledger, SIZES), module(ledger)
    stop.on_train_start(trainer, made)
    spend(ledger, STEP)
    trainer.global_step = 1
    stop.on_train_batch_end(trainer, made, None, None, 0)
    assert trainer.should_stop  # Lightning validates where a training is stopped
    assert reserved(ledger) == 0


@pytest.mark.parametrize(("store", "held"), [("on", 4), ("off", STEP)])
def test_a_run_that_is_continued_pays_for_no_answer_twice(store: str, held: int) -> None:
    ledger, trainer = Ledger(None, "run", budget=10 * STEP), Trainer()
    made = module(ledger, store=store)
    spend(ledger, 2 * STEP + 12)  # before it was cut off
    made.queries["train"] = 2 * STEP  # as its checkpoint says
    BudgetStop(ledger, SIZES).on_train_start(trainer, made)
    assert reserved(ledger) == held
