from types import SimpleNamespace

import pytest
import torch

from reprogram import channel
from reprogram.errors import RunPruned
from reprogram.training.module import ReprogrammingModule
from reprogram.training.reporting import Reporting, reporting


class Told(channel.Channel):
    """Says stop after so many validations."""

    def __init__(self, patience: int) -> None:
        self.heard: list[channel.Curve] = []
        self.patience = patience

    def is_over(self, curve: channel.Curve) -> bool:
        self.heard.append(curve)
        return len(self.heard) == self.patience


def test_each_validation_is_reported_once_and_the_run_ends_when_told():
    module = ReprogrammingModule.__new__(ReprogrammingModule)
    torch.nn.Module.__init__(module)
    told = Told(patience=3)
    callback, trainer = Reporting("val/auroc", told), SimpleNamespace(is_global_zero=True)
    module.history = [{"val/auroc": 0.5}, {"val/auroc": 0.6}]  # the mapping alone, and the first epoch
    callback.on_validation_end(trainer, module)
    module.history.append({"val/auroc": 0.7})
    callback.on_validation_end(trainer, module)
    module.history.append({"val/auroc": 0.6})
    with pytest.raises(RunPruned, match="validation 3"):
        callback.on_validation_end(trainer, module)
    assert told.heard == [[(0, 0.5), (1, 0.6)], [(2, 0.7)], [(3, 0.6)]]


def test_a_run_reports_only_where_a_sweep_has_started_it_and_only_its_first_process(monkeypatch):
    assert reporting("val/auroc") == []
    monkeypatch.setenv(channel.VARIABLE, "3,4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    (callback,) = reporting("val/auroc")
    assert callback.channel is None
    callback.on_validation_end(SimpleNamespace(is_global_zero=False), _with_history())


def _with_history() -> ReprogrammingModule:
    module = ReprogrammingModule.__new__(ReprogrammingModule)
    torch.nn.Module.__init__(module)
    module.history = [{"val/auroc": 0.5}]
    return module
