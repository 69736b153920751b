"""The worker: what it takes from the queue, and how it divides what the model says."""

import time
from multiprocessing import Pipe
from queue import Queue
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reprogram.errors import ConfigError
from reprogram.serving.charges import Charges
from reprogram.serving.metrics import Metrics
from reprogram.serving.model import Choice, Facts, Model, in_path
from reprogram.serving.routes import Routes
from reprogram.serving.worker import Scoring, WaitingLoop

FACTS = Facts("toy", ("a", "b"), (2, 2), "log_probabilities", "abc")


def taken(waiting: list[Any], most: int, batch_timeout: float = 0.0, timeout: float = 30.0) -> tuple[Any, Any, Any]:
    """What a loop takes, what is late, and what is left."""
    queue: Queue[Any] = Queue()
    for request in waiting:
        queue.put(request)
    api = SimpleNamespace(max_batch_size=most, batch_timeout=batch_timeout, request_timeout=timeout)
    batch, late = WaitingLoop().get_batch_requests(api, queue, None)
    return batch, late, queue.qsize()


def requests(count: int) -> list[Any]:
    return [(0, f"id{row}", time.monotonic(), np.full((1, 3, 2, 2), row)) for row in range(count)]


def test_what_waits_is_taken_up_to_the_largest_batch() -> None:
    batch, late, left = taken(requests(5), most=3)
    assert [identity for _, identity, _ in batch] == ["id0", "id1", "id2"]
    assert [int(images[0, 0, 0, 0]) for *_, images in batch] == [0, 1, 2]
    assert (late, left) == ([], 2)
    batch, _, left = taken(requests(2), most=3)
    assert (len(batch), left) == (2, 0)


def test_what_has_waited_for_too_long_is_not_scored() -> None:
    waiting = requests(3)
    waiting[1] = (0, "old", time.monotonic() - 100, waiting[1][3])
    batch, late, _ = taken(waiting, most=8)
    assert [identity for _, identity, _ in batch] == ["id0", "id2"]
    assert late == [(0, "old")]


@pytest.fixture
def scoring() -> tuple[Scoring, list[int]]:
    """A worker whose model says the mean of each image, and the sizes of its forwards."""
    sizes: list[int] = []

    def score(images: Tensor) -> tuple[Tensor, Tensor | None]:
        sizes.append(len(images))
        means = images.mean(dim=(1, 2, 3))
        return torch.stack([means, 1 - means], dim=1), (means > 0.5).long()

    _, told = Pipe(duplex=False)
    worker = Scoring(Choice({}, None), told, Routes(Charges(None), Metrics(), 1000), max_batch_size=4)
    worker.device = "cpu"
    worker._model = Model(FACTS, 3, score)
    return worker, sizes


def test_answers_go_back_to_their_requests(scoring: tuple[Scoring, list[int]]) -> None:
    worker, sizes = scoring
    bytes_, floats = np.full((1, 3, 2, 2), 51, dtype=np.uint8), np.full((4, 3, 2, 2), 0.75, dtype=np.float32)
    first, second, third = worker.predict(worker.batch([bytes_, floats, bytes_]))
    assert first.scores == pytest.approx(np.array([[0.2, 0.8]]), abs=1e-6)
    assert second.scores.tolist() == [[0.75, 0.25]] * 4
    assert third.scores.dtype == np.float32
    assert [answer.decided.tolist() for answer in (first, second, third)] == [[0], [1] * 4, [0]]
    assert sizes == [3, 3]  # at most three images at once


def test_a_model_without_decisions_has_none(scoring: tuple[Scoring, list[int]]) -> None:
    worker, _ = scoring
    worker._model = Model(FACTS, 3, lambda images: (images.flatten(1)[:, :2], None))
    answers = worker.predict([np.zeros((2, 3, 2, 2), dtype=np.float32), np.zeros((1, 3, 2, 2), dtype=np.float32)])
    assert [(len(answer.scores), answer.decided) for answer in answers] == [(2, None), (1, None)]


def test_names_are_made_fit_for_paths() -> None:
    assert in_path("microsoft/resnet-18 (\u03b1)") == "microsoft_resnet-18____"
    assert in_path("embedded_v1.0") == "embedded_v1.0"


def test_a_source_cannot_take_its_classes_from_a_task_that_is_not_there() -> None:
    inner = {"_target_": "reprogram.sources.open_clip.open_clip_source", "name": "x", "class_names": "target"}
    block = {"_target_": "reprogram.sources.ensemble.EnsembleSource", "members": {"a": inner}}
    with pytest.raises(ConfigError, match=r"source.members.a.class_names: expected imagenet or a list"):
        Choice(block, None).load("cpu")


def test_the_facts_of_a_source_are_its_own() -> None:
    block = {"_target_": "reprogram.sources.embedded.embedded_source", "prepare": False}
    model = Choice(block, None, "small one").load("cpu")
    assert (model.facts.name, model.facts.image_size, len(model.facts.class_names)) == ("small_one", (64, 64), 272)
    assert (model.facts.outputs, model.facts.resizes, model.facts.threshold) == ("log_probabilities", False, None)
    scores, decided = model.score(torch.full((2, 3, 64, 64), 0.5))
    assert scores.exp().sum(dim=1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert decided is None
