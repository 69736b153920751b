"""APIs described in YAML: where images go, and where answers are found."""

import base64
import json
from typing import Any

import pytest
import torch

from reprogram.errors import ConfigError
from reprogram.sources.http.adapter import Images, Reply, UnusableReply
from reprogram.sources.http.json_api import JsonApi

IMAGES = Images(torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(0)), "png")
ONE = Images(IMAGES.tensor[:1], "jpeg")


def texts(images: Images) -> list[str]:
    return [base64.b64encode(file).decode() for file in images.files]


def sent(images: Images = ONE, **choices: Any) -> Any:
    request = JsonApi(**choices).request(images)
    assert (request.method, request.path, request.headers) == ("POST", "", {"Content-Type": "application/json"})
    return json.loads(request.content)


def read(said: Any, count: int = 1, **choices: Any) -> Any:
    return JsonApi(**choices).read(Reply(json.dumps(said).encode(), {}), count)


# ------------------------------------------------------------------------------------------------------------ bodies


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("image", None, {"image": "IMAGE"}),
        ("image", {"image": "here", "model": "m"}, {"image": "IMAGE", "model": "m"}),
        ("a.b", {"a": {"c": 1}}, {"a": {"b": "IMAGE", "c": 1}}),
        ("instances.0.content", None, {"instances": [{"content": "IMAGE"}]}),
        (
            "requests.0.image.content",
            {"requests": [{"features": [{"type": "LABEL_DETECTION"}]}]},
            {"requests": [{"features": [{"type": "LABEL_DETECTION"}], "image": {"content": "IMAGE"}}]},
        ),
        ("parts.1", {"parts": ["text"]}, {"parts": ["text", "IMAGE"]}),
        ("parts.0", {"parts": ["text", "more"]}, {"parts": ["IMAGE", "more"]}),
        ("", None, "IMAGE"),
    ],
)
def test_an_image_goes_where_the_path_says(path: str, body: Any, expected: Any) -> None:
    before = json.dumps(body)
    found = sent(images_at=path, body=body)
    assert found == json.loads(json.dumps(expected).replace("IMAGE", texts(ONE)[0]))
    assert json.dumps(body) == before  # the next request starts from the same


def test_several_images_are_a_list_and_one_is_one_too() -> None:
    assert sent(IMAGES, images_at="images", batched=True) == {"images": texts(IMAGES)}
    assert sent(ONE, images_at="images", batched=True) == {"images": texts(ONE)}
    assert sent(IMAGES, images_at="", batched=True) == texts(IMAGES)


def test_a_data_uri_names_the_type() -> None:
    assert sent(data_uri=True) == {"image": f"data:image/jpeg;base64,{texts(ONE)[0]}"}


def test_the_file_itself_can_be_the_body() -> None:
    request = JsonApi(raw=True).request(ONE)
    assert (request.content, request.headers) == (ONE.files[0], {"Content-Type": "image/jpeg"})


