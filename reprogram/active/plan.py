"""What all rounds will cost, in labels and in queries, before the first of either."""

from collections.abc import Iterator
from dataclasses import dataclass

from reprogram.training.query_plan import QueryPlan, cost


@dataclass(frozen=True)
class Queries:
    """What is asked of a black box by all rounds and the run at the end.

    Args:
        pool: Images of the pool that the run at the end does not ask for itself.
        run: What that run will ask; answers that are stored by then are in its plan, but paid once.
    """

    pool: int
    run: QueryPlan

    @property
    def total(self) -> int:
        """All queries."""
        return self.pool + self.run.total


@dataclass(frozen=True)
class Plan:
    """Labels and queries together.

    Args:
        pool: Examples of it.
        known: Labels that are there before.
        targets: Labels at the end of each round.
        queries: Behind a black box.
        price_per_label: In your currency; ``None``: not counted.
        price_per_1000: Of queries, likewise.
    """

    pool: int
    known: int
    targets: list[int]
    queries: Queries | None
    price_per_label: float | None
    price_per_1000: float | None

    @property
    def labels(self) -> int:
        """Labels that are still to be given."""
        return self.targets[-1] - self.known

    def lines(self) -> Iterator[str]:
        """The plan for the terminal."""
        counts = ", ".join(f"{count:,}" for count in self.targets)
        yield f"{self.labels:,} labels, of a pool of {self.pool:,}, in {len(self.targets)} rounds: {counts}"
        if self.queries is not None:
            amounts = {"pool alone": self.queries.pool, **self.queries.run.amounts, "spare": self.queries.run.spare}
            asked = ", ".join(f"{count:,} for {purpose}" for purpose, count in amounts.items() if count)
            bound = self.queries.run.budget
            within = "" if bound is None else f" of {bound + self.queries.pool:,}"
            yield f"{self.queries.total:,} queries{within}: {asked}"
        parts = []
        if self.price_per_label is not None:
            parts.append((f"{self.labels:,} labels", self.labels * self.price_per_label))
        if self.queries is not None and self.price_per_1000 is not None:
            parts.append((f"{self.queries.total:,} queries", cost(self.queries.total, self.price_per_1000) or 0.0))
        if parts:
            total = sum(price for _, price in parts)
            yield f"cost {total:,.2f}: " + ", ".join(f"{price:,.2f} for {what}" for what, price in parts)
