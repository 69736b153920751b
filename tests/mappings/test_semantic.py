"""Assignments by the meaning of class names, from a text tower with random weights."""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_clip import CONFIG, save_clip

from reprogram.errors import ConfigError
from reprogram.mappings.base import RefitSchedule
from reprogram.mappings.semantic import SemanticMapping, semantic_assignment
from reprogram.types import SourceSpec, TaskSpec

open_clip = pytest.importorskip("open_clip")

SOURCE = ("tench", "tabby_cat", "great white shark", "fire engine", "golden retriever", "espresso", "daisy", "ox")
TARGET = ("dog", "kitten", "flower")


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return open_clip.CLIP(**CONFIG)


@pytest.fixture(scope="module")
def clip(model: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    name, weights = save_clip(model, tmp_path_factory.mktemp("clip"))
    return {"name": name, "weights": weights}


@pytest.fixture(scope="module")
def cosines(model: Any) -> dict[tuple[int, int], float]:
    """Of each (target, source) pair of names, in the prompt that is the default."""

    def features(names: tuple[str, ...]) -> torch.Tensor:
        texts = [f"a photo of a {name.replace('_', ' ')}." for name in names]
        with torch.no_grad():
            return model.encode_text(open_clip.tokenize(texts, context_length=16), normalize=True)

    table = features(TARGET) @ features(SOURCE).T
    return {(t, s): float(table[t, s]) for t in range(len(TARGET)) for s in range(len(SOURCE))}


@pytest.mark.parametrize("per_class", [1, 2])
def test_greedy_takes_the_most_similar_pair_that_is_left(
    per_class: int, clip: dict[str, Any], cosines: dict[tuple[int, int], float]
) -> None:
    expected: list[list[int]] = [[] for _ in TARGET]
    left = dict(cosines)
    while left:
        target, source = max(left, key=lambda pair: left[pair])
        expected[target].append(source)
        full = len(expected[target]) == per_class
        left = {(t, s): v for (t, s), v in left.items() if s != source and not (full and t == target)}
    assert semantic_assignment(SOURCE, TARGET, **clip, per_class=per_class) == expected


@pytest.mark.parametrize("per_class", [1, 2])
def test_optimal_has_the_largest_sum_of_similarities(
    per_class: int, clip: dict[str, Any], cosines: dict[tuple[int, int], float]
) -> None:
    def total(lists: list[list[int]]) -> float:
        return sum(cosines[target, source] for target, row in enumerate(lists) for source in row)

    best = max(
        total([list(chosen[t * per_class : (t + 1) * per_class]) for t in range(len(TARGET))])
        for chosen in itertools.permutations(range(len(SOURCE)), len(TARGET) * per_class)
    )
    found = semantic_assignment(SOURCE, TARGET, **clip, per_class=per_class, assign="optimal")
    assert total(found) == pytest.approx(best, abs=1e-5)
    for target, row in enumerate(found):
        assert row == sorted(row, key=lambda source, t=target: -cosines[t, source])


@pytest.mark.parametrize("assign", ["greedy", "optimal"])
def test_identical_names_find_each_other(assign: str, clip: dict[str, Any]) -> None:
    assert semantic_assignment(SOURCE, ("daisy", "ox", "tabby cat"), **clip, assign=assign) == [[6], [7], [1]]


def test_templates_reach_the_text_tower(clip: dict[str, Any]) -> None:
    found = {
        str(semantic_assignment(SOURCE, TARGET, **clip, templates=[template], per_class=2))
        for template in ("a photo of a {}.", "{}", "{} seen through a microscope")
    }
    assert len(found) > 1


def specs(source: tuple[str, ...] = SOURCE, target: tuple[str, ...] = TARGET) -> tuple[SourceSpec, TaskSpec]:
    return SourceSpec("source", (32, 32), source), TaskSpec("task", target, (8, 8))


def test_a_run_needs_the_text_tower_once(clip: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    block = {"_target_": "reprogram.mappings.semantic.SemanticMapping", **clip, "per_class": 2, "given": None}
    filled = SemanticMapping.self_contained(block, *specs())
    assert block["given"] is None  # the user's own block is left alone
    assert filled == {**block, "given": semantic_assignment(SOURCE, TARGET, **clip, per_class=2)}
    json.dumps(filled)  # plain values, as a config holds
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert SemanticMapping.self_contained(filled, *specs()) == filled
    made = SemanticMapping(8, 3, **{key: value for key, value in filled.items() if key != "_target_"})
    log_probs = torch.randn(5, 8).log_softmax(1)
    expected = torch.stack([log_probs[:, row].exp().mean(1) for row in filled["given"]], dim=1)
    torch.testing.assert_close(made(log_probs).exp(), expected)
    assert made.schedule == RefitSchedule("never", at_end=False, fixed=True)


def test_without_an_assignment_nothing_is_guessed() -> None:
    with pytest.raises(ConfigError, match=r"mapping\.given: expected the assignment, which a run finds"):
        SemanticMapping(8, 3)


def test_a_list_that_is_no_assignment_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mapping\.given: expected 2 source classes .* set mapping\.given=null"):
        SemanticMapping(8, 3, per_class=2, given=[[0], [1], [2]])
    with pytest.raises(ConfigError, match=r"mapping\.given: expected 3 lists of equal length"):
        SemanticMapping(8, 3, given=[[0], [1], [8]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_class": 3}, r"mapping\.per_class: 3 target classes x 3 source classes each do not fit into 8"),
        ({"assign": "best"}, r"mapping\.assign: expected greedy or optimal, got 'best'"),
        ({"templates": ["photo"]}, r"mapping\.templates: expected texts with one \{\} each"),
    ],
)
def test_choices_that_cannot_work_are_refused_before_anything_is_loaded(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        semantic_assignment(SOURCE, TARGET, **options)
    with pytest.raises(ConfigError, match=message):
        SemanticMapping(8, 3, given=[[0], [1], [2]], **options)


def test_numbered_classes_have_no_meaning() -> None:
    numbered = tuple(f"class_{index}" for index in range(8))
    with pytest.raises(ConfigError, match=r"the source classes are only numbered \(class_0, \.\.\.\)"):
        semantic_assignment(numbered, TARGET)
    for other in ("LABEL_{}", "a/class_{}"):
        with pytest.raises(ConfigError, match="the source classes are only numbered"):
            semantic_assignment(tuple(other.format(index) for index in range(8)), TARGET)
    with pytest.raises(ConfigError, match="the target classes are only numbered"):
        semantic_assignment(SOURCE, numbered[:3])


def test_the_errors_of_the_text_tower_name_the_mapping(clip: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"mapping\.weights"):
        semantic_assignment(SOURCE, TARGET, clip["name"], "openai")
    with pytest.raises(ConfigError, match=r"mapping\.name"):
        semantic_assignment(SOURCE, TARGET, str(Path(clip["name"]).with_name("none.json")), clip["weights"])
