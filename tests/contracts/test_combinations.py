"""Every program with every mapping, in the open and behind a black box; a new config is tested by being there."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from reprogram import artefact, build, sourcing
from reprogram.commands.launch import config_folder
from reprogram.data.base import TaskData
from reprogram.sources.ledger import Ledger
from reprogram.sources.network import fingerprint
from reprogram.types import Batch

BATCH, STEPS = 8, 3
ACCESS = {"white_box": ["access=white_box"], "black_box": ["access=black_box", "estimator=two_sided"]}
NEEDED: dict[str, list[str]] = {  # what a user must add to a choice
    "semantic": ["mapping.given=[[1],[0]]"],  # a run asks a text encoder for it
}


def names(group: str) -> list[str]:
    found = sorted(path.stem for path in (Path(config_folder()) / group).glob("*.yaml"))
    assert found, f"no config under {group}"
    return [name for name in found if not name.startswith("_")]


@cache
def task() -> TaskData:
    return build.task_data(composed())


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("train", ["protocol.max_train=48", "logger=none", f"data.batch_size={BATCH}", *overrides])
    return build.plain(cfg)


@pytest.mark.parametrize("access", ACCESS)
@pytest.mark.parametrize("mapping", names("mapping"))
@pytest.mark.parametrize("program", names("program"))
def test_a_pair_trains_and_is_saved(program: str, mapping: str, access: str, tmp_path: Path) -> None:
    chosen = (f"program={program}", *NEEDED.get(program, ()), f"mapping={mapping}", *NEEDED.get(mapping, ()))
    cfg, data = composed(*chosen, *ACCESS[access]), task()
    account = Ledger(None, "run") if access == "black_box" else None
    source = sourcing.source(cfg, "cpu", data.spec)
    weights = fingerprint(source)
    cfg = build.self_contained(cfg, source.spec, data.spec)
    model = build.classifier(cfg, build.accessed(cfg, source, account), data.spec, "cpu")
    estimator = build.estimator(cfg, model.program)
    counts = torch.bincount(data.splits["train"].targets)
    module = build.module(cfg, model, estimator, counts, STEPS)
    made = module.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    before = model.program.theta.detach().clone()

    for step in range(STEPS):
        rows = torch.arange(step * BATCH, (step + 1) * BATCH)
        images, targets = data.splits["train"].images[rows], data.splits["train"].targets[rows]
        batch = module.on_after_batch_transfer(Batch(images, targets, torch.full((BATCH,), 1 / BATCH), rows), 0)
        if step == 0 and model.mapping.schedule.at_start:
            model.mapping.observe(model.source(model.compose(batch.images)).detach(), targets)
            model.mapping.refit()
        surrogate = module.training_step(batch, step)
        optimizer.zero_grad()
        surrogate.backward()
        optimizer.step()
        schedule.step()
        model.mapping.refit()

    assert torch.isfinite(model.program.theta).all()
    assert not torch.equal(model.program.theta, before)
    assert fingerprint(source) == weights
    images = data.splits["val"].images[:4].expand(-1, 3, -1, -1)
    model.eval()
    with torch.no_grad():
        canvases = model.compose(images / 255)
        probabilities = model(images)
    assert canvases.min() >= 0
    assert canvases.max() <= 1
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(4))
    if account is not None:
        prime = BATCH if model.mapping.schedule.at_start else 0
        assert account.spent()["train"] == STEPS * BATCH * estimator.queries_per_example
        assert sum(account.spent().values()) == STEPS * BATCH * estimator.queries_per_example + prime + 4
    artefact.save(model, cfg, tmp_path)
    with torch.no_grad():
        assert torch.equal(artefact.load(tmp_path)(images), probabilities)
