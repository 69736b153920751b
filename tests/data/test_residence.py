"""Where pixels live changes no batch; what is fetched ahead leaves nothing behind."""

import gc
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reprogram.data import residence as module
from reprogram.data.base import Examples, ImageRows
from reprogram.data.loader import CPU, BatchLoader
from reprogram.data.residence import Fetched, Resident, residence
from reprogram.types import Batch

COUNT, BYTES = 23, 23 * 3 * 2 * 2


def examples(count: int = COUNT, stack: type[ImageRows] = ImageRows) -> Examples:
    """Every other image of a stack, backwards."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2 * count, 3, 2, 2), np.uint8))
    rows = torch.arange(0, 2 * count, 2).flip(0)
    return Examples(stack(images, rows), torch.arange(count) % 3, tuple(map(str, range(count))))


def loader(data: Examples, device: torch.device = CPU, batch_size: int = 5, **options: int) -> BatchLoader:
    return BatchLoader(data, batch_size, shuffle=True, seed=3, device=device, **options)


def equal(one: list[Batch], other: list[Batch]) -> bool:
    pairs = [pair for batches in zip(one, other, strict=True) for pair in zip(*batches, strict=True)]
    return all(a is b or (a.dtype == b.dtype and torch.equal(a.cpu(), b.cpu())) for a, b in pairs)


def by_hand(data: Examples, batch_size: int = 5) -> list[Batch]:
    """What one process gets in epoch 0."""
    order = torch.from_numpy(np.random.default_rng((3, 0)).permutation(len(data)))
    return [
        Batch(data.images[rows], data.targets[rows], torch.full((len(rows),), 1 / len(rows)), rows)
        for rows in order.split(batch_size)
    ]


def fetching() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fetch")]


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory is free anywhere."""
    monkeypatch.setattr(module, "free_memory", lambda device: 0)


class Recorded(ImageRows):
    """Says which rows were read, and refuses those of a batch that it is told to."""

    broken: int | None = None

    def __init__(self, stack: Tensor, rows: Tensor) -> None:
        super().__init__(stack, rows)
        self.read: list[list[int]] = []
        self.second = threading.Event()

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        self.read.append(torch.arange(len(self))[rows].tolist())
        if len(self.read) == 2:
            self.second.set()
        if len(self.read) - 1 == self.broken:
            raise OSError("the file is gone")
        return super().__getitem__(rows)


def recorded(data: Examples) -> Recorded:
    assert isinstance(data.images, Recorded)
    return data.images


@pytest.mark.parametrize("free", [0, 10**9], ids=["fetched", "resident"])
def test_where_pixels_live_changes_no_batch(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_memory", lambda device: free)
    data = examples()
    made = loader(data)
    assert equal(list(made), by_hand(data))
    assert equal(list(made), by_hand(data))
    assert isinstance(residence(data, CPU), Resident if free else Fetched)
    in_memory = Examples(data.images[torch.arange(COUNT)], data.targets, data.ids)
    assert equal(list(loader(in_memory)), by_hand(data))


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.usefixtures("full")
def test_fetched_shares_and_resumed_passes_are_those_of_images_in_memory(batch_size: int) -> None:
    data = examples()
    in_memory = Examples(data.images[torch.arange(COUNT)], data.targets, data.ids)
    for rank in range(3):
        fetched, plain = (loader(one, batch_size=batch_size, rank=rank, world_size=3) for one in (data, in_memory))
        for one in (fetched, plain):
            one.load_state_dict({"epoch": 4, "position": 2})
        assert equal(list(fetched), list(plain))
        assert equal(list(fetched), list(plain))


def test_images_in_memory_are_not_copied(full: None, caplog: pytest.LogCaptureFixture) -> None:
    data = Examples(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4).long(), tuple("abcd"))
    home, order = residence(data, CPU), torch.arange(4)
    data.images[2] = 7
    (batch,) = home.images(order, order, [slice(2, 3)])
    assert batch.unique().tolist() == [7]
    assert home.targets is data.targets
    assert not caplog.records


def test_a_mapped_file_that_fits_is_read_once(tmp_path: Path) -> None:
    stack = torch.from_file(str(tmp_path / "images"), shared=True, size=2 * BYTES, dtype=torch.uint8)
    stack = stack.view(2 * COUNT, 3, 2, 2).copy_(examples().images.stack)
    data = Examples(Recorded(stack, torch.arange(COUNT)), torch.arange(COUNT) % 3, tuple(map(str, range(COUNT))))
    made = loader(data)
    expected = by_hand(Examples(stack[:COUNT].clone(), data.targets, data.ids))
    assert equal(list(made), expected)
    stack.zero_()
    assert equal(list(made), expected)
    assert sorted(row for rows in recorded(data).read for row in rows) == list(range(COUNT))


