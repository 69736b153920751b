"""Sums of responses: what enters them, what a refit leaves of them, and how several processes share them."""

import math

import pytest
import torch
from torch import Tensor

from reprogram.errors import ConfigError
from reprogram.mappings import statistics
from reprogram.mappings.statistics import ResponseStatistics


def responses(count: int = 30, num_sources: int = 5, num_targets: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    log_probs = (2 * torch.randn(count, num_sources, generator=generator)).log_softmax(1)
    return log_probs, torch.randint(0, num_targets, (count,), generator=generator)


def kept(log_probs: Tensor, targets: Tensor, num_targets: int, top: int) -> list[list[float]]:
    """The definition in plain Python: probabilities of the ``top`` likeliest source classes, by target class."""
    sums = [[0.0] * num_targets for _ in range(log_probs.shape[1])]
    for row, target in zip(log_probs.tolist(), targets.tolist(), strict=True):
        for source in sorted(range(len(row)), key=lambda index: -row[index])[:top]:
            sums[source][target] += math.exp(row[source])
    return sums


@pytest.mark.parametrize(("top", "entering"), [(None, 5), (1, 1), (2, 2), (5, 5), (9, 5)])
def test_counts_and_mass_by_hand_whatever_the_batches(top: int | None, entering: int) -> None:
    log_probs, targets = responses()
    seen = ResponseStatistics(5, 3, top=top)
    for rows in torch.arange(30).split(7):
        seen.observe(log_probs[rows], targets[rows])
    counts = torch.zeros(5, 3, dtype=torch.float64)
    for row, target in zip(log_probs, targets.tolist(), strict=True):
        counts[row.argmax(), target] += 1
    assert torch.equal(seen.counts, counts)
    torch.testing.assert_close(seen.mass, torch.tensor(kept(log_probs, targets, 3, entering)).double())


def test_a_refit_without_decay_forgets() -> None:
    seen = ResponseStatistics(5, 3)
    seen.observe(*responses())
    counts, mass = seen.total()
    used = seen.use_up()
    assert used is not None
    assert torch.equal(used[0], counts)
    assert torch.equal(used[1], mass)
    assert not seen.counts.any()
    assert not seen.mass.any()
    assert seen.use_up() is None


def test_two_refits_with_decay_by_hand() -> None:
    seen = ResponseStatistics(2, 2, decay=0.25)
    likely_first, likely_last = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.125, 0.875]]).log()
    for _ in range(4):
        seen.observe(likely_first, torch.tensor([0]))
    seen.observe(likely_last, torch.tensor([1]))
    used = seen.use_up()
    assert used is not None
    assert used[0].tolist() == [[4.0, 0.0], [0.0, 1.0]]
    torch.testing.assert_close(used[1], torch.tensor([[3.0, 0.125], [1.0, 0.875]]).double())
    # a quarter of it is left; two more examples of class 1 are taken for source 0
    seen.observe(likely_first.expand(2, 2), torch.tensor([1, 1]))
    used = seen.use_up()
    assert used is not None
    assert used[0].tolist() == [[1.0, 2.0], [0.0, 0.25]]
    torch.testing.assert_close(used[1], torch.tensor([[0.75, 1.53125], [0.25, 0.71875]]).double())
    assert seen.counts.tolist() == [[0.25, 0.5], [0.0, 0.0625]]


