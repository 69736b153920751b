"""An attack through HTTP: what the service was asked is what the ledger has, and what the record says."""

from pathlib import Path

import pytest
from http_services import SERVICES
from hydra import compose, initialize_config_dir
from scoring_stub import Says, Sent, serving

from reprogram import runs
from reprogram.attacks.robustness import attack
from reprogram.commands.launch import config_folder
from reprogram.sources.ledger import Ledger

CHOICES = (
    *("recipe=black_box", "data=digits", "access.encoding=png", "access.queries_per_second=1000", "program=frame"),
    *("program.resolution=2", "estimator.smoothing=4", "source.image_size=[6,5]", "program.size=4", "source=http"),
    *("trainer.max_steps=2", "evaluation.baselines=[]", "callbacks.confidence=null", "source.adapter.outputs=logits"),
    *("access.price_per_1000=2", "source.attempts=3", "source.longest_wait=0.01", "data.batch_size=16"),
)
SIZES = ("protocol.max_train=32", "protocol.max_val=16", "protocol.max_test=16")


def test_the_service_and_the_record_count_the_same(small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_KEY", "sk")
    answering, adapter = SERVICES["http"]
    failing = [False]

    def sometimes_failing(sent: Sent, before: int) -> Says:
        return Says("try again", 500) if failing[0] and before % 7 == 3 else answering(sent, before)

    with serving(sometimes_failing) as stub:
        here = (f"source.url={stub.url}", "source.key_env=TOY_KEY", "source.adapter.images_per_request=1")
        chosen = [f"source.adapter.{key}={value}" for key, value in adapter.items()]
        runs.train(small(*CHOICES, *here, *chosen, sizes=SIZES))
        account, failing[0] = Ledger(tmp_path / "run" / "ledger.sqlite", "."), True

        def counts() -> tuple[int, int]:
            return account.total(), sum(bool(sent.content) for sent in stub.got)

        assert counts()[0] == counts()[1] > 0
        for name in ("one_pixel", "square", "zoo"):
            before = counts()[0]
            few = ("max_examples=4", "attack.max_queries=16", "query_budget=100", "num_resamples=20", "batch_size=4")
            with initialize_config_dir(str(config_folder()), version_base="1.3"):
                queries = attack(compose("attack", [f"run={tmp_path / 'run'}", f"attack={name}", *few]))["queries"]
            assert counts()[0] == counts()[1] == before + queries["total"] <= before + 100
            assert queries["retried"] > 0
            assert queries["cost"] == pytest.approx(2 * queries["total"] / 1000)