@pytest.mark.parametrize(("free", "processes", "kind"), [
    (4 * BYTES, 1, Resident), (4 * BYTES - 1, 1, Fetched), (8 * BYTES, 2, Resident), (8 * BYTES - 1, 2, Fetched),
])  # fmt: skip
def test_a_mapped_file_may_take_a_quarter_of_the_memory_of_all_processes_together(
    free: int, processes: int, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "free_memory", lambda device: free)
    assert isinstance(residence(examples(), CPU, processes), kind)


def test_what_does_not_fit_is_said_once(full: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = examples()
    for _ in range(2):
        list(loader(data))
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage() == (
        "data     23 images (0.0 GB) are fetched batch by batch: 0.0 GB are free on cpu, 1/4 may be used"
    )


def test_loaders_of_a_split_share_its_place_which_ends_with_the_last_of_them() -> None:
    data = examples(stack=Recorded)
    first, second, third = (loader(data) for _ in range(3))
    list(first), list(second)
    assert sum(map(len, recorded(data).read)) == COUNT
    del first, second
    gc.collect()
    list(third)
    assert sum(map(len, recorded(data).read)) == 2 * COUNT


@pytest.mark.parametrize("free", [0, 10**9], ids=["fetched", "resident"])
def test_a_split_first_read_without_gradients_serves_training_too(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_memory", lambda device: free)
    made = loader(replace(examples(), trust=torch.linspace(0.1, 1, COUNT)))
    with torch.inference_mode():
        list(made)
    assert not any(part.is_inference() for batch in made for part in batch)


@pytest.mark.usefixtures("full")
def test_the_next_batch_is_read_while_the_last_is_worked_on_and_is_not_counted() -> None:
    data = examples(stack=Recorded)
    made, orders = loader(data), [batch.indices.tolist() for batch in by_hand(data)]
    recorded(data).read.clear()
    recorded(data).second.clear()
    batches = iter(made)
    assert next(batches).indices.tolist() == orders[0]
    assert recorded(data).second.wait(5)
    assert made.state_dict() == {"epoch": 0, "position": 1}
    next(batches)
    state = made.state_dict()
    assert state["position"] == 2
    resumed = loader(data)
    resumed.load_state_dict(state)
    assert [batch.indices.tolist() for batch in resumed] == orders[2:]


def left_early(made: BatchLoader) -> None:
    for _ in made:
        break


def killed(made: BatchLoader) -> None:
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        for _ in made:
            assert fetching()
            raise KeyboardInterrupt


def closed(made: BatchLoader) -> None:
    batches = iter(made)
    next(batches)
    batches.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("way", [list, left_early, killed, closed])
@pytest.mark.usefixtures("full")
def test_no_thread_outlives_a_pass(way: object) -> None:
    assert not fetching()
    way(loader(examples()))  # type: ignore[operator]
    assert not fetching()


@pytest.mark.usefixtures("full")
def test_an_error_in_the_thread_is_raised_where_its_batch_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorded, "broken", 2)
    made = loader(examples(stack=Recorded))
    batches = iter(made)
    next(batches), next(batches)
    with pytest.raises(OSError, match="the file is gone"):
        next(batches)
    assert made.state_dict()["position"] == 2
    assert not fetching()


CUDA = torch.device("cuda", 0)


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """An operation for which the host waits for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize(("free", "kind"), [(2 * BYTES, Resident), (2 * BYTES - 1, Fetched)])
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_batches_are_on_the_device_and_the_host_never_waits_for_it(
    free: int, kind: type, mapped: bool, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(module, "free_memory", lambda device: free)
    data = examples()
    if not mapped:
        data = Examples(data.images[torch.arange(COUNT)], data.targets, data.ids)
    made = loader(data, CUDA)
    torch.zeros(1, device=CUDA)
    request.getfixturevalue("no_waiting")
    passes = [list(made) for _ in range(2)]
    torch.cuda.set_sync_debug_mode("default")
    assert isinstance(residence(data, CUDA), kind)
    assert all(part.is_cuda for batches in passes for batch in batches for part in batch)
    assert all(equal(batches, by_hand(data)) for batches in passes)
    assert not fetching()


@pytest.mark.gpu
@pytest.mark.usefixtures("full")
def test_what_is_fetched_stays_until_the_device_has_worked_on_it() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 3, 128, 128), dtype=torch.uint8, generator=generator)
    data = Examples(images, torch.zeros(64).long(), tuple(map(str, range(64))))
    sums = []
    for batch in loader(data, CUDA, batch_size=4):
        torch.cuda._sleep(10_000_000)  # the device falls behind: were memory reused too early, sums would be of others
        sums.append((batch.indices, batch.images.sum(dim=(1, 2, 3))))
    for rows, found in sums:
        assert torch.equal(found.cpu(), images[rows.cpu()].sum(dim=(1, 2, 3)))
