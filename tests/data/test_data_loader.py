"""Order, shares, exact means and exact resume."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reprogram.data.augmentation import Augmentation
from reprogram.data.base import Examples
from reprogram.data.loader import BatchLoader, real_rows, to_float
from reprogram.errors import ConfigError, RunError, ShapeError


def examples(count: int) -> Examples:
    images = torch.arange(count, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    return Examples(images, torch.arange(count) % 3, tuple(str(row) for row in range(count)))


def rows(loader: BatchLoader) -> list[list[int]]:
    return [batch.indices.tolist() for batch in loader]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize(("count", "batch_size"), [(16, 4), (13, 4), (10, 3), (5, 8), (2, 4)])
def test_the_weighted_sum_over_processes_is_the_global_mean(world_size: int, count: int, batch_size: int) -> None:
    losses = torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = list(BatchLoader(examples(count), batch_size, shuffle=True, seed=1))
    shares = [
        list(BatchLoader(examples(count), batch_size, shuffle=True, seed=1, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert {len(share) for share in shares} == {-(-count // batch_size)}
    for step, batch in enumerate(whole):
        averaged = sum((part[step].weights.double() * losses[part[step].indices]).sum() for part in shares) / world_size
        assert averaged == pytest.approx(losses[batch.indices].mean().item(), rel=1e-6)
        real = [row for part in shares for row in part[step].indices[part[step].weights > 0].tolist()]
        assert sorted(real) == sorted(batch.indices.tolist())
        assert all(len(part[step].indices) >= 1 for part in shares)


@pytest.mark.parametrize("world_size", [1, 3])
def test_trust_weighs_the_losses_with_mean_one_over_the_split(world_size: int) -> None:
    trust = torch.tensor([0.25, 1.0, 0.5, 1.0, 0.75]).repeat(3)[:13]
    data = replace(examples(13), trust=trust)
    relative = trust.double() / trust.double().mean()
    losses = torch.rand(13, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = [
        list(BatchLoader(data, 4, shuffle=True, seed=1, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    for parts, plain in zip(zip(*shares, strict=True), BatchLoader(examples(13), 4, True, 1), strict=True):
        averaged = sum((part.weights.double() * losses[part.indices]).sum() for part in parts) / world_size
        expected = (relative * losses)[plain.indices].mean()
        assert averaged == pytest.approx(expected.item(), rel=1e-6)
        assert all(torch.equal(part.trust, trust[part.indices]) for part in parts)
        assert plain.trust is None
    whole = next(iter(BatchLoader(data, 13, shuffle=False, seed=0)))
    assert whole.weights.sum().item() == pytest.approx(1, abs=1e-6)
    assert (*shares[-1][-1].weights.shape, len(shares[-1][-1].indices)) == (1, 1)


@pytest.mark.parametrize(("last", "real"), [(9, 3), (3, 1), (2, 0)])
def test_the_rows_of_a_share_that_count_are_all_or_none(last: int, real: int) -> None:
    *_, batch = BatchLoader(examples(9 + last), 9, shuffle=True, seed=1, rank=2, world_size=3)
    assert len(batch.indices) == max(real, 1)
    assert batch.indices[real_rows(batch)].tolist() == batch.indices[batch.weights > 0].tolist()
    assert len(batch.indices[real_rows(batch)]) == real


def test_a_batch_holds_what_its_indices_say() -> None:
    data = examples(7)
    for batch in BatchLoader(data, 3, shuffle=True, seed=4):
        assert batch.images.dtype == torch.uint8
        assert batch.weights.dtype == torch.float32
        assert batch.images[:, 0, 0, 0].tolist() == batch.indices.tolist()
        assert torch.equal(batch.targets, data.targets[batch.indices])


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int, passes: int = 1) -> list[list[int]]:
        loader = BatchLoader(examples(20), 6, shuffle=True, seed=seed)
        loader.set_epoch(epoch)
        return [rows(loader) for _ in range(passes)][-1]

    assert order(0, 3) == order(0, 3, passes=2)
    assert order(0, 3) != order(0, 4)
    assert order(0, 3) != order(1, 3)
    assert sorted(row for batch in order(0, 3) for row in batch) == list(range(20))
    assert rows(BatchLoader(examples(5), 2, shuffle=False, seed=0)) == [[0, 1], [2, 3], [4]]


def test_a_loaded_state_resumes_once_at_its_position() -> None:
    first = BatchLoader(examples(10), 3, shuffle=True, seed=2)
    first.set_epoch(5)
    uninterrupted = rows(first)
    assert first.state_dict() == {"epoch": 5, "position": 4}
    batches = iter(first)
    assert [next(batches).indices.tolist() for _ in range(2)] == uninterrupted[:2]
    state = first.state_dict()
    assert state == {"epoch": 5, "position": 2}

    second = BatchLoader(examples(10), 3, shuffle=True, seed=2)
    second.load_state_dict(state)
    assert second.state_dict() == state
    second.set_epoch(5)  # the same epoch is announced again after a resume
    assert rows(second) == uninterrupted[2:]
    assert rows(second) == uninterrupted


def test_a_finished_or_another_epoch_starts_afresh() -> None:
    loader = BatchLoader(examples(10), 3, shuffle=True, seed=2)
    loader.load_state_dict({"epoch": 0, "position": 4})
    assert len(rows(loader)) == 4
    loader.load_state_dict({"epoch": 0, "position": 2})
    loader.set_epoch(1)
    assert loader.state_dict() == {"epoch": 1, "position": 0}
    assert len(rows(loader)) == 4
    with pytest.raises(RunError, match=r"0\.\.4, got 9"):
        loader.load_state_dict({"epoch": 0, "position": 9})


def test_a_pass_that_was_left_early_does_not_shorten_the_next() -> None:
    loader = BatchLoader(examples(10), 3, shuffle=True, seed=2)
    next(iter(loader))
    assert len(rows(loader)) == 4


@pytest.mark.parametrize(("batch_size", "rank", "world_size"), [(0, 0, 1), (4, 2, 2), (4, -1, 2)])
def test_impossible_loaders_are_refused(batch_size: int, rank: int, world_size: int) -> None:
    with pytest.raises(ConfigError, match="batch_size >= 1"):
        BatchLoader(examples(4), batch_size, shuffle=False, seed=0, rank=rank, world_size=world_size)


def test_to_float_scales_and_repeats_gray() -> None:
    gray = to_float(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8))
    assert gray.shape == (1, 3, 1, 3)
    assert torch.equal(gray[0, 2, 0], torch.tensor([0.0, 0.2, 1.0]))
    colours = torch.arange(3, dtype=torch.uint8).reshape(1, 3, 1, 1)
    assert torch.equal(to_float(colours).flatten(), torch.tensor([0, 1, 2]) / 255.0)
    with pytest.raises(ShapeError, match="only once"):
        to_float(torch.zeros(1, 3, 2, 2))


IMAGES = torch.rand(64, 3, 4, 5, generator=torch.Generator().manual_seed(0))
INDICES = torch.arange(100, 164)


def test_augmentation_is_off_by_default() -> None:
    assert torch.equal(Augmentation()(IMAGES, INDICES, 0), IMAGES)


def test_augmentation_depends_on_seed_epoch_and_example_alone() -> None:
    augment = Augmentation(True, True, 0.3, 0.4, seed=7)
    whole = augment(IMAGES, INDICES, 2)
    torch.rand(10)  # the global random state plays no part
    order = torch.from_numpy(np.random.default_rng(0).permutation(64))
    assert torch.equal(augment(IMAGES[order], INDICES[order], 2), whole[order])
    assert torch.equal(augment(IMAGES[5:6], INDICES[5:6], 2), whole[5:6])
    assert not torch.equal(augment(IMAGES, INDICES, 3), whole)
    assert not torch.equal(augment(IMAGES, INDICES + 1, 2), whole)
    assert not torch.equal(Augmentation(True, True, 0.3, 0.4, seed=8)(IMAGES, INDICES, 2), whole)
    assert whole.min() >= 0
    assert whole.max() <= 1


def test_flips_mirror_about_half_of_the_images() -> None:
    images, indices = IMAGES.repeat(20, 1, 1, 1), torch.arange(1280)
    for augment, axis in ((Augmentation(horizontal_flip=True), -1), (Augmentation(vertical_flip=True), -2)):
        result = augment(images, indices, 0)
        same = (result == images).flatten(1).all(dim=1)
        mirrored = (result == images.flip(axis)).flatten(1).all(dim=1)
        assert (same ^ mirrored).all()
        assert 0.45 < mirrored.float().mean() < 0.55


def test_brightness_scales_and_contrast_keeps_the_mean() -> None:
    images, indices = IMAGES.repeat(20, 1, 1, 1) * 0.4 + 0.2, torch.arange(1280)
    factors = Augmentation(brightness=0.5)(images, indices, 0) / images
    factors = factors.flatten(1)
    assert torch.allclose(factors.min(dim=1).values, factors.max(dim=1).values, atol=1e-5)
    assert 0.5 <= factors.min() < 0.51
    assert 1.49 < factors.max() <= 1.5
    assert factors.mean() == pytest.approx(1.0, abs=0.03)
    changed = Augmentation(contrast=0.3)(images, indices, 0)
    assert torch.allclose(changed.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)), atol=1e-5)
    assert (changed.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))).max() > 1.25
    with pytest.raises(ConfigError, match="brightness"):
        Augmentation(brightness=1.5)
