"""Rounds that cost labels alone: the mapping is fitted to answers that were paid for once."""

import copy
from collections.abc import Sized
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reprogram import build
from reprogram.accounting import NOTHING, Paid, query_plan
from reprogram.active.learner import Floats, Learner
from reprogram.active.plan import Queries
from reprogram.active.round_files import Round
from reprogram.data.base import Examples
from reprogram.data.pool import Pool
from reprogram.errors import ConfigError
from reprogram.evaluation.baselines import Baselines
from reprogram.evaluation.intervals import with_intervals
from reprogram.evaluation.predictions import Predictions
from reprogram.mappings.base import LabelMapping
from reprogram.records import RunDirectory
from reprogram.runs import train
from reprogram.sources.base import SourceModel
from reprogram.sources.ledger import Ledger
from reprogram.sources.remote import RemoteSource


class MappingRounds(Learner):
    """Asks about pool and validation once, before anything is trained; trains the program after the last round.

    All rounds fit the mapping to those answers. Behind a black box they are in the ledger's store, so that the run at
    the end has its first fit and validation, and the losses that its first steps start from, for nothing; test is asked
    for at the end alone.

    Args:
        cfg: See ``Learner``.
        pool: See ``Learner``.
        account: Of all that is asked; ``None`` in a white box.

    Raises:
        ConfigError: If the mapping is never fitted, or nobody has said which classes an API has.
    """

    def __init__(self, cfg: build.Config, pool: Pool, account: Ledger | None) -> None:
        super().__init__(cfg, pool)
        self.account = account
        self._classifier = self.untrained()
        if not self._classifier.mapping.schedule.at_start:
            raise ConfigError(
                "mapping: expected one that is fitted (mapping.refresh not never), since nothing else learns before "
                "the last round"
            )
        inner = getattr(self._classifier.source, "source", None)  # of a black box
        self._remote = isinstance(inner, RemoteSource)
        if isinstance(inner, RemoteSource) and inner.has_open_classes:
            raise ConfigError("source.classes: the API does not say, and rounds cannot wait for it; give a list")
        self._answers: dict[str, Tensor] = {}
        self._fit: tuple[int, LabelMapping] | None = None  # round, and what was fitted to its labels

    def accessed(self, source: SourceModel) -> SourceModel:
        """See ``Learner``."""
        return build.accessed(self.cfg, source, self.account)

    def learn(self, this: Round, before: Round | None) -> dict[str, Any]:
        """See ``Learner``."""
        del before  # the mapping is fitted anew
        val = self.pool.held_out["val"]
        answers = self._asked("val", val, "validation")
        scores = self._fitted(this)(answers).double().softmax(dim=1).numpy()
        predictions = Predictions("val", val.ids, val.targets.numpy(), scores, val.groups, val.attributes)
        resamples = self.cfg["evaluation"]["num_resamples"]
        found = with_intervals(predictions, self.pool.spec.ordinal, resamples, self.cfg["seed"])
        asked = None if self.account is None else sum(self.account.spent().values())
        return {"val": found, "test": None, "queries": asked}

    def open(self) -> None:
        """See ``Learner``; a neighbour in the same account cannot take it then."""
        if self.account is None:
            return
        self.account.begin()
        spent, sizes = self.account.spent(), {"mapping": len(self.pool.examples)}
        sizes["validation"] = len(self.pool.held_out["val"])
        self.account.reserve({purpose: max(0, size - spent[purpose]) for purpose, size in sizes.items()})

    def score(self, this: Round) -> Floats:
        """See ``Learner``."""
        scores: Floats = self._fitted(this)(self._pool_answers()).double().softmax(dim=1).numpy()
        return scores

    def features(self, kind: str) -> Floats:
        """See ``Learner``; log-probabilities are those that were asked for already."""
        return self._pool_answers().double().numpy() if kind == "log_probs" else super().features(kind)

    def queries(self, labels: int) -> Queries | None:
        """See ``Learner``."""
        if self.account is None:
            return None
        size, budget = len(self.pool.examples), self.cfg["access"]["query_budget"]
        primed = self._primed(labels)
        alone = size - primed
        if budget is not None and budget <= alone:
            raise ConfigError(
                f"access.query_budget: expected more than {alone}, what the rest of the pool alone costs, got {budget}"
            )
        access = {**self.cfg["access"], "prime": primed}
        chosen = Baselines.chosen(self.cfg["evaluation"]["baselines"], True)
        evaluation = {**self.cfg["evaluation"], "baselines": chosen}
        splits: dict[str, Sized] = {**self.pool.held_out, "train": range(labels)}
        model = self._classifier
        estimator = build.estimator(self.cfg, model.program)
        cfg = {**self.cfg, "access": access, "evaluation": evaluation}
        paid = Paid({}, alone)
        try:
            plan = query_plan(cfg, splits, estimator.queries_per_example, model.mapping.schedule, self._remote, paid)
        except ConfigError as error:
            if budget is None:
                raise
            raise ConfigError(f"{error}; all without the {alone} queries for the rest of the pool") from error
        assert plan is not None
        return Queries(alone, plan)

    def finish(self, this: Round) -> Path:
        """Trains program and mapping with all labels, on what the budget has left."""
        if RunDirectory(this.run).metrics_file.is_file():  # maybe where the folder lay before
            return this.run
        cfg, paid = self.run_config(this.run, this.labels_file), NOTHING
        if self.account is not None:
            primed = self._primed(len(this.labels() or []))
            cfg["access"] = {**cfg["access"], "prime": primed}
            answers = {"mapping": primed, "validation": len(self.pool.held_out["val"])}
            own = sum(build.ledger(cfg, this.run).spent().values())  # of a run that was cut off
            paid = Paid(answers, max(0, self.account.total() - own - sum(answers.values())))
        train(cfg, just_asked=bool(self._answers), paid=paid)
        return this.run

    def _primed(self, labels: int) -> int:
        """Labelled images that the run at the end fits its mapping on first."""
        return min(self.cfg["access"]["prime"] or labels, labels)

    def _fitted(self, this: Round) -> LabelMapping:
        """The mapping, fitted once a round: cross-validation takes long."""
        if self._fit is None or self._fit[0] != this.number:
            self._fit = this.number, self._fit_to(this)
        return self._fit[1]

    @torch.no_grad()
    def _fit_to(self, this: Round) -> LabelMapping:
        labels = this.labels()
        assert labels is not None
        row_of = {name: row for row, name in enumerate(self.pool.examples.ids)}
        class_of = {name: index for index, name in enumerate(self.pool.spec.class_names)}
        rows = torch.tensor([row_of[label.id] for label in labels])
        targets = torch.tensor([class_of[label.label] for label in labels])
        trust = torch.tensor([label.trust for label in labels])
        mapping = copy.deepcopy(self._classifier.mapping).cpu()
        mapping.observe(self._pool_answers()[rows], targets, trust if bool((trust < 1).any()) else None)
        mapping.refit()
        return mapping.requires_grad_(False)

    def _pool_answers(self) -> Tensor:
        return self._asked("pool", self.pool.examples, "mapping")

    def _asked(self, name: str, examples: Examples, purpose: str) -> Tensor:
        if name not in self._answers:
            self._answers[name] = self.ask(examples, self._classifier, self._classifier.source, purpose)
        return self._answers[name]
