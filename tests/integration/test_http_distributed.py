"""Two processes before one service over HTTP: the same result, one account, and one share of its patience."""

import json
import os
import subprocess
import sys
from pathlib import Path

import http_services
import pytest
import torch
from http_services import SERVICES, SIZE
from scoring_stub import Says, Sent, Stub, serving

from reprogram.sources.ledger import Ledger

pytestmark = [pytest.mark.ddp, pytest.mark.slow]

CHOICES = (
    *("recipe=black_box", "data=digits", "protocol.max_train=37", "protocol.max_val=17", "protocol.max_test=16"),
    *("data.batch_size=8", "program=frame", "program.size=4", "program.resolution=2", "estimator.smoothing=2"),
    *("optimizer=sgd", "optimizer.lr=1.0", "scheduler=constant", "mapping.refresh=once", "callbacks.patience=null"),
    *("access.query_budget=1000", "access.validations=2", "access.queries_per_second=1000", "trainer.max_steps=10"),
    *("evaluation.baselines=[]", "evaluation.num_resamples=20", "trainer.enable_progress_bar=false", "logger=none"),
    *("source=http", f"source.image_size={list(SIZE)}".replace(" ", ""), "source.adapter.model=colours"),
    *("source.adapter.binary=false", "source.adapter.images_per_request=2", "source.adapter.outputs=logits"),
    "source.longest_wait=0.1",
)
CONCURRENCY = 5  # of which each of two processes gets two


def answering(sent: Sent, before: int) -> Says:
    """Late, so that others are under way; one reply in 20 is an error that may be charged."""
    says = SERVICES["http"][0](sent, before)
    says.after = 0.02
    return Says("oops", 500) if sent.content and before % 20 == 13 else says


def images(sent: Sent) -> int:
    return json.loads(sent.content)["inputs"][0]["shape"][0] if sent.content else 0


def train(stub: Stub, run_dir: Path, processes: int) -> tuple[dict, torch.Tensor]:
    parallel = ("trainer=ddp_cpu", f"trainer.devices={processes}") if processes > 1 else ()
    here = (f"run_dir={run_dir}", f"source.url={stub.url}", f"source.concurrency={CONCURRENCY}")
    done = subprocess.run(
        [sys.executable, "-m", "reprogram.commands.train", *CHOICES, *here, *parallel],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    state = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return json.loads((run_dir / "metrics.json").read_text()), state["classifier.program.theta"]


def test_two_processes_learn_what_one_does_and_both_bills_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # it sees what is bright in an image: digits have no colours
    monkeypatch.setattr(http_services, "scored", lambda images: (5 * images.double().mean((1, 3))[:, 1:4]).softmax(1))
    thetas, most_under_way = [], []
    for processes in (1, 2):
        run_dir = tmp_path / str(processes)
        with serving(answering) as stub:
            record, theta = train(stub, run_dir, processes)
        account = Ledger(run_dir / "ledger.sqlite", ".", 1000)
        queries = record["queries"]
        assert sum(map(images, stub.got)) == account.total() == queries["total"]
        assert 0 < queries["uncertain"] == queries["retried"] < 100
        assert account.free() == 1000 - account.total()  # nothing stays reserved
        assert queries["other"] == 0
        thetas.append(theta)
        most_under_way.append(stub.most_under_way)
    assert most_under_way == [CONCURRENCY, CONCURRENCY - 1]
    assert thetas[0].abs().max() > 0.02  # something was learned
    torch.testing.assert_close(thetas[1], thetas[0], rtol=0, atol=1e-3 * float(thetas[0].norm()))
