"""What an attack may ask, and what it has asked."""

import logging
from pathlib import Path
from typing import Any

from reprogram.classifier import ReprogrammedClassifier
from reprogram.errors import QueryBudgetExceeded
from reprogram.sources.black_box import BlackBox
from reprogram.sources.ledger import ledger_of
from reprogram.training.query_plan import cost

log = logging.getLogger(__name__)

PURPOSE = "attack"
CHECK = "other"  # of a remote source: whether its stored answers still hold


def counted(classifier: ReprogrammedClassifier, output: Path) -> BlackBox:
    """The classifier's source as a black box: its own, or one with an account in the attack's folder."""
    if not isinstance(classifier.source, BlackBox):
        classifier.source = BlackBox(classifier.source, ledger_of(output, None), store="off")
    return classifier.source


class Account:
    """The queries of one attack, in the ledger of a black box.

    Args:
        box: The source that is asked.
        budget: Most queries of this attack; ``None``: no bound.
        price_per_1000: What 1000 queries cost; ``None``: nothing.
    """

    def __init__(self, box: BlackBox, budget: int | None, price_per_1000: float | None) -> None:
        self.box, self.budget, self.price = box, budget, price_per_1000
        self._before = self._spent()
        self._uncertain, self._retried = box.uncertain, box.retried

    def open(self, images: int, max_queries: int) -> None:
        """Says what the attack asks at most, before anything is sent.

        Raises:
            QueryBudgetExceeded: If the budget does not allow that.
        """
        most = images * (1 + max_queries)
        price = cost(most, self.price)
        log.info(
            "plan     at most %s queries: %s images, one look and up to %s queries each%s",
            *(f"{most:,}", f"{images:,}", f"{max_queries:,}", "" if price is None else f"; cost {price:,.2f}"),
        )
        if self.budget is None:
            return
        if most > self.budget:
            raise QueryBudgetExceeded(
                f"query_budget: expected {most} or more, for {images} images with one look and up to {max_queries} "
                f"queries each, got {self.budget}; nothing was sent; lower max_examples or attack.max_queries",
                used=0,
                budget=self.budget,
            )
        ledger = self.box.ledger
        ledger.budget = ledger.taken() + self.budget  # failed attempts that an API charges are bounded as well

    def look_no_further(self) -> None:
        """From now on nothing is looked up or stored: changed images hardly ever come back."""
        self.box.store = "off"

    def record(self) -> dict[str, Any]:
        """What was asked."""
        total = self._spent() - self._before
        return {
            "total": total,
            "uncertain": self.box.uncertain - self._uncertain,
            "retried": self.box.retried - self._retried,
            "budget": self.budget,
            "cost": cost(total, self.price),
        }

    def _spent(self) -> int:
        counts = self.box.queries()
        return counts[PURPOSE] + counts[CHECK]
