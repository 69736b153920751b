"""The Lightning module without a trainer: batches, one step, parameter groups, checkpoints."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.augmentation import Augmentation
from reprogram.data.base import Examples
from reprogram.data.loader import BatchLoader
from reprogram.errors import RunError
from reprogram.estimators.backprop import Backprop
from reprogram.estimators.two_sided import TwoSided
from reprogram.losses import CrossEntropy
from reprogram.mappings.base import LabelMapping
from reprogram.mappings.frequency import FrequencyMapping
from reprogram.mappings.linear import LinearMapping
from reprogram.programs.frame import FrameProgram
from reprogram.regularizers import SquaredNorm
from reprogram.sources.black_box import BlackBox
from reprogram.sources.ledger import Ledger
from reprogram.sources.network import NetworkSource
from reprogram.training import module as training
from reprogram.training.mapping_refresh import observe_once
from reprogram.training.module import ReprogrammingModule
from reprogram.training.schedules import multistep
from reprogram.types import Batch, TaskSpec


def module(mapping: LabelMapping | None = None, side: int = 6, **options: Any) -> ReprogrammingModule:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5))
    source = NetworkSource("toy", network, (8, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    task = TaskSpec("toy", ("a", "b"), (6, 6))
    model = ReprogrammedClassifier(FrameProgram((8, 8), side), source, mapping or FrequencyMapping(5, 2), task)
    sgd: Callable[[Any], torch.optim.Optimizer] = lambda groups: torch.optim.SGD(groups, lr=0.5)  # noqa: E731
    return ReprogrammingModule(model, CrossEntropy(), Backprop(), sgd, **options)


def batch(weights: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25)) -> Batch:
    images = torch.randint(0, 256, (4, 3, 6, 6), dtype=torch.uint8)
    return Batch(images, torch.tensor([0, 1, 1, 0]), torch.tensor(weights), torch.arange(4))


def test_bytes_become_floats_once() -> None:
    stored = batch()
    moved = module().on_after_batch_transfer(stored, 0)
    torch.testing.assert_close(moved.images, stored.images.float() / 255)
    assert moved.targets is stored.targets


def test_augmentation_is_for_training_alone() -> None:
    made, stored = module(augmentation=Augmentation(horizontal_flip=True)), batch()
    assert not torch.equal(made.on_after_batch_transfer(stored, 0).images, stored.images / 255)
    made.eval()
    assert torch.equal(made.on_after_batch_transfer(stored, 0).images, stored.images / 255)


def test_a_step_returns_the_weighted_loss_and_its_gradient() -> None:
    made = module()
    floats = made.on_after_batch_transfer(batch((0.5, 0.25, 0.25, 0.0)), 0)
    surrogate = made.training_step(floats, 0)
    scores = made.classifier.scores(made.classifier.compose(floats.images))
    losses = -scores.log_softmax(1)[torch.arange(4), floats.targets]
    expected = (floats.weights * losses).sum()
    torch.testing.assert_close(surrogate, expected)
    theta = made.classifier.program.theta
    torch.testing.assert_close(torch.autograd.grad(surrogate, theta), torch.autograd.grad(expected, theta))


def test_a_penalty_joins_the_loss_with_its_exact_gradient_whatever_the_estimator() -> None:
    made = module()
    made.estimator = TwoSided(num_directions=2)
    floats, theta = made.on_after_batch_transfer(batch(), 0), made.classifier.program.theta
    with torch.no_grad():
        theta.copy_(torch.randn_like(theta))
    (plain,) = torch.autograd.grad(made.training_step(floats, 0), theta)
    made.regularizer = SquaredNorm(0.3)
    surrogate = made.training_step(floats, 0)
    torch.testing.assert_close(torch.autograd.grad(surrogate, theta)[0], plain + 0.6 * theta)


def test_trust_reaches_what_the_mapping_learns_from() -> None:
    made = module()
    floats = made.on_after_batch_transfer(batch(), 0)._replace(trust=torch.tensor([0.25, 1.0, 0.5, 1.0]))
    moved = made.transfer_batch_to_device(floats, torch.device("cpu"), 0)
    assert torch.equal(moved.trust, floats.trust)
    assert made.transfer_batch_to_device(batch(), torch.device("cpu"), 0).trust is None
    made.training_step(floats, 0)
    with torch.no_grad():
        log_probs = made.classifier.source(made.classifier.compose(floats.images))
    expected = torch.zeros(5, 2, dtype=torch.float64)
    for row, trust in enumerate(floats.trust.tolist()):
        expected[log_probs[row].argmax(), floats.targets[row]] += trust
    assert torch.equal(made.classifier.mapping.counts, expected)
    assert made.sums[2] == 4


def test_a_pass_over_the_training_set_brings_its_trust_along() -> None:
    images = torch.randint(0, 256, (5, 3, 6, 6), dtype=torch.uint8)
    data = Examples(images, torch.tensor([0, 1, 1, 0, 1]), tuple("abcde"), trust=torch.tensor([1.0, 0.5, 0.25, 1, 1]))
    made = module().classifier
    assert observe_once(made, made.mapping, BatchLoader(data, 2, False, 0), torch.device("cpu")) == 5
    assert made.mapping.counts.sum(0).tolist() == [2.0, 1.75]


def test_an_example_that_only_fills_a_share_is_counted_nowhere_but_in_the_queries() -> None:
    made = module()
    floats = made.on_after_batch_transfer(batch((1.0, 1.0, 0.0, 0.0)), 0)
    for rows in (slice(0, 2), slice(2, 3)):  # a share, and an empty one
        made.training_step(Batch(*(part[rows] for part in floats[:4])), 0)
    with torch.no_grad():
        scores = made.classifier.scores(made.classifier.compose(floats.images))
        log_probs = made.classifier.source(made.classifier.compose(floats.images))
    losses = -scores.log_softmax(1)[torch.arange(4), floats.targets]
    correct = (scores.argmax(1) == floats.targets)[:2].sum().item()
    torch.testing.assert_close(made.sums, torch.tensor([losses[:2].sum().item(), correct, 2]).double())
    expected = torch.zeros(5, 2, dtype=torch.float64)
    for row in range(2):
        expected[log_probs[row].argmax(), floats.targets[row]] += 1
    assert torch.equal(made.classifier.mapping.counts, expected)
    assert made.queries == {"train": 3, "mapping": 0, "validation": 0}


@pytest.mark.parametrize("refresh", ["never", "once"])
def test_a_mapping_that_does_not_follow_training_observes_nothing(refresh: str) -> None:
    made = module(FrequencyMapping(5, 2, refresh=refresh))
    made.training_step(made.on_after_batch_transfer(batch(), 0), 0)
    assert not made.classifier.mapping.counts.any()


def test_the_program_and_a_mapping_that_learns_have_a_group_each() -> None:
    made = module(LinearMapping(5, 2), mapping_lr=0.01)
    program, mapping = made.configure_optimizers().param_groups
    assert [parameter is made.classifier.program.theta for parameter in program["params"]] == [True]
    assert len(mapping["params"]) == 2
    assert (program["lr"], mapping["lr"]) == (0.5, 0.01)


def test_without_a_rate_of_its_own_the_mapping_learns_like_the_program() -> None:
    groups = module(LinearMapping(5, 2)).configure_optimizers().param_groups
    assert [group["lr"] for group in groups] == [0.5, 0.5]


@pytest.mark.parametrize("mapping", [LinearMapping(5, 2, learn=False), FrequencyMapping(5, 2)])
def test_a_mapping_that_does_not_learn_is_not_optimised(mapping: LabelMapping) -> None:
    groups = module(mapping, mapping_lr=0.01).configure_optimizers().param_groups
    assert [len(group["params"]) for group in groups] == [1]


def test_the_schedule_spans_the_whole_training_step_by_step() -> None:
    made = module(scheduler=multistep, total_steps=10)
    configured = made.configure_optimizers()
    assert configured["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(10):
        rates.append(configured["optimizer"].param_groups[0]["lr"])
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
    assert rates == pytest.approx([0.5] * 5 + [0.05] * 3 + [0.005] * 2)


def test_the_state_holds_everything_but_the_source() -> None:
    state = module(LinearMapping(5, 2)).state_dict()
    assert not [key for key in state if "source" in key]
    assert {"classifier.program.theta", "classifier.mapping.weight", "classifier.mapping.bias", "sums"} <= set(state)


def checkpoint(made: ReprogrammingModule) -> dict[str, Any]:
    saved: dict[str, Any] = {}
    made.on_save_checkpoint(saved)
    return saved


def test_a_checkpoint_brings_back_sums_statistics_history_and_queries() -> None:
    made, fresh = module(), module()
    made.training_step(made.on_after_batch_transfer(batch(), 0), 0)
    made.history = [{"epoch": 0, "train/loss": 0.5}]
    saved = checkpoint(made)
    fresh.on_load_checkpoint(saved)
    fresh.load_state_dict(saved["state_dict"], strict=False)
    assert torch.equal(fresh.sums, made.sums)
    assert fresh.sums[2] == 4
    assert torch.equal(fresh.classifier.mapping.counts, made.classifier.mapping.counts)
    assert fresh.classifier.mapping.counts.sum() == 4
    assert fresh.history == made.history
    assert fresh.queries == made.queries
    made.history.append({"epoch": 1})
    assert len(fresh.history) == 1


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda: module(LinearMapping(5, 2)), "mapping"),
        (lambda: module(FrequencyMapping(5, 2, per_class=2)), "assignment"),
        (lambda: module(side=4), "theta"),
    ],
    ids=["mapping", "per-class", "size"],
)
def test_a_checkpoint_of_another_program_or_mapping_is_refused(
    other: Callable[[], ReprogrammingModule], named: str
) -> None:
    with pytest.raises(RunError, match=f"another program or mapping; differing: .*{named}"):
        module().on_load_checkpoint(checkpoint(other()))


def test_a_validation_is_a_row_of_the_history_and_ends_the_sums_of_training() -> None:
    made = module()
    floats = made.on_after_batch_transfer(batch(), 0)
    with torch.no_grad():
        made.validation_step(floats, 0)
        assert made.validated().keys() == made.history[0].keys() - {"epoch", "step"}  # nothing of training yet
        made.training_step(floats, 0)
        loss = float(made.sums[0]) / 4
        made.validation_step(floats, 0)
        found = made.validated()
        made.validation_step(floats, 0)
        made.validated()
        accuracy = (made.classifier(floats.images).argmax(1) == floats.targets).double().mean()
    assert found["train/loss"] == pytest.approx(loss)
    assert found["val/accuracy"] == pytest.approx(float(accuracy))
    assert not made.sums.any()
    assert made.history[1] == {"epoch": -1, "step": 0, **found}
    assert "train/loss" not in made.history[2]
    assert len(made.history) == 3


@pytest.mark.parametrize(
    ("fitted_on", "elsewhere", "expected"),
    [
        (3, 0, 3 + 2 * 4),  # what scoring validation costs is not what training costs
        (5, 0, 3 + 2 * 4),  # two answers were stored
        (3, 6, 3 + 2 * 4),  # lost when the run was cut off, and asked again
    ],
)
def test_behind_a_black_box_a_row_says_what_it_took_to_get_there(fitted_on: int, elsewhere: int, expected: int) -> None:
    made = module()
    floats, ledger = made.on_after_batch_transfer(batch(), 0), Ledger(None, "run")
    made.classifier.source = BlackBox(made.classifier.source, ledger)
    made.estimator = TwoSided()
    with ledger.purpose("mapping"):
        made.classifier.source(torch.rand(3, 3, 8, 8))
        ledger.spend(elsewhere)
    made.queries["mapping"] = fitted_on
    made.training_step(floats, 0)
    with torch.no_grad():
        made.validation_step(floats, 0)
        made.validated()
    assert made.history[0]["queries"] == expected
    assert ledger.spent()["train"] == made.queries["train"] == 8
    assert ledger.spent()["validation"] == 4


def test_only_real_examples_are_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    made, gathered = module().eval(), []
    monkeypatch.setattr(training, "concatenate_over_processes", lambda rows: gathered.append(rows) or rows)
    floats = made.on_after_batch_transfer(batch((2.0, 2.0, 0.0, 0.0)), 0)
    with torch.no_grad():
        for rows in (slice(0, 2), slice(2, 3)):  # a share, and an empty one
            made.validation_step(Batch(*(part[rows] for part in floats[:4])), 0)
        made.validated()
        expected: Tensor = made.classifier(floats.images)
    (kept,) = gathered
    assert kept.keys() == {"indices", "targets", "scores"}
    assert kept["indices"].tolist() == [0, 1]
    assert kept["targets"].tolist() == [0, 1]
    torch.testing.assert_close(kept["scores"], expected[:2])
    assert made.queries["validation"] == 3


class Waiting(TorchDispatchMode):
    """Refuses what makes the host wait for a CUDA device: operations of which it must know a value, or the size."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put_") else ()
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "_unique2") or any(
            index is not None and index.dtype == torch.bool for index in indices
        ):
            raise AssertionError(f"{name} would wait for the device")
        return func(*args, **(kwargs or {}))


