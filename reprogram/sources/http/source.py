"""A model behind an HTTP API, as a source like all others."""

import hashlib
import math
import os
import re
import ssl
import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import certifi
import torch
from torch import Tensor
from yarl import URL

from reprogram.errors import ConfigError, OracleError, ShapeError, SourceError
from reprogram.sources.encoding import resolution
from reprogram.sources.http.adapter import Adapter, Images, Reply, Request
from reprogram.sources.http.addresses import check_proxy
from reprogram.sources.http.answers import OTHER, Reader, pack
from reprogram.sources.http.client import Client
from reprogram.sources.http.failures import Failure
from reprogram.sources.http.pacing import Pace
from reprogram.sources.remote import Account, RemoteSource
from reprogram.types import SourceSpec

LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN = 1000  # places of a class list that is still to be found out
FEW_NUMBERS = 10_000  # are written sooner than another thread is woken
AT_ONCE = 256  # most images of one question, unless more can be under way, so that their memory has a bound


class HttpSource(RemoteSource):
    """Asks an API for scores; it is trained behind a black box (``recipe=black_box``).

    What an API says about its model at no cost is asked at construction, so a wrong address, key or schema is found
    out before a query is spent; of an API that says nothing, the first image finds it out.

    Args:
        url: ``https://host/...``: the only place that images go to; a query (``?api-version=1``) stays behind the
            adapter's path. No secrets in it.
        adapter: Its schema.
        encoding: How images are sent: ``float``, ``png`` or ``jpeg``; as ``access.encoding``.
        jpeg_quality: 1..100.
        image_size: Canvas (pixels), where the API does not fix it.
        classes: Names of the source classes in order, or a file with one a line; ``None``: numbered, where the API
            returns a vector, else the labels in the answers to the first pass over the training images. Labels that
            are not among them count as ``other``, a class of its own.
        key_env: Name of the environment variable that holds the key; ``None``: no key.
        key_header: Header that carries it as it is; ``None``: as the service has it.
        concurrency: Most requests under way of all processes of a run: what a crash can leave uncertain.
        requests_per_second: Most, of all processes; ``None``: no limit.
        images_per_second: Likewise.
        timeout: Seconds of an attempt, at most half of them to connect.
        attempts: Of one request, >= 1.
        longest_wait: Seconds between two attempts, at most, unless the service asks for more.
        pause_after: Failed attempts in a row after which sending pauses.
        pause: Seconds.
        free_statuses: Statuses of 500 and above that the API does not charge; ``None``: as the service has it. Those
            below are never charged.
        drift_check: Stored answers that a continued run asks for again; 0: none.
        ca_file: Certificates to trust; ``None``: certifi's.
        proxy: Address of one; those of the environment are not used.
        plain_http: Whether images may go unencrypted to another machine.
        processes: That ask together: each gets its share of the rates and of the concurrency.

    Raises:
        ConfigError: If a value is wrong, or the key is not in the environment.
        SourceError: If the API does not answer, or not as the adapter expects.
    """

    def __init__(
        self,
        url: str,
        adapter: Adapter,
        encoding: str = "png",
        jpeg_quality: int = 90,
        image_size: tuple[int, int] = (224, 224),
        classes: Sequence[str] | str | None = None,
        key_env: str | None = None,
        key_header: str | None = None,
        concurrency: int = 8,
        requests_per_second: float | None = None,
        images_per_second: float | None = None,
        timeout: float = 30.0,
        attempts: int = 6,
        longest_wait: float = 60.0,
        pause_after: int = 8,
        pause: float = 30.0,
        free_statuses: Sequence[int] | None = None,
        drift_check: int = 4,
        ca_file: str | None = None,
        proxy: str | None = None,
        plain_http: bool = False,
        processes: int = 1,
    ) -> None:
        super().__init__()
        host = _host(url, plain_http)
        resolution(encoding)
        if not 1 <= jpeg_quality <= 100:
            raise ConfigError(f"source.jpeg_quality: expected a whole number in 1..100, got {jpeg_quality}")
        if key_header is not None and not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", key_header):
            raise ConfigError(f"source.key_header: expected the name of a header, got {key_header!r}")
        check_proxy(proxy)
        if encoding not in adapter.encodings:
            raise ConfigError(
                f"access.encoding: expected {' or '.join(adapter.encodings)}, which {type(adapter).__name__} can send, "
                f"got {encoding}; set access.encoding={adapter.encodings[0]}"
            )
        _expect_numbers(
            {"concurrency": concurrency, "attempts": attempts, "pause_after": pause_after},
            {"requests_per_second": requests_per_second, "images_per_second": images_per_second, "timeout": timeout},
            {"longest_wait": longest_wait, "pause": pause, "drift_check": drift_check},
        )
        if concurrency < processes:
            raise ConfigError(
                f"source.concurrency: expected at least {processes}, one request for each process, got {concurrency}"
            )
        self.encoding, self.jpeg_quality, self.drift_check = encoding, jpeg_quality, drift_check
        self.adapter, self.url, self._concurrency = adapter, url if "?" in url else url.rstrip("/"), concurrency
        key = _key(key_env)
        header, prefix = (key_header, "") if key_header is not None else adapter.key_header
        by_request, by_image = (
            None if rate is None else rate / processes for rate in (requests_per_second, images_per_second)
        )
        self._client = Client(
            self.url,
            headers={} if key is None else {header: prefix + key},
            secret=key,
            concurrency=concurrency // processes,
            pace=Pace(by_request, by_image, pause_after, pause),
            timeout=timeout,
            attempts=attempts,
            longest_wait=longest_wait,
            free=adapter.free_statuses if free_statuses is None else tuple(free_statuses),
            verify=_trusted(ca_file),
            proxy=proxy,
        )
        weakref.finalize(self, self._client.close)
        question = adapter.question()
        self.name = f"{host}-{type(adapter).__name__}"
        try:
            facts = adapter.facts(Reply(b"", {}) if question is None else self._client.ask(question))
        except OracleError as error:
            raise SourceError(f"{self.url}: {error}") from error
        self._client.described = question is not None
        if facts.image_size is not None and tuple(image_size) != facts.image_size:
            raise ConfigError(
                f"source.image_size: {self.url} takes images of {list(facts.image_size)}, got {list(image_size)}"
            )
        self.has_open_classes = classes is None and adapter.says_labels
        height, width = image_size
        names = _names(classes, facts.num_classes, adapter)
        self.spec = SourceSpec(self.name, (height, width), names, None, False, adapter.has_scores)
        self._reader = Reader(self.name, names, adapter.outputs, warn=not self.has_open_classes)
        sent = f"{encoding} {jpeg_quality if encoding == 'jpeg' else ''} {tuple(image_size)}"
        identity = f"{self.url} {type(adapter).__name__} {adapter.identity} {facts.version} {sent}"
        self._fingerprint = hashlib.sha256(identity.encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """SHA-256 over address, schema, model and its version, encoding and canvas; not over the class list."""
        return self._fingerprint

    def at_once(self, graph: bool = False) -> int:
        """See ``SourceModel``: enough to keep all connections busy, whatever that takes."""
        del graph
        under_way = self._concurrency * (self.adapter.most or 1)
        return max(under_way, min(AT_ONCE, max(64, 4 * under_way)))

    def ask(self, images: Tensor, account: Account) -> list[bytes]:
        """See ``RemoteSource``."""
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.spec.image_size):
            expected = ", ".join(map(str, (3, *self.spec.image_size)))
            raise ShapeError(
                f"{self.name}: expected images [B, {expected}], got {list(images.shape)}; place target images on the "
                "canvas first"
            )
        most = self.adapter.most or -(-len(images) // self._concurrency)
        shares = [range(start, min(start + most, len(images))) for start in range(0, len(images), max(1, most))]
        requests = [(partial(self._request, images, rows), rows) for rows in shares]
        try:
            return self._client.send(requests, account, self._answers, self._is_slow_to_make(most)) if requests else []
        except Failure as failure:
            raise OracleError(
                f"{self.url}: {failure}; continue the run with resume=RUN_DIR: nothing paid for is lost"
            ) from failure

    @property
    def labels(self) -> set[str]:
        """See ``RemoteSource``."""
        return self._reader.labels

    def read(self, answers: Sequence[bytes]) -> Tensor:
        """See ``RemoteSource``."""
        return self._reader.log_probs(answers)

    def _is_slow_to_make(self, images: int) -> bool:
        """Whether a request of so many images takes a millisecond: files, or many numbers."""
        return self.encoding != "float" or images * 3 * math.prod(self.spec.image_size) > FEW_NUMBERS

    def _request(self, images: Tensor, rows: range) -> Request:
        part = images[rows.start : rows.stop].detach().to("cpu", torch.float32)
        return self.adapter.request(Images(part, self.encoding, self.jpeg_quality))

    def _answers(self, reply: Reply, rows: Sequence[int]) -> list[bytes]:
        answers = self.adapter.read(reply, len(rows))
        self._reader.check(answers)
        return [pack(answer) for answer in answers]


def _host(url: str, plain_http: bool) -> str:
    """Of an address that images may go to."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        URL(url)
    except ValueError as error:
        raise ConfigError(f"source.url: expected https://host/... ({error})") from error  # it may hold a password
    if parts.username or parts.password:
        raise ConfigError("source.url: expected no name and password in it; set source.key_env")
    if parts.scheme not in ("http", "https") or not host or parts.fragment:
        raise ConfigError(f"source.url: expected https://host/..., got '{url}'")
    if parts.scheme == "http" and host not in LOOPBACK and not plain_http:
        raise ConfigError(
            f"source.url: expected https, got '{url}': images and key would travel unencrypted; if that is safe "
            "between these machines, set source.plain_http=true"
        )
    return host if port is None else f"{host}-{port}"


def _expect_numbers(whole: dict[str, int], rates: dict[str, float | None], least: dict[str, float]) -> None:
    for key, count in whole.items():
        if count < 1:
            raise ConfigError(f"source.{key}: expected a whole number >= 1, got {count}")
    for key, rate in rates.items():
        if rate is not None and not 0 < rate < math.inf:
            raise ConfigError(f"source.{key}: expected a number > 0, got {rate}")
    for key, value in least.items():
        if not 0 <= value < math.inf:
            raise ConfigError(f"source.{key}: expected a number >= 0, got {value}")


def _key(variable: str | None) -> str | None:
    """The secret itself; it leaves this process in a header only."""
    if variable is None:
        return None
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise ConfigError(  # which may be the key itself
            "source.key_env: expected the NAME of the environment variable that holds the key, got something else"
        )
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"source.key_env: the environment variable {variable} is not set; export it with the key")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"source.key_env: {variable} holds characters that no header can carry")
    return key


def _trusted(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=certifi.where() if ca_file is None else ca_file)
    except OSError as error:
        raise ConfigError(f"source.ca_file: expected a file of PEM certificates at {ca_file} ({error})") from error


def _names(classes: Sequence[str] | str | None, number: int | None, adapter: Adapter) -> tuple[str, ...]:
    """Of the source classes."""
    if isinstance(classes, str):
        try:
            classes = [line for line in Path(classes).read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"source.classes: expected a list, or a text file with a name a line ({error})"
            ) from error
    if classes is None:
        if number is None and not adapter.says_labels:
            raise ConfigError("source.classes: the API does not say; give a list, or a file with one name a line")
        classes = tuple(f"class {index}" for index in range(OPEN if number is None else number))
        return (*classes, OTHER) if adapter.says_labels else classes
    if len(set(classes)) != len(classes) or not classes:
        raise ConfigError(f"source.classes: expected distinct names, got {len(classes)}, {len(set(classes))} distinct")
    if number is not None and number != len(classes):
        raise ConfigError(
            f"source.classes: expected {number} names, as many as the API has classes, got {len(classes)}"
        )
    return (*(name for name in classes if name != OTHER), OTHER) if adapter.says_labels else tuple(classes)