# ----------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("choices", "said", "expected"),
    [
        ({}, {"scores": {"cat": 0.75, "dog": 0.25}}, {"cat": 0.75, "dog": 0.25}),
        ({"scores_at": ""}, {"cat": 0.75, "dog": 0.25}, {"cat": 0.75, "dog": 0.25}),
        ({"answers_at": "data.0"}, {"data": [{"scores": {"cat": 1}}, 3]}, {"cat": 1.0}),
        ({"percent": True}, {"scores": {"cat": 75, "dog": 12.5}}, {"cat": 0.75, "dog": 0.125}),
        ({"items_at": ""}, [{"label": "cat", "score": 0.9}, {"label": "dog", "score": 0.8}], {"cat": 0.9, "dog": 0.8}),
        ({"items_at": ""}, {"label": "cat", "score": 0.9}, {"cat": 0.9}),
        (
            {"items_at": "tags", "label_at": "tag.en", "score_at": "confidence", "percent": True},
            {"tags": [{"confidence": 50, "tag": {"en": "cat"}}]},
            {"cat": 0.5},
        ),
        ({"items_at": "p", "label_at": "0", "score_at": "1"}, {"p": [["cat", 0.5], ["dog", 0.25]]}, None),
        ({"labels_at": "labels"}, {"labels": ["cat", "dog"], "scores": [0.5, 0.25]}, None),
        ({"labels_at": "best.name", "scores_at": "p"}, {"best": {"name": "cat"}, "p": 0.5}, {"cat": 0.5}),
        ({"items_at": "", "score_at": None}, [{"label": "cat"}], {"cat": 1.0}),
        ({"items_at": "", "score_at": None, "label_at": ""}, "cat", {"cat": 1.0}),
        ({"labels_at": "class", "scores_at": None}, {"class": 281}, {"281": 1.0}),
        ({"labels_at": "class", "scores_at": None, "percent": True}, {"class": ["a", "b"]}, {"a": 1.0, "b": 1.0}),
    ],
)
def test_labels_are_found(choices: dict[str, Any], said: Any, expected: Any) -> None:
    assert read(said, **choices) == [{"cat": 0.5, "dog": 0.25} if expected is None else expected]


@pytest.mark.parametrize(
    ("choices", "said", "expected"),
    [
        ({"outputs": "logits"}, {"scores": [1, -2.5, 0]}, [1.0, -2.5, 0.0]),
        ({"outputs": "probabilities", "scores_at": "", "percent": True}, [25, 75], [0.25, 0.75]),
        ({"outputs": "log_probabilities", "scores_at": "a.1"}, {"a": [0, [-1, -2]]}, [-1.0, -2.0]),
    ],
)
def test_scores_without_labels_are_a_vector(choices: dict[str, Any], said: Any, expected: list[float]) -> None:
    (found,) = read(said, **choices)
    assert found.dtype == torch.float32
    assert found.tolist() == expected
    assert not JsonApi(**choices).says_labels


def test_answers_to_several_images_keep_their_order() -> None:
    said = {"results": [{"scores": {"cat": 1.0}}, {"scores": {"dog": 1.0}}]}
    assert read(said, 2, batched=True, answers_at="results") == [{"cat": 1.0}, {"dog": 1.0}]
    vectors = read([[0.5, 0.5], [1, 0]], 2, batched=True, scores_at="", outputs="probabilities")
    assert torch.equal(torch.stack(vectors), torch.tensor([[0.5, 0.5], [1.0, 0.0]]))


@pytest.mark.parametrize(
    ("choices", "said", "message"),
    [
        ({}, {"error": "no credit"}, r"expected source\.adapter\.scores_at \('scores'\), got .*no credit"),
        ({}, {"scores": [0.5]}, r"expected scores by label at source\.adapter\.scores_at, got \[0.5\]"),
        ({}, {"scores": {}}, r"at least one label"),
        ({}, {"scores": {"cat": 75}}, r"score in \[0, 1\]"),
        ({"answers_at": "a.3.b"}, {"a": [1]}, r"expected source\.adapter\.answers_at \('a\.3\.b'\), got"),
        ({"answers_at": "a.b"}, {"a": [1]}, r"answers_at \('a\.b'\)"),
        ({"answers_at": "a.b"}, {"a": None}, r"answers_at \('a\.b'\)"),
        ({"answers_at": "a.b"}, {"a": "text"}, r"answers_at \('a\.b'\)"),
        ({"items_at": "p"}, {"p": []}, r"at least one label"),
        ({"items_at": "p"}, {"p": [{"label": "a"}]}, r"score_at \('score'\)"),
        ({"items_at": "p"}, {"p": [{"score": 0.5}]}, r"label_at \('label'\)"),
        ({"items_at": "p"}, {"p": [{"label": "a", "score": 0.5}] * 2}, r"every label once"),
        ({"labels_at": "l"}, {"l": ["a", "b"], "scores": [0.5]}, r"got 2 labels and 1 scores"),
        ({"outputs": "logits"}, {"scores": {"a": 1.0}}, r"list of numbers at source\.adapter\.scores_at"),
        ({"outputs": "logits"}, {"scores": []}, r"expected a list of numbers"),
        ({"outputs": "logits"}, {"scores": [0.5, None]}, r"expected a list of numbers"),
        ({"outputs": "logits"}, {"scores": [[0.5], [0.5]]}, r"expected one list of numbers"),
    ],
)
def test_other_replies_are_refused(choices: dict[str, Any], said: Any, message: str) -> None:
    with pytest.raises(UnusableReply, match=message):
        read(said, **choices)