def all_steps(device: torch.device, decay: float, top: int | None) -> tuple[ReprogrammingModule, Callable[[], None]]:
    """A module, and an epoch of its training and validation steps."""
    mapping = FrequencyMapping(5, 2, refresh=1, decay=decay)
    mapping.top = top
    made = module(mapping, augmentation=Augmentation(horizontal_flip=True)).to(device)
    images = torch.randint(0, 256, (12, 1, 6, 6), dtype=torch.uint8)
    data = Examples(images, torch.arange(12) % 2, tuple(map(str, range(12))))
    loader = BatchLoader(data, 4, shuffle=True, seed=0, device=device)

    def steps() -> None:
        for index, one in enumerate(loader):
            floats = made.on_after_batch_transfer(made.transfer_batch_to_device(one, device, 0), 0)
            made.training_step(floats, index).backward()
            with torch.no_grad():
                made.validation_step(floats, index)

    return made, steps


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("top", [None, 2])
def test_no_step_asks_for_a_value(decay: float, top: int | None) -> None:
    _, steps = all_steps(torch.device("cpu"), decay, top)
    with Waiting():
        steps()
    for wait in (torch.ones(2).sum().item, torch.ones(2).nonzero, lambda: torch.ones(2)[torch.ones(2) > 0]):
        with Waiting(), pytest.raises(AssertionError, match="would wait"):
            wait()


@pytest.mark.gpu
@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("top", [None, 2])
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_the_host_waits_for_the_device_in_no_step(decay: float, top: int | None) -> None:
    made, steps = all_steps(torch.device("cuda", 0), decay, top)
    steps()  # what is made only once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert made.classifier.mapping.counts.sum() == 24
    assert made.sums[2] == 24
    made.validated()