def test_without_anything_new_what_is_left_stays_as_it_is() -> None:
    seen = ResponseStatistics(5, 3, decay=0.5)
    assert seen.use_up() is None
    seen.observe(*responses())
    seen.use_up()
    left = seen.counts.clone()
    assert left.any()
    assert seen.use_up() is None
    assert torch.equal(seen.counts, left)
    seen.collect()
    assert seen.use_up() is None
    assert torch.equal(seen.counts, left)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_reset_forgets_earlier_refits_too(decay: float) -> None:
    seen, fresh = ResponseStatistics(5, 3, decay), ResponseStatistics(5, 3, decay)
    seen.observe(*responses())
    seen.use_up()
    seen.observe(*responses(seed=1))
    seen.reset()
    assert seen.use_up() is None
    for one in (seen, fresh):
        one.observe(*responses(seed=2))
    assert all(torch.equal(*pair) for pair in zip(seen.total(), fresh.total(), strict=True))


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(decay: float) -> None:
    seen = ResponseStatistics(5, 3, decay)
    seen.observe(*responses())
    seen.use_up()
    seen.observe(*responses(seed=1))
    copy = ResponseStatistics(5, 3, decay)
    copy.load_state_dict(seen.state_dict())
    for one in (seen, copy):
        one.observe(*responses(seed=2))
    used, same = seen.use_up(), copy.use_up()
    assert used is not None
    assert same is not None
    assert torch.equal(used[0], same[0])
    assert torch.equal(used[1], same[1])


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_whole_numbers_of_an_older_checkpoint_load_as_they_are(decay: float) -> None:
    older, seen = ResponseStatistics(5, 3), ResponseStatistics(5, 3, decay)
    older.observe(*responses())
    assert older.state_dict().keys() == {"counts", "mass"}
    seen.load_state_dict({**older.state_dict(), "counts": older.counts.long()}, strict=False)
    assert torch.equal(seen.counts, older.counts)
    assert seen.counts.dtype == torch.float64


@pytest.mark.parametrize(("decay", "top"), [(0.0, None), (0.5, None), (0.0, 2)])
def test_an_example_adds_its_trust(decay: float, top: int | None) -> None:
    log_probs, targets = responses()
    trust = torch.tensor([0.25, 0.5, 1.0]).repeat(10)
    weighted, repeated = ResponseStatistics(5, 3, decay, top), ResponseStatistics(5, 3, decay, top)
    weighted.observe(log_probs, targets, trust)
    copies = (4 * trust).long()
    repeated.observe(log_probs.repeat_interleave(copies, dim=0), targets.repeat_interleave(copies))
    torch.testing.assert_close(weighted.counts, repeated.counts / 4)
    torch.testing.assert_close(weighted.mass, repeated.mass / 4)
    plain, trusted = ResponseStatistics(5, 3, decay, top), ResponseStatistics(5, 3, decay, top)
    plain.observe(log_probs, targets)
    trusted.observe(log_probs, targets, torch.ones(30))
    assert torch.equal(plain.counts, trusted.counts)
    assert torch.equal(plain.mass, trusted.mass)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0, math.nan])
def test_a_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"mapping\.decay: expected a number in \[0, 1\), got"):
        ResponseStatistics(5, 3, decay)


def of_all(processes: list[ResponseStatistics]) -> list[Tensor]:
    """The sums of the processes' buffers, in the order in which a process asks for them."""
    return [torch.stack(parts).sum(0) for parts in zip(*(one.state_dict().values() for one in processes), strict=True)]


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("saved", [False, True], ids=["uninterrupted", "saved-in-between"])
def test_two_processes_together_have_what_one_has(decay: float, saved: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, both = ResponseStatistics(5, 3, decay), [ResponseStatistics(5, 3, decay) for _ in range(2)]

    def on_each(method: str) -> list[tuple[Tensor, Tensor] | None]:
        """Calls a collective method on both processes, with the collective operations played by hand."""
        sums, results = of_all(both), []
        for rank, process in enumerate(both):
            answers = iter(sums)
            with monkeypatch.context() as patch:
                patch.setattr(statistics, "sum_over_processes", lambda _, answers=answers: next(answers).clone())
                patch.setattr(statistics, "is_first_process", lambda rank=rank: rank == 0)
                results.append(getattr(process, method)())
        return results

    for seed in range(3):
        log_probs, targets = responses(seed=seed)
        alone.observe(log_probs, targets)
        for rank, process in enumerate(both):
            process.observe(log_probs[rank::2], targets[rank::2])
        if saved:
            on_each("collect")
            assert not both[1].counts.any()
        used = alone.use_up()
        assert used is not None
        for found in on_each("use_up"):
            assert found is not None
            torch.testing.assert_close(found[0], used[0])
            torch.testing.assert_close(found[1], used[1])
        assert not both[1].mass.any()
    torch.testing.assert_close(both[0].mass, alone.mass)
    assert on_each("use_up") == [None, None]
