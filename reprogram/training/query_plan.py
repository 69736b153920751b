"""What a run will ask of a black box, by purpose, before the first image is sent."""

from collections.abc import Sequence
from dataclasses import dataclass

from reprogram.errors import ConfigError
from reprogram.mappings.base import RefitSchedule


@dataclass(frozen=True)
class Sizes:
    """Facts that a plan follows from.

    Args:
        train: Images of the training split; ``val`` and ``test`` likewise.
        val: See ``train``.
        test: See ``train``.
        batch: Images of a global batch.
        accumulate: Batches of an optimiser step.
        queries_per_example: Of the gradient estimator.
        processes: That train together: each sends at least one image of a batch.
        batches: Of an epoch that ends before it has seen all images; ``None``: of a whole one.
    """

    train: int
    val: int
    test: int
    batch: int
    accumulate: int
    queries_per_example: int
    processes: int = 1
    batches: int | None = None

    @property
    def step(self) -> int:
        """Most queries of one optimiser step."""
        return self.step_from(0)

    def step_from(self, batch: int) -> int:
        """Queries of the optimiser step that begins with this batch of an epoch, and ends with it at the latest."""
        images = min(self.full * self.accumulate, self.images_of_epoch - self.full * batch)
        return images * self.queries_per_example

    @property
    def full(self) -> int:
        """Images of a whole batch."""
        return max(self.batch, self.processes)

    @property
    def images_of_epoch(self) -> int:
        """Images that the steps of one epoch see."""
        whole = self.pass_over(self.train)
        return whole if self.batches is None else min(whole, self.batches * self.full)

    def pass_over(self, examples: int) -> int:
        """Images of one pass over so many examples that all processes share."""
        full, last = divmod(examples, self.batch)
        return full * self.full + (max(last, self.processes) if last else 0)


@dataclass(frozen=True)
class QueryPlan:
    """How a budget is spent.

    Args:
        amounts: Queries by purpose.
        prime: Training images of each pass that the mapping is fitted on.
        refits: Whether it is fitted again before later validations.
        steps: Optimiser steps.
        interval: Batches between two validations; ``None``: once an epoch.
        budget: Most queries; ``None``: no bound.
        sizes: What it follows from.
        spare: Queries that training leaves to attempts that fail and are charged all the same.
    """

    amounts: dict[str, int]
    prime: int
    refits: bool
    steps: int
    interval: int | None
    budget: int | None
    sizes: Sizes
    spare: int = 0

    @property
    def total(self) -> int:
        """All queries."""
        return sum(self.amounts.values()) + self.spare

    def lines(self, price_per_1000: float | None, per_second: float | None) -> list[str]:
        """The plan for the terminal: queries by purpose, what they cost, how long they take."""
        amounts = {**self.amounts, "spare": self.spare}
        found = [f"{purpose:<11}{count:>9,}" for purpose, count in amounts.items() if count]
        found.append(f"{'total':<11}{self.total:>9,}" + (f" of {self.budget:,}" if self.budget is not None else ""))
        found.append(f"steps      {self.steps:>9,}")
        if price_per_1000 is not None:
            found.append(f"cost       {cost(self.total, price_per_1000):>9,.2f}")
        if per_second:
            found.append(f"time       {self.total / per_second:>9,.0f} s at {per_second:,.0f} queries/s")
        return found


def cost(queries: int, price_per_1000: float | None) -> float | None:
    """What queries cost, in the currency of the price."""
    return None if price_per_1000 is None else queries * price_per_1000 / 1000


