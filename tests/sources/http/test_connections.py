"""Connections of all kinds: encrypted, closed by the service, and replies without an end."""

import json
import shutil
import ssl
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import torch
from scoring_stub import Says, Sent, Stub, serving
from torch import Tensor

from reprogram.errors import OracleError
from reprogram.sources.black_box import BlackBox
from reprogram.sources.http import client
from reprogram.sources.http.json_api import JsonApi
from reprogram.sources.http.source import HttpSource
from reprogram.sources.ledger import Ledger

SIZE, CLASSES = (4, 4), ["a", "b"]


def answer(sent: Sent, before: int) -> Says:
    """Scores that tell images apart."""
    del before
    score = (sum(sent.content) % 997) / 1000
    return Says({"scores": {"a": score, "b": 1 - score}})


def boxed(stub: Stub, **choices: object) -> tuple[BlackBox, Ledger]:
    kept = {"image_size": SIZE, "classes": CLASSES, "longest_wait": 0.02, "timeout": 5.0, "concurrency": 4}
    ledger = Ledger(None, "run")
    return BlackBox(HttpSource(stub.url, JsonApi(), **kept | choices), ledger, encoding="png"), ledger  # type: ignore


def images(count: int) -> Tensor:
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(0))


# ------------------------------------------------------------------------------------------------------------------ TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two that sign themselves, each for 127.0.0.1, with their keys beside them."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("makes certificates with openssl")
    folder, found = tmp_path_factory.mktemp("tls"), []
    for name in ("ours", "other"):
        files = ("-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem"))
        kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
        names = ("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1")
        subprocess.run([openssl, "req", "-x509", *kind, *names, *files], check=True, capture_output=True)
        found.append(folder / f"{name}.pem")
    return found


def test_a_certificate_of_ones_own_is_trusted_if_it_is_named(certificates: list[Path]) -> None:
    ours, other = certificates
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(ours, ours.with_suffix(".key"))
    with serving(answer, tls) as stub:
        for trusted in (str(other), None):
            box, ledger = boxed(stub, ca_file=trusted)
            with pytest.raises(OracleError, match=r"no secure connection .*source\.ca_file") as told:
                box(images(8))
            assert str(told.value).count("no secure connection") == 1
            assert ledger.total() == len(stub.got) == 0
        box, ledger = boxed(stub, ca_file=str(ours))
        assert box(images(40)).isfinite().all()
        assert ledger.total() == len(stub.got) == 40
        assert stub.most_under_way > 1


# -------------------------------------------------------------------------------------------------- closed connections


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("every", [1, 3])
def test_all_is_answered_and_paid_once_where_connections_are_closed(every: int, said: bool) -> None:
    def closing(sent: Sent, before: int) -> Says:
        says = answer(sent, before)
        says.after = 0.002 * (before % 4)  # replies overtake one another
        if before % every == 0:
            says.closes = True
            says.headers = {"Connection": "close"} if said else {}
        return says

    with serving(closing) as stub:
        box, ledger = boxed(stub)
        found = box(images(120))
        times_paid = Counter(json.loads(sent.content)["image"] for sent in stub.got)
    assert len(times_paid) == 120
    assert set(times_paid.values()) == {1}
    assert 120 <= ledger.total() == 120 + ledger.uncertain  # sent into a closed connection: not known to be unpaid
    assert ledger.uncertain == 0 or not said
    with serving(answer) as stub:
        assert torch.equal(boxed(stub)[0](images(120)), found)


# ------------------------------------------------------------------------------------------------- replies without end


def test_a_reply_that_drips_is_given_up() -> None:
    def dripping(sent: Sent, before: int) -> Says:
        return Says(b" " * 200, drips=0.02) if before == 1 else answer(sent, before)

    with serving(dripping) as stub:
        box, ledger = boxed(stub, timeout=0.2)
        assert box(images(3)).isfinite().all()
    assert (ledger.total(), ledger.uncertain) == (4, 1)


def test_a_reply_larger_than_any_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LARGEST", 2000)
    with serving(lambda sent, before: Says(b" " * 200_000)) as stub:
        box, ledger = boxed(stub)
        with pytest.raises(OracleError, match=r"expected scores, got more than 2,000 bytes: see to source\.url"):
            box(images(3))
    assert ledger.total() == len(stub.got) == 1
