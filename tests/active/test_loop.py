"""Rounds: what is labelled when, by whom, and how they go on; with a learner that is told what it finds."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reprogram.active.clusters import ClusterRepresentatives
from reprogram.active.labellers import Waiting
from reprogram.active.learner import Learner
from reprogram.active.loop import TRAINED, Rounds, claim
from reprogram.active.options import Options
from reprogram.active.round_files import Round
from reprogram.active.strategies import RandomChoice, Strategy, Uncertainty
from reprogram.data.base import Examples
from reprogram.data.pool import Pool
from reprogram.errors import DataError, RunError
from reprogram.types import TaskSpec

NAMES = ("benign", "malignant, maybe")
N = 20


def make_pool(known: np.ndarray | None = None) -> Pool:
    truth = np.arange(N) % 2 if known is None else known
    images = torch.arange(N, dtype=torch.uint8)[:, None, None, None].expand(N, 1, 4, 4).contiguous()
    targets = torch.from_numpy(np.maximum(truth, 0)).long()
    examples = Examples(images, targets, tuple(f"scan {row}" for row in range(N)))
    spec = TaskSpec("scans", NAMES, (4, 4))
    return Pool(spec, examples, truth.astype(np.int64), {})


class ToldLearner(Learner):
    """Row n of the pool is of the second class with probability n / 40: the last ones are the least certain."""

    def __init__(self, pool: Pool, confidence: float | None = None) -> None:
        self.pool, self.device = pool, torch.device("cpu")
        self._scored, self._features = None, {"log_probs": np.arange(N, dtype=float)[:, None] // 5}
        self.learned: list[tuple[int, list[str]]] = []
        self.confidence = confidence

    def accessed(self, source: Any) -> Any:
        return source

    def open(self) -> None:
        pass

    def learn(self, this: Round, before: Round | None) -> dict[str, Any]:
        self.learned.append((this.number, [one.id for one in this.labels() or []]))
        assert (before is None) == (this.number == 1)
        metric = {"value": 0.5, "low": 0.4, "high": 0.6}
        return {"val": {"accuracy": metric}, "test": None, "queries": None}

    def score(self, this: Round) -> np.ndarray:
        positive = np.arange(N) / 40 if self.confidence is None else np.full(N, 1 - self.confidence)
        return np.stack([1 - positive, positive], axis=1)

    def finish(self, this: Round) -> Path:
        return this.run


def rounds(folder: Path, pool: Pool | None = None, strategy: Strategy | None = None, **options: Any) -> Rounds:
    pool = make_pool() if pool is None else pool
    chosen = Options(**{"fractions": [0.2, 0.5], **options})
    return Rounds(folder, pool, chosen, strategy or RandomChoice(), ToldLearner(pool), seed=3)


def fill(sheet: Path, labels: dict[str, str]) -> None:
    with sheet.open(newline="") as file:
        rows = list(csv.reader(file))
    with sheet.open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *([name, labels.get(name, "")] for name, _ in rows[1:])])


def test_the_data_give_labels_round_by_round(tmp_path: Path) -> None:
    going = rounds(tmp_path)
    records = going.go()
    assert [record["labels"] for record in records] == [4, 10]
    assert [record["fraction"] for record in records] == [0.2, 0.5]
    first, second = (going.round(number).labels() for number in (1, 2))
    assert first is not None
    assert second is not None
    assert second[:4] == first  # what was labelled stays
    for one in second:
        assert one.label == NAMES[int(one.id.split()[1]) % 2]
        assert one[2:] == (1.0, "data", 1 if one in first else 2)


def test_uncertain_examples_are_chosen_once_there_is_a_model(tmp_path: Path) -> None:
    pytest.importorskip("skactiveml")
    going = rounds(tmp_path, strategy=Uncertainty("margin"))
    going.go()
    taken = going.round(1).chosen() or []
    expected = [f"scan {row}" for row in range(N - 1, -1, -1) if f"scan {row}" not in taken][:6]
    assert going.round(2).chosen() == expected


def test_finished_rounds_are_not_learned_again(tmp_path: Path) -> None:
    once = rounds(tmp_path, fractions=[0.2])
    first = once.go()
    again = rounds(tmp_path, fractions=[0.2, 0.5])
    assert again.go()[0] == first[0]
    assert [number for number, _ in again.learner.learned] == [2]


@pytest.mark.parametrize("cut", ["choose", "label", "end"])
def test_a_round_that_was_cut_off_goes_on_with_the_same_examples(tmp_path: Path, monkeypatch, cut: str) -> None:
    whole = rounds(tmp_path / "whole")
    expected = whole.go()

    class Killed(BaseException):
        pass

    kept = getattr(Round, cut)

    def dies(self: Round, *arguments: Any) -> None:
        kept(self, *arguments)
        if self.number == 2:
            raise Killed

    monkeypatch.setattr(Round, cut, dies)
    with pytest.raises(Killed):
        rounds(tmp_path / "cut").go()
    monkeypatch.setattr(Round, cut, kept)
    continued = rounds(tmp_path / "cut")
    assert continued.go() == expected
    assert continued.round(2).labels() == whole.round(2).labels()


def test_confidence_ends_the_rounds(tmp_path: Path) -> None:
    going = rounds(tmp_path, fractions=[0.2, 0.5, 0.8], confidence=0.9)
    going.learner.confidence = 0.95  # type: ignore[attr-defined]
    assert [record["confidence"] for record in going.go()] == [pytest.approx(0.95)]


def test_a_person_is_waited_for_and_then_believed(tmp_path: Path) -> None:
    pool = make_pool(np.full(N, -1))
    with pytest.raises(Waiting, match=r"4 examples to label: fill .*round_1/sheet.csv"):
        rounds(tmp_path, pool, labels="person").go()
    going = rounds(tmp_path, pool, labels="person")
    with pytest.raises(Waiting):  # nothing filled in yet
        going.go()
    one = going.round(1)
    ids = one.chosen() or []
    assert (one.path / "page.html").is_file()
    fill(one.path / "sheet.csv", {ids[0]: "benign", ids[1]: NAMES[1]})
    before = (one.path / "sheet.csv").read_bytes()
    with pytest.raises(DataError, match=rf"2 of 4 rows are filled, expected all; first without a label: {ids[2]}"):
        going.go()
    assert (one.path / "sheet.csv").read_bytes() == before
    assert one.labels() is None  # nothing is taken over before the whole sheet is right
    fill(one.path / "sheet.csv", {ids[0]: "benign", ids[1]: NAMES[1], ids[2]: "skip", ids[3]: "benign"})
    with pytest.raises(Waiting, match="round_2"):
        going.go()
    assert [(row.id, row.label, row.origin) for row in one.labels() or []] == [
        (ids[0], "benign", "person"),
        (ids[1], NAMES[1], "person"),
        (ids[3], "benign", "person"),
    ]
    assert one.skipped() == [ids[2]]
    second = going.round(2).chosen() or []
    assert len(second) == 7  # the example that was skipped is made up for
    assert not set(second) & set(ids)
    assert len(going.ended()) == 1


def test_a_part_of_a_sheet_will_do_where_that_was_said(tmp_path: Path) -> None:
    pool = make_pool(np.full(N, -1))
    going = rounds(tmp_path, pool, labels="person", fractions=[0.2], partial=True)
    with pytest.raises(Waiting):
        going.go()
    ids = going.round(1).chosen() or []
    fill(going.round(1).path / "sheet.csv", {ids[0]: "benign"})
    assert [record["labels"] for record in going.go()] == [1]


def test_labels_that_are_there_are_begun_with(tmp_path: Path) -> None:
    known = np.full(N, -1)
    known[:6] = [0, 1, 0, 1, 0, 1]
    pool = make_pool(known)
    going = rounds(tmp_path, pool, labels="person")
    with pytest.raises(Waiting, match="4 examples to label"):
        going.go()
    assert [record["labels"] for record in going.ended()] == [6]
    assert not set(going.round(2).chosen() or []) & {f"scan {row}" for row in range(6)}


def test_data_without_labels_need_a_person(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set active.labels=person"):
        rounds(tmp_path, make_pool(np.full(N, -1))).go()


def test_labels_that_nobody_gave_are_marked_and_made_anew(tmp_path: Path) -> None:
    """Five rows a cluster, alternately of both classes: the label of one is right for 2 or 3 of the others."""
    strategy = ClusterRepresentatives(trust=0.3)
    going = rounds(tmp_path, strategy=strategy)
    records = going.go()
    assert [record["labels"] for record in records] == [4, 10]
    first = going.round(1).labels() or []
    passed_on = [one for one in first if one.origin == "propagated"]
    assert len(passed_on) == 16
    assert {one.trust for one in passed_on} == {0.3}
    truth = [NAMES[int(one.id.split()[1]) % 2] for one in passed_on]
    right = np.mean([one.label == label for one, label in zip(passed_on, truth, strict=True)])
    assert records[0]["propagated"] == {"count": 16, "accuracy": right, "mean_trust": pytest.approx(0.3)}
    assert 0.3 < right < 0.7
    second = going.round(2).labels() or []
    given = [one for one in second if one.origin == "data"]
    assert all(one.label == NAMES[int(one.id.split()[1]) % 2] for one in given)  # a guess never stays for a label
    assert len({one.id for one in second}) == len(second)


def about(active: dict[str, Any], seed: int = 0, **groups: Any) -> dict[str, Any]:
    return {"active": active, "seed": seed, **dict.fromkeys(TRAINED), **groups}


def test_other_data_or_choices_are_refused(tmp_path: Path) -> None:
    pool = make_pool()
    claim(tmp_path, pool, about({"fractions": [0.1], "labels": "data"}, 0))
    claim(tmp_path, pool, about({"fractions": [0.1, 0.2], "labels": "data"}, 0))  # more rounds are no other ones
    with pytest.raises(RunError, match="holds rounds with another active"):
        claim(tmp_path, pool, about({"fractions": [0.1], "labels": "person"}, 0))
    with pytest.raises(RunError, match="holds rounds with another seed"):
        claim(tmp_path, pool, about({"fractions": [0.1], "labels": "data"}, 1))
    with pytest.raises(RunError, match="holds rounds with another program"):
        claim(tmp_path, pool, about({"fractions": [0.1], "labels": "data"}, program={"size": 20}))


def test_files_of_the_source_may_have_moved(tmp_path: Path) -> None:
    for folder in ("/here", "/there"):
        claim(tmp_path, make_pool(), about({}, source={"weights": f"{folder}/weights.safetensors", "name": "x"}))
    with pytest.raises(RunError, match="holds rounds with another source"):
        claim(tmp_path, make_pool(), about({}, source={"weights": "/there/others.safetensors", "name": "x"}))


def test_rounds_that_have_ended_keep_their_place_among_other_fractions(tmp_path: Path) -> None:
    first = rounds(tmp_path, fractions=[0.2, 0.5]).go()
    again = rounds(tmp_path, fractions=[0.1, 0.2, 0.4, 0.6, 0.7]).go()
    assert [record["labels"] for record in again] == [4, 10, 12, 14]
    assert again[:2] == first


def test_a_pool_that_is_used_up_ends_the_rounds(tmp_path: Path) -> None:
    pool = make_pool(np.full(N, -1))
    going = rounds(tmp_path, pool, labels="person", fractions=[0.5, 0.9, 1.0])
    with pytest.raises(Waiting):
        going.go()
    ids = going.round(1).chosen() or []
    fill(going.round(1).path / "sheet.csv", {name: "skip" if place < 5 else "benign" for place, name in enumerate(ids)})
    with pytest.raises(Waiting):
        going.go()
    ids = going.round(2).chosen() or []
    assert len(ids) == 10  # all there are; five are skipped
    fill(going.round(2).path / "sheet.csv", dict.fromkeys(ids, "benign"))
    assert [record["labels"] for record in going.go()] == [5, 15]


def test_files_that_were_edited_are_refused(tmp_path: Path) -> None:
    going = rounds(tmp_path, fractions=[0.2])
    going.go()
    file = going.round(1).labels_file
    file.write_text("id,label\nscan 1,benign\n")
    with pytest.raises(RunError, match=r"labels.csv: expected the columns id, label, trust, origin, round"):
        going.round(1).labels()


@pytest.mark.parametrize("text", [None, "id,label,trust,origin,round\n"])
def test_labels_that_were_lost_are_not_asked_again(tmp_path: Path, text: str | None) -> None:
    rounds(tmp_path, fractions=[0.2]).go()
    file = Round(1, tmp_path / "round_1").labels_file
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(RunError, match=r"round_1/labels.csv: expected the labels of the round, got none"):
        rounds(tmp_path).go()
    assert not (tmp_path / "round_2").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",1.0,", ",x,", "could not convert string to float: 'x'; it is not for editing"),
        ("scan ", "scam ", "expected examples of the pool and classes of the task, got others in scam"),
        ("benign", "benignn", "expected examples of the pool and classes of the task, got others in scan"),
    ],
)
def test_labels_that_were_edited_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    rounds(tmp_path, fractions=[0.2]).go()
    file = Round(1, tmp_path / "round_1").labels_file
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(RunError, match=message):
        rounds(tmp_path).go()


def test_what_was_skipped_is_not_forgotten_with_its_file(tmp_path: Path) -> None:
    rounds(tmp_path, fractions=[0.2]).go()
    (tmp_path / "round_1" / "skipped.csv").unlink()
    with pytest.raises(RunError, match=r"skipped.csv: is missing beside labels.csv; put a copy back"):
        rounds(tmp_path).go()


@pytest.mark.parametrize("text", ["[]", "{}"])
def test_records_of_another_kind_are_refused(tmp_path: Path, text: str) -> None:
    rounds(tmp_path, fractions=[0.2]).go()
    (tmp_path / "round_1" / "round.json").write_text(text)
    with pytest.raises(RunError, match=r"round.json: expected the result of a round"):
        rounds(tmp_path).go()
    (tmp_path / "active.json").write_text("[]")
    with pytest.raises(RunError, match=r"active.json: expected what the rounds are about"):
        claim(tmp_path, make_pool(), about({}, 0))


def test_a_sheet_of_skipped_examples_alone_can_be_corrected(tmp_path: Path) -> None:
    going = rounds(tmp_path, make_pool(np.full(N, -1)), labels="person", fractions=[0.2])
    with pytest.raises(Waiting):
        going.go()
    sheet, ids = going.round(1).path / "sheet.csv", going.round(1).chosen() or []
    fill(sheet, dict.fromkeys(ids, "skip"))
    with pytest.raises(RunError, match=r"every example was skipped, .*; label one in sheet.csv"):
        going.go()
    fill(sheet, {**dict.fromkeys(ids, "skip"), ids[0]: "benign"})
    assert [record["labels"] for record in going.go()] == [1]
    assert going.round(1).skipped() == ids[1:]
