"""Rounds that are training runs of their own: in a white box, where images cost nothing."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from reprogram import artefact, build, launched, preemption
from reprogram.active.learner import Floats, Learner
from reprogram.active.round_files import Round
from reprogram.data.pool import Pool
from reprogram.errors import ConfigError, RunError, RunFinished
from reprogram.evaluation import scoring
from reprogram.records import RunDirectory
from reprogram.runs import train
from reprogram.sources.base import SourceModel


class WholeRuns(Learner):
    """Trains program and mapping anew in every round; each leaves a finished run that all other commands can use.

    Several processes are started by a ``reprogram-train`` of their own, since those that Lightning starts would run
    through the rounds themselves.

    Args:
        cfg: See ``Learner``.
        pool: See ``Learner``.
        warm_start: Whether a round begins with the program and mapping of the one before.
    """

    def __init__(self, cfg: build.Config, pool: Pool, warm_start: bool) -> None:
        super().__init__(cfg, pool)
        self.warm_start = warm_start

    def accessed(self, source: SourceModel) -> SourceModel:
        """See ``Learner``."""
        return build.accessed(self.cfg, source, None)

    def open(self) -> None:
        """There is no account."""

    def learn(self, this: Round, before: Round | None) -> dict[str, Any]:
        """See ``Learner``; test is scored in every round, and decides nothing."""
        start = {"start_from": str(before.run)} if self.warm_start and before is not None else {}
        metrics = self._train(self.run_config(this.run, this.labels_file, **start))
        return {"val": metrics["val"], "test": metrics["test"], "queries": None}

    def score(self, this: Round) -> Floats:
        """See ``Learner``."""
        classifier = artefact.load(this.run, device=str(self.device))
        return scoring.score(
            classifier, self.pool.examples, "train", self.cfg["data"]["batch_size"], self.device
        ).scores

    def finish(self, this: Round) -> Path:
        """The run of the last round is the result."""
        return this.run

    def _train(self, cfg: build.Config) -> dict[str, Any]:
        directory = RunDirectory(Path(cfg["run_dir"]))
        if launched.processes(cfg["trainer"]) == 1:
            try:
                result = train(cfg)
            except RunFinished as finished:
                return dict(finished.metrics)
            if result is None:
                raise ConfigError("trainer: expected one process, or several that reprogram-active starts itself")
            return result.metrics
        if not directory.config_file.is_file():
            directory.claim(cfg)
        command = [sys.executable, "-m", "reprogram.commands.train", f"resume={directory.path}"]
        with subprocess.Popen(command) as process:  # left by an exception, it waits for the run to write its checkpoint
            preemption.pass_on(process.send_signal)
            code = process.wait()
        if code:
            raise RunError(f"{directory.path}: training ended with exit code {code}; the same command goes on")
        return directory.read_metrics()
