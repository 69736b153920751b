"""Any API of JSON, described in YAML: where the images go, and where labels and scores are."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from reprogram.errors import ConfigError
from reprogram.sources.http.adapter import Adapter, Answer, Images, Reply, Request, UnusableReply
from reprogram.sources.http.scores import labelled, shown, vector
from reprogram.sources.onnx import OUTPUTS


class JsonApi(Adapter):
    """Puts images into a JSON body and finds the answers in the reply by paths.

    A path is made of keys and of positions in lists, joined by dots: ``results.0.label``; an empty one is the place
    itself. An answer is one of these, the first that is set:

    - ``items_at``: a list of objects, or one, each with its label at ``label_at`` and its score at ``score_at``;
    - ``labels_at``: a list of labels, or one, with a list of their scores, or one, at ``scores_at``;
    - ``scores_at``: an object of scores by label; with ``outputs``, a list of the scores of all classes.

    Args:
        images_at: Path in the body where the image goes as base64, or the list of images; what it needs is made.
        body: The rest of the body.
        batched: Whether a request has a list of images and its reply a list of answers in the same order.
        images_per_request: Most images of one request if batched, >= 1; ``None``: any number.
        data_uri: Whether ``data:image/png;base64,`` stands before the base64.
        raw: Whether the file itself is the body, without JSON.
        answers_at: Path in the reply of the answer, or of the list of answers.
        items_at: Path in the answer; ``None``: see above.
        label_at: Path in an item.
        score_at: Path in an item; ``None``: there are labels without scores.
        labels_at: Path in the answer; ``None``: see above.
        scores_at: Path in the answer; ``None``, beside ``labels_at``: there are labels without scores.
        percent: Whether scores are percentages.
        outputs: What scores without labels are: ``logits``, ``probabilities`` or ``log_probabilities``; ``None``: there
            are labels.

    Raises:
        ConfigError: If a value is none of those above, or two contradict each other.
    """

    def __init__(
        self,
        images_at: str = "image",
        body: Mapping[str, Any] | None = None,
        batched: bool = False,
        images_per_request: int | None = 8,
        data_uri: bool = False,
        raw: bool = False,
        answers_at: str = "",
        items_at: str | None = None,
        label_at: str = "label",
        score_at: str | None = "score",
        labels_at: str | None = None,
        scores_at: str | None = "scores",
        percent: bool = False,
        outputs: str | None = None,
    ) -> None:
        if outputs is not None and outputs not in OUTPUTS:
            raise ConfigError(f"source.adapter.outputs: expected one of {', '.join(OUTPUTS)}, or null, got '{outputs}'")
        if outputs is not None and (items_at is not None or labels_at is not None):
            raise ConfigError(f"source.adapter.outputs: expected null beside items_at and labels_at, got '{outputs}'")
        if percent and outputs not in (None, "probabilities"):
            raise ConfigError(f"source.adapter.percent: expected false for {outputs}, got true")
        if items_at is not None and labels_at is not None:
            raise ConfigError(f"source.adapter.labels_at: expected null beside items_at, got '{labels_at}'")
        if items_at is None and labels_at is None and scores_at is None:
            raise ConfigError("source.adapter.scores_at: expected a path unless items_at or labels_at is one, got null")
        if raw and (batched or body):
            raise ConfigError("source.adapter.raw: expected false beside batched and body, got true")
        if body and not images_at:
            raise ConfigError("source.adapter.images_at: expected a path into source.adapter.body, got an empty one")
        if images_per_request is not None and images_per_request < 1:
            raise ConfigError(
                f"source.adapter.images_per_request: expected a whole number >= 1, or null, got {images_per_request}"
            )
        self.images_at, self.body, self.data_uri, self.raw = images_at, dict(body or {}), data_uri, raw
        self.batched, self.answers_at = batched, answers_at
        self.items_at, self.label_at, self.score_at = items_at, label_at, score_at
        self.labels_at, self.scores_at = labels_at, scores_at
        self.certain = 100.0 if percent else 1.0
        self.most = images_per_request if batched else 1
        self.outputs, self.says_labels = outputs or "probabilities", outputs is None
        self.has_scores = (scores_at if items_at is None else score_at) is not None
        _put(self.body, _steps(images_at), "")  # a path that does not fit the body is noticed now

    @property
    def identity(self) -> str:
        """The body, and where what is in it and in the reply."""
        asked = (self.images_at, json.dumps(self.body, sort_keys=True), self.batched, self.data_uri, self.raw)
        items, lists = (self.items_at, self.label_at, self.score_at), (self.labels_at, self.scores_at)
        scores = (self.certain, self.outputs, self.says_labels)
        return repr(("json_api", *asked, self.answers_at, *items, *lists, *scores))

    def request(self, images: Images) -> Request:
        """Posts images."""
        if self.raw:
            (file,) = images.files
            return Request("", file, {"Content-Type": images.media_type})
        before = f"data:{images.media_type};base64," if self.data_uri else ""
        texts = [before + base64.b64encode(file).decode() for file in images.files]
        body = _put(self.body, _steps(self.images_at), texts if self.batched else texts[0])
        return Request("", json.dumps(body).encode(), {"Content-Type": "application/json"})

    def read(self, reply: Reply, count: int) -> list[Answer]:
        """Labels with scores, or vectors of scores.

        Raises:
            UnusableReply: If something is not where a path says, or is something else.
        """
        found = _at(reply.json(), self.answers_at, "answers_at")
        if not self.batched:
            return [self._answer(found)]
        if not isinstance(found, list) or len(found) != count:
            got = f"{len(found)}" if isinstance(found, list) else shown(found)
            raise UnusableReply(f"expected a list of {count} answers at source.adapter.answers_at, got {got}")
        return [self._answer(answer) for answer in found]

    def _answer(self, answer: Any) -> Answer:
        if self.items_at is not None:
            items = _several(_at(answer, self.items_at, "items_at"))
            labels = [_at(item, self.label_at, "label_at") for item in items]
            if self.score_at is None:
                return labelled(labels, [1.0] * len(labels))
            return labelled(labels, [_at(item, self.score_at, "score_at") for item in items], self.certain)
        scores = None if self.scores_at is None else _at(answer, self.scores_at, "scores_at")
        if self.labels_at is not None:
            labels = _several(_at(answer, self.labels_at, "labels_at"))
            if self.scores_at is None:
                return labelled(labels, [1.0] * len(labels))
            return labelled(labels, _several(scores), self.certain)
        if self.says_labels:
            if not isinstance(scores, dict):
                raise UnusableReply(f"expected scores by label at source.adapter.scores_at, got {shown(scores)}")
            return labelled(list(scores), list(scores.values()), self.certain)
        numbers = vector(scores, "source.adapter.scores_at")
        if numbers.ndim != 1:
            raise UnusableReply(f"expected one list of numbers at source.adapter.scores_at, got {shown(scores)}")
        return (numbers / self.certain).float()


def _steps(path: str) -> list[str]:
    return path.split(".") if path else []


def _several(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [found]


def _at(found: Any, path: str, key: str) -> Any:
    """What is at a path; ``key`` is the argument that gives it.

    Raises:
        UnusableReply: If there is nothing.
    """
    here = found
    for step in _steps(path):
        try:
            here = here[int(step)] if isinstance(here, list) else here[step]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UnusableReply(f"expected source.adapter.{key} ('{path}'), got {shown(found)}") from error
    return here


def _put(place: Any, path: Sequence[str], value: Any) -> Any:
    """A copy with a value at a path.

    Raises:
        ConfigError: If the path leads through something that is neither an object nor a list of that length.
    """
    if not path:
        return value
    step, *rest = path
    if place is None or place == {}:
        place = [] if step.isdecimal() else {}
    if isinstance(place, Mapping):
        return {**place, step: _put(place.get(step), rest, value)}
    if isinstance(place, list) and step.isdecimal() and int(step) <= len(place):
        index = int(step)
        inner = place[index] if index < len(place) else None
        return [*place[:index], _put(inner, rest, value), *place[index + 1 :]]
    raise ConfigError(f"source.adapter.images_at: expected a path into source.adapter.body, got no place for '{step}'")