@pytest.mark.parametrize(("said", "got"), [([{}], r"got 1"), ([{}] * 3, r"got 3"), ({"scores": {}}, r"got \{")])
def test_a_wrong_number_of_answers_is_refused(said: Any, got: str) -> None:
    with pytest.raises(UnusableReply, match=r"expected a list of 2 answers at source\.adapter\.answers_at, " + got):
        read(said, 2, batched=True)


# ----------------------------------------------------------------------------------------------------------- choices


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"outputs": "scores"}, r"outputs: expected one of logits, .*, or null, got 'scores'"),
        ({"outputs": "logits", "items_at": ""}, r"outputs: expected null beside items_at and labels_at, got 'logits'"),
        ({"outputs": "logits", "percent": True}, r"percent: expected false for logits, got true"),
        ({"items_at": "", "labels_at": "l"}, r"labels_at: expected null beside items_at, got 'l'"),
        ({"scores_at": None}, r"scores_at: expected a path unless items_at or labels_at is one, got null"),
        ({"raw": True, "batched": True}, r"raw: expected false beside batched and body, got true"),
        ({"raw": True, "body": {"a": 1}}, r"raw: expected false beside"),
        ({"images_at": "", "body": {"a": 1}}, r"images_at: expected a path into source\.adapter\.body"),
        ({"images_at": "a.b", "body": {"a": 1}}, r"images_at: expected a path into .* got no place for 'b'"),
        ({"images_at": "a.2", "body": {"a": [1]}}, r"images_at: .* got no place for '2'"),
        ({"images_at": "a.b", "body": {"a": [1]}}, r"images_at: .* got no place for 'b'"),
        ({"batched": True, "images_per_request": 0}, r"images_per_request: expected a whole number >= 1"),
    ],
)
def test_wrong_choices_are_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=r"source\.adapter\." + message):
        JsonApi(**choices)


def test_the_interface_knows_what_it_is() -> None:
    made = JsonApi()
    assert (made.most, made.says_labels, made.has_scores, made.outputs) == (1, True, True, "probabilities")
    assert JsonApi(batched=True, images_per_request=5).most == 5
    assert JsonApi(batched=True, images_per_request=None).most is None
    assert not JsonApi(items_at="", score_at=None).has_scores
    assert JsonApi(items_at="", scores_at=None).has_scores
    assert not JsonApi(labels_at="", scores_at=None).has_scores
    assert JsonApi(outputs="logits").outputs == "logits"


def test_what_changes_answers_changes_the_identity() -> None:
    choices: list[dict[str, Any]] = [
        *(
            {},
            {"body": {"model": "b"}},
            {"body": {"model": "c"}},
            {"images_at": "a"},
            {"answers_at": "a"},
            {"raw": True},
        ),
        *({"items_at": "a"}, {"labels_at": "a"}, {"scores_at": "a"}, {"percent": True}, {"outputs": "probabilities"}),
        *({"data_uri": True}, {"label_at": "a"}, {"score_at": "a"}, {"batched": True}),
    ]
    assert len({JsonApi(**one).identity for one in choices}) == len(choices)
    assert JsonApi(images_per_request=3).identity == JsonApi().identity
    assert JsonApi(body={"a": 1, "b": 2}).identity == JsonApi(body={"b": 2, "a": 1}).identity
