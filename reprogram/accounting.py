"""The money side of a run: the plan before it, the account during it, the record after it."""

import logging
import time
from collections.abc import Mapping, Sized
from typing import Any, NamedTuple

import torch

from reprogram import launched
from reprogram.checks import is_black_box
from reprogram.errors import QueryBudgetExceeded, RunError
from reprogram.mappings.base import RefitSchedule
from reprogram.sources.base import SourceModel
from reprogram.sources.ledger import Ledger
from reprogram.training.length import batches_of_epoch, total_steps
from reprogram.training.query_plan import QueryPlan, Sizes, cost, plan_queries

log = logging.getLogger(__name__)


class Paid(NamedTuple):
    """What others have spent of the run's budget before it.

    Args:
        answers: Queries by purpose whose answers are stored and will be asked for again by the run.
        beside: All other queries.
    """

    answers: Mapping[str, int]
    beside: int


NOTHING = Paid({}, 0)


def query_plan(
    cfg: Mapping[str, Any],
    splits: Mapping[str, Sized],
    queries_per_example: int,
    fits: RefitSchedule,
    remote: bool = False,
    paid: Paid = NOTHING,
) -> QueryPlan | None:
    """What the run will ask of a black box, whose attempts may fail where it is remote; ``None`` in a white box."""
    if not is_black_box(cfg):
        return None
    budget = cfg["access"]["query_budget"]
    access, batch_size = cfg["access"], cfg["data"]["batch_size"]
    train, val, test = (len(splits[split]) for split in ("train", "val", "test"))
    batches = -(-train // batch_size)
    return plan_queries(
        Sizes(
            train,
            val,
            test,
            batch=min(batch_size, train),
            accumulate=cfg["trainer"]["accumulate_grad_batches"],
            queries_per_example=queries_per_example,
            processes=launched.processes(cfg["trainer"]),
            batches=batches_of_epoch(cfg["trainer"], batches),
        ),
        budget=None if budget is None else budget - paid.beside,
        max_steps=total_steps(cfg["trainer"], batches),
        validations=access["validations"],
        prime=access["prime"],
        fits=fits,
        baselines=cfg["evaluation"]["baselines"],
        stored=access["store"] != "off",
        compared=cfg["callbacks"]["confidence"] is not None,
        spare=access.get("spare") if remote else 0,
        begun=cfg.get("start_from") is not None,
    )


def announce_plan(plan: QueryPlan, access: dict[str, Any], source: SourceModel) -> None:
    """Prints queries by purpose, cost and time; asks the oracle nothing."""
    per_second = access["queries_per_second"]
    if per_second is None and getattr(source, "preparation", None) is not None:  # it runs here
        per_second = _speed(source, min(64, access["micro_batch"]))
    for position, line in enumerate(plan.lines(access["price_per_1000"], per_second)):
        log.info("%-8s %s", "" if position else "plan", line)


def open_account(account: Ledger, plan: QueryPlan, continued: bool = False, paid: Paid = NOTHING) -> None:
    """Reserves all but the training, as far as a run that is continued has no answers to it yet.

    What a crash cost must be asked again; where that is more than is left, a continued run goes without its baselines,
    then without further validations, rather than without its end.

    Args:
        account: Of the run.
        plan: What it will ask.
        continued: Whether it was begun before, so that the account must know it.
        paid: What needs no reservation, since others have paid for it.

    Raises:
        QueryBudgetExceeded: If too little is left for the test.
        RunError: If the run was begun with another account: its queries would be paid twice, beyond the budget.
    """
    if continued and not account.knows_run():
        raise RunError(
            f"access.ledger: expected the account of the unfinished run '{account.run}' in {account.path}, which does "
            "not know it; put file and run directory back where they were, or start anew in another run_dir"
        )
    account.begin()
    spent, lost = account.spent(), account.lost()
    wanted = {
        purpose: max(0, planned - paid.answers.get(purpose, 0) - spent[purpose] + lost[purpose])
        for purpose, planned in plan.amounts.items()
        if purpose != "train"
    }
    dispensable = ["validation", "mapping", "baseline"] if sum(spent.values()) else []
    while True:
        try:
            return account.reserve(wanted)
        except QueryBudgetExceeded:
            if not dispensable:
                raise
            wanted[dispensable.pop()] = 0


def recorded_queries(counted: dict[str, int], source: SourceModel, access: dict[str, Any]) -> dict[str, Any]:
    """The ``queries`` of ``metrics.json``: from the ledger of a black box, else images as the run counted them."""
    found = source.queries()
    if found is None:
        return {**counted, "total": sum(counted.values()), "uncertain": 0, "retried": 0, "budget": None, "cost": None}
    total = sum(found.values())
    return {
        **found,
        "total": total,
        "uncertain": source.uncertain,
        "retried": source.retried,
        "budget": access["query_budget"],
        "cost": cost(total, access["price_per_1000"]),
    }


@torch.inference_mode()
def _speed(source: SourceModel, images: int) -> float:
    """Images per second of a source that runs here, measured on noise."""
    noise = torch.rand(images, 3, *source.spec.image_size)
    source(noise)
    started = time.monotonic()
    source(noise)
    return images / (time.monotonic() - started)