def plan_queries(
    sizes: Sizes,
    budget: int | None,
    max_steps: int | None,
    validations: int,
    prime: int | None,
    fits: RefitSchedule,
    baselines: Sequence[str],
    stored: bool,
    compared: bool = False,
    spare: int | None = 0,
    begun: bool = False,
) -> QueryPlan:
    """Reserves what the run needs besides training; training gets the rest.

    The first fit of the mapping is worth more than anything after it: unless ``prime`` says otherwise it gets all
    training images, or as many as testing, validation, baselines and one step leave. Fits before later validations
    get at most half of what is left then; a budget that is too small for one of them validates without.

    Args:
        sizes: Facts of the run.
        budget: Most queries; ``None``: no bound.
        max_steps: Bound on the optimiser steps; ``None``: the budget alone decides.
        validations: Passes over the validation split: before the first step, in between, after the last.
        prime: Training images the mapping is fitted on.
        fits: When it is fitted.
        baselines: Names of the baselines asked for.
        stored: Whether answers are stored, so that an image is never asked twice.
        compared: Whether validation is scored again with and without the program in the end.
        spare: Queries of the budget that training leaves to failed attempts; ``None``: a twentieth of what the end
            needs, at least one batch.
        begun: Whether training starts from a learned program: then baselines without one were never asked for.

    Returns:
        The plan; its ``total`` is at most the budget.

    Raises:
        ConfigError: If the budget does not suffice for one step, or nothing bounds the training.
    """
    if budget is None and max_steps is None:
        raise ConfigError("trainer.max_epochs: expected a number of epochs, or access.query_budget=N to bound the run")
    if budget is None:
        assert max_steps is not None
        validations = 1 + -(-max_steps // _epoch(sizes)[1])  # one an epoch
    scorings = 1 + 2 * fits.at_end + 2 * compared  # of validation, after the training
    known = stored and not begun  # the answers to the untrained program
    fixed = _fixed(sizes, validations, baselines, stored, scorings, known)
    if budget is None:
        spare = 0
    elif spare is None:
        spare = max(sizes.full, -(-sum(fixed.values()) // 20))
    left = None if budget is None else budget - sum(fixed.values()) - spare
    own = fits.at_start + fits.at_end
    # the mapping alone is fitted to the answers of the first pass, if that was made and is stored
    fitted_anew = not fits.fixed and not (known and fits.at_start)
    others = ("linear_probe" in baselines) + ("mapping_only" in baselines and fitted_anew)
    primed = _primed(sizes, prime, own + others, left)
    later = validations - 1 if fits.before_validation else 0
    if left is not None and later:
        one_pass = sizes.pass_over(primed)
        more = left - own * one_pass - others * primed - sizes.step
        later = min(later, max(0, more) // 2 // one_pass)
        validations = later + 1 if later else validations
        fixed = _fixed(sizes, validations, baselines, stored, scorings, known)
    fixed["mapping"] = (own + later) * sizes.pass_over(primed)
    fixed["baseline"] += others * primed
    steps, interval = max_steps or 0, None
    if budget is not None:
        rest = sum(fixed.values()) + spare
        steps = _affordable(sizes, budget - rest)
        if steps < 1:
            amounts = {**fixed, "access.spare": spare}
            needs = ", ".join(f"{count} for {purpose}" for purpose, count in amounts.items() if count)
            raise ConfigError(
                f"access.query_budget: expected at least {rest + sizes.step} queries ({needs}, "
                f"{sizes.step} for one training step), got {budget}; raise it, or lower protocol.max_test, "
                "protocol.max_val, access.validations, access.prime, data.batch_size or the number of directions"
            )
        steps = steps if max_steps is None else min(steps, max_steps)
        between = min(max(1, validations - 1), steps)
        interval = -(-steps // between) * sizes.accumulate
    amounts = {"train": _cost_of_steps(sizes, steps), **fixed}
    return QueryPlan(amounts, primed, later > 0, steps, interval, budget, sizes, spare)


def _fixed(
    sizes: Sizes, validations: int, baselines: Sequence[str], stored: bool, scorings: int, known: bool
) -> dict[str, int]:
    """Queries that do not depend on how long the training is; without a store, what is scored again is paid again."""
    asked = sum(name in baselines for name in ("mapping_only", "linear_probe"))
    first_again = sizes.val if known and "mapping_only" in baselines else 0  # is the validation before the first step
    return {
        "mapping": 0,
        "validation": sizes.pass_over(sizes.val) * validations + (0 if stored else sizes.val * scorings),
        "test": sizes.test * (1 if stored else 2),
        "baseline": asked * (sizes.val + sizes.test) - first_again,
    }


def _primed(sizes: Sizes, prime: int | None, passes: int, left: int | None) -> int:
    """Images of a pass: as asked for, or whole batches that the budget allows beside one step, at least one."""
    if prime is not None or left is None or not passes:
        return min(prime or sizes.train, sizes.train)
    allowed = (left - sizes.step) // passes
    if sizes.pass_over(sizes.train) <= allowed:
        return sizes.train
    return max(1, allowed // max(sizes.batch, sizes.processes)) * sizes.batch


def _affordable(sizes: Sizes, left: int) -> int:
    """Optimiser steps that a number of queries pays for; the last step of an epoch may be smaller."""
    epoch, steps_of_epoch = _epoch(sizes)
    epochs, rest = divmod(max(0, left), epoch)
    return epochs * steps_of_epoch + rest // sizes.step


def _cost_of_steps(sizes: Sizes, steps: int) -> int:
    epoch, steps_of_epoch = _epoch(sizes)
    epochs, rest = divmod(steps, steps_of_epoch)
    return epochs * epoch + rest * sizes.step


def _epoch(sizes: Sizes) -> tuple[int, int]:
    """Queries and optimiser steps of one epoch."""
    batches = -(-sizes.images_of_epoch // sizes.full)
    return sizes.images_of_epoch * sizes.queries_per_example, -(-batches // sizes.accumulate)
