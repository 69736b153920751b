"""A source that answers, counts, and shows nothing else."""

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from reprogram.errors import ConfigError, OracleError, QueryBudgetExceeded, ReprogramError, ShapeError
from reprogram.sources.base import SourceModel
from reprogram.sources.encoding import encode, resolution
from reprogram.sources.ledger import Ledger
from reprogram.sources.remote import RemoteSource
from reprogram.sources.reported import as_reported

log = logging.getLogger(__name__)

STORES = ("auto", "on", "off")

DRIFT = 0.01  # of a probability: more than rounding and another batch do


class BlackBox(SourceModel):
    """Hides a source behind its scores: no gradient, no features, and every image that is sent is in the ledger.

    The way of an image: encoded, looked up in the store, counted, sent; the answer is checked, stored as it came, and
    handed on as far as the API would report it. An image that was asked before is not paid for again.

    Args:
        source: Any source, local or remote; it is frozen.
        ledger: Counts and stores; 1 image = 1 query.
        top_k: How many of the best classes are reported, 1..K_s; ``None``: all.
        decimals: Decimals of a reported probability, 1..15; ``None``: not rounded.
        encoding: How images are sent: ``float``, ``png`` or ``jpeg``.
        jpeg_quality: 1..100, for ``jpeg``.
        store: Whether answers are kept and used again: ``on``, ``off``, or ``auto``: on where queries are priced or
            the source is elsewhere, else for all purposes but training, whose images hardly ever come back.
        micro_batch: Most images sent at once, >= 1: what a crash can leave uncertain. A remote source has limits of
            its own.
        priced: Whether a query costs money.

    Raises:
        ConfigError: If a value is out of range, or a remote source sends images in another encoding.
    """

    def __init__(
        self,
        source: SourceModel,
        ledger: Ledger,
        top_k: int | None = None,
        decimals: int | None = None,
        encoding: str = "float",
        jpeg_quality: int = 90,
        store: str = "auto",
        micro_batch: int = 64,
        priced: bool = False,
    ) -> None:
        super().__init__()
        if store not in STORES:
            raise ConfigError(f"access.store: expected one of {', '.join(STORES)}, got '{store}'")
        if not 1 <= jpeg_quality <= 100:
            raise ConfigError(f"access.jpeg_quality: expected a whole number in 1..100, got {jpeg_quality}")
        if micro_batch < 1:
            raise ConfigError(f"access.micro_batch: expected a whole number >= 1, got {micro_batch}")
        resolution(encoding)
        as_reported(torch.zeros(0, source.spec.num_classes), top_k, decimals)
        if isinstance(source, RemoteSource) and encoding != source.encoding:
            raise ConfigError(f"source.encoding: expected access.encoding={encoding}, got {source.encoding}")
        if isinstance(source, RemoteSource) and encoding == "jpeg" and jpeg_quality != source.jpeg_quality:
            raise ConfigError(
                f"source.jpeg_quality: expected access.jpeg_quality={jpeg_quality}, got {source.jpeg_quality}"
            )
        self.spec = dataclasses.replace(source.spec, differentiable=False, feature_dim=None)
        self.source = source.requires_grad_(False)
        self.preparation = getattr(source, "preparation", None)
        self.ledger = ledger
        self.top_k, self.decimals = top_k, decimals
        self.encoding, self.jpeg_quality = encoding, jpeg_quality
        self.store, self.micro_batch, self.priced = store, micro_batch, priced
        self._drift = 0  # images still to be asked again
        if isinstance(source, RemoteSource) and ledger.has_answers():
            self._drift = source.drift_check
        self._asked = set[bytes]()  # keys whose answers are as of now

    @property
    def fingerprint(self) -> str:
        """That of the source within."""
        return self.source.fingerprint

    def asked_for(self, purpose: str) -> AbstractContextManager[None]:
        """Books the images sent within the block under a purpose of the ledger."""
        return self.ledger.purpose(purpose)

    def queries(self) -> dict[str, int]:
        """From the ledger, of all processes."""
        return self.ledger.spent()

    @property
    def uncertain(self) -> int:
        """From the ledger."""
        return self.ledger.uncertain

    @property
    def retried(self) -> int:
        """From the ledger."""
        return self.ledger.retried

    @property
    def stores_training(self) -> bool:
        """Whether answers to training steps are kept, so that a run that was cut off repeats them at no cost."""
        return self.store == "on" or (self.store == "auto" and (self.priced or isinstance(self.source, RemoteSource)))

    def at_once(self, graph: bool = False) -> int:
        """That of the source; there is no graph."""
        del graph
        return self.source.at_once()

    def forward(self, images: Tensor) -> Tensor:
        """Asks for the scores of images, of a local source in micro-batches; the answer has no graph.

        Raises:
            ShapeError: If these are no images of the canvas in [0, 1]; nothing is sent then.
            QueryBudgetExceeded: If the budget does not allow the next micro-batch; it is not sent.
            OracleError: If the source fails or its answer cannot be used.
        """
        self._check(images)
        if not len(images):
            return images.new_zeros(0, self.spec.num_classes)
        dtype = torch.promote_types(images.dtype, torch.float32)
        with torch.inference_mode():
            images = images.detach()
            if isinstance(self.source, RemoteSource):  # which makes JPEG files of 8-bit images itself
                answers = self._ask(encode(images, "float" if self.encoding == "float" else "png"))
            else:
                parts = torch.split(images, self.micro_batch)
                answers = torch.cat([self._ask(encode(part, self.encoding, self.jpeg_quality)) for part in parts])
            log_probs = as_reported(answers, self.top_k, self.decimals).to(images.device, dtype)
        log_probs = log_probs.clone()  # an ordinary tensor: those of inference mode cannot be used in a graph
        assert not log_probs.requires_grad
        return log_probs

    def _check(self, images: Tensor) -> None:
        """Refuses what would be paid for in vain."""
        expected = (3, *self.spec.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ShapeError(
                f"{self.spec.name}: expected images [B, {', '.join(map(str, expected))}], got {list(images.shape)}; "
                "place target images on the canvas first"
            )
        if not images.numel():
            return
        low, high = images.aminmax()  # NaN if there is one
        if not (low >= 0 and high <= 1):
            raise ShapeError(
                f"{self.spec.name}: expected pixels in [0, 1], got some outside or NaN; nothing was sent - "
                "if the program diverged, lower optimizer.lr"
            )

    def _ask(self, images: Tensor) -> Tensor:
        """Answers [B, K_s] float32 to encoded images, from the store as far as it is used and has them."""
        if self.store == "off" or not (self.stores_training or self.ledger.current_purpose != "train"):
            return self._send(images, ())
        keys = self._keys(images)
        stored = self.ledger.look_up(keys)
        answers = self._read(list(stored.values()))
        if self._drift and (old := stored.keys() - self._asked):
            known = dict(zip(stored, answers, strict=True))
            self._check_drift({key: image for key, image in zip(keys, images, strict=True) if key in old}, known)
        rows = {key: row for row, key in enumerate(keys) if key not in stored}  # equal images are asked once
        if rows:
            answers = torch.cat([answers, self._send(images[list(rows.values())], list(rows)).cpu()])
            self._asked.update(rows if self._drift else ())
        places = {key: place for place, key in enumerate((*stored, *rows))}
        return answers[[places[key] for key in keys]]

    def _read(self, answers: Sequence[bytes]) -> Tensor:
        """Stored answers as log-probabilities [B, K_s] float32."""
        if isinstance(self.source, RemoteSource):
            return self.source.read(answers)
        numbers = np.frombuffer(bytearray(b"".join(answers)), np.float32)
        return torch.from_numpy(numbers).view(len(answers), self.spec.num_classes)

    def _send(self, images: Tensor, keys: Sequence[bytes]) -> Tensor:
        """Counts, sends, checks; stores every usable answer under its key, if there are keys."""
        if isinstance(self.source, RemoteSource):
            return self.source.read(self.source.ask(images.cpu(), _Bookings(self.ledger, keys)))
        expected = [len(images), self.spec.num_classes]
        usable: dict[bytes, bytes] = {}
        self.ledger.spend(len(images))
        try:
            answer: Tensor = self.source(images)
            got = list(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            if got != expected:
                raise self._unusable(f"expected {expected[1]} log-probabilities per image, {expected}, got {got}")
            answer = answer.float()
            finite = answer.isfinite().all(dim=1)
            rows = zip(keys, answer.cpu().numpy(), finite.tolist(), strict=False)
            usable = {key: row.tobytes() for key, row, good in rows if good}
            if not finite.all():
                what = "NaN" if answer.isnan().any() else "infinity"
                bad = f"{int((~finite).sum())} of {len(images)} images"
                raise self._unusable(f"expected finite log-probabilities, got {what} in the scores of {bad}")
        except Exception as error:
            self.ledger.keep(usable, settled=0)  # a run that is continued asks for the others again
            if isinstance(error, ReprogramError):
                raise
            raise self._unusable(f"the source failed ({type(error).__name__}: {error})") from error
        self.ledger.keep(usable)
        return answer

    def _check_drift(self, images: dict[bytes, Tensor], stored: dict[bytes, Tensor]) -> None:
        """Asks once for some answers again that an earlier process stored, and warns if they have changed."""
        assert isinstance(self.source, RemoteSource)
        keys, self._drift = list(images)[: self._drift], 0
        asked = torch.stack([images[key] for key in keys])
        try:
            with self.asked_for("other"):
                now = self.source.read(self.source.ask(asked.cpu(), _Bookings(self.ledger, ())))
        except (OracleError, QueryBudgetExceeded) as error:  # what is stored can be used all the same
            log.warning("%s: whether stored answers still hold was not checked: %s", self.spec.name, error)
            return
        change = (now.exp() - torch.stack([stored[key] for key in keys]).exp()).abs().max().item()
        if change > DRIFT:
            log.warning(
                "%s: of %d stored answers asked for again a probability has changed by %.3f: the model may have been "
                "replaced; access.store=off asks anew",
                *(self.spec.name, len(asked), change),
            )

    def _keys(self, images: Tensor) -> list[bytes]:
        prefix = hashlib.sha256(f"{self.fingerprint} {self.encoding} ".encode())
        keys = []
        for image in images.cpu().contiguous().numpy():
            digest = prefix.copy()
            digest.update(image)
            keys.append(digest.digest())
        return keys

    def _unusable(self, what: str) -> OracleError:
        return OracleError(
            f"{self.spec.name}: {what}; see to the source and continue the run with resume=RUN_DIR: nothing paid for "
            "is lost, what was sent is counted and what was stored is not asked again"
        )


class _Bookings:
    """The account of one question to a remote source: see ``Account``.

    All of it goes under the purpose of now: an answer may come when the run, cut short, asks for something else.
    """

    def __init__(self, ledger: Ledger, keys: Sequence[bytes]) -> None:
        self._ledger, self._keys, self._purpose = ledger, keys, ledger.current_purpose
        self._covered = 0  # images under way that the run's reservation covered

    def sent(self, images: int) -> None:
        self._covered += self._ledger.spend(images, self._purpose)

    def answered(self, rows: Sequence[int], answers: Sequence[bytes]) -> None:
        self._covered = max(0, self._covered - len(rows))
        kept = {self._keys[row]: answer for row, answer in zip(rows, answers, strict=True)} if self._keys else {}
        self._ledger.keep(kept, settled=len(rows))

    def failed(self, images: int, charged: bool | None) -> None:
        covered = min(images, self._covered)
        self._covered -= covered
        self._ledger.fail(images, charged, covered, self._purpose)
