"""What a budget buys, worked out by hand."""

import dataclasses
import itertools

import pytest

from reprogram.errors import ConfigError
from reprogram.mappings.base import RefitSchedule
from reprogram.training.query_plan import QueryPlan, Sizes, cost, plan_queries

SIZES = Sizes(train=96, val=40, test=30, batch=16, accumulate=1, queries_per_example=2)
ONCE, LATER, NEVER = RefitSchedule("once"), RefitSchedule("validation"), RefitSchedule("never")


def plan(sizes: Sizes = SIZES, fits: RefitSchedule = ONCE, **choices: object) -> QueryPlan:
    defaults = {
        "budget": 1000, "max_steps": None, "validations": 5, "prime": None, "baselines": ["majority"], "stored": True,
    }  # fmt: skip
    return plan_queries(sizes, fits=fits, **(defaults | choices))  # type: ignore[arg-type]


def test_training_gets_what_the_rest_leaves() -> None:
    made = plan()
    # 1000 - 96 - 5 x 40 - 30 = 674 pay for 21 steps of 32: three parts of 6 and one of 3
    assert made.amounts == {"train": 21 * 32, "mapping": 96, "validation": 200, "test": 30, "baseline": 0}
    assert (made.prime, made.steps, made.interval, made.refits) == (96, 21, 6, False)
    assert (made.total, made.budget, made.sizes.step) == (998, 1000, 32)


@pytest.mark.parametrize(("val", "asked", "spare", "steps"), [(40, 5, 5, 20), (40, None, 16, 20), (100, None, 27, 10)])
def test_training_leaves_a_spare_for_failed_attempts(val: int, asked: int | None, spare: int, steps: int) -> None:
    # a twentieth of 5 validations and the test is 12 of 230, less than a batch, and 27 of 530
    made = plan(dataclasses.replace(SIZES, val=val), spare=asked)
    assert (made.spare, made.steps) == (spare, steps)
    assert made.total == 96 + 5 * val + 30 + 32 * steps + spare <= 1000
    assert f"spare      {spare:>9}" in made.lines(None, None)
    assert plan(budget=None, max_steps=1, spare=asked).spare == 0


def test_the_last_step_of_an_epoch_may_be_cheaper() -> None:
    made = plan(dataclasses.replace(SIZES, train=100), validations=2)
    # an epoch: 6 steps of 32 and one of 8 are 200; of 1000 - 100 - 80 - 30 = 790, 3 epochs and 5 more steps cost 760
    assert (made.steps, made.interval, made.amounts["train"]) == (26, 26, 760)


def test_accumulated_batches_are_one_step() -> None:
    made = plan(dataclasses.replace(SIZES, train=80, accumulate=2), validations=4)
    # an epoch: 5 batches in 3 steps, 160; of 1000 - 80 - 160 - 30 = 730, 4 epochs and 1 step: 13, in thirds of 5
    assert made.sizes.step == 64
    assert (made.steps, made.interval, made.amounts["train"]) == (13, 10, 704)


def test_processes_fill_their_share_of_a_small_batch() -> None:
    sizes = Sizes(train=10, val=5, test=3, batch=4, accumulate=1, queries_per_example=1, processes=3)
    assert [sizes.pass_over(examples) for examples in (0, 4, 5, 10)] == [0, 4, 7, 11]
    assert sizes.step == 4
    assert dataclasses.replace(sizes, processes=8).step == 8
    assert dataclasses.replace(sizes, processes=8).pass_over(10) == 24
    assert plan(sizes, budget=100, validations=2).amounts == {
        "train": 70, "mapping": 11, "validation": 14, "test": 3, "baseline": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("baselines", "fits", "stored", "expected"),
    [
        ([], ONCE, True, 0),
        (["mapping_only"], ONCE, True, 30),  # pass and validation are those before the first step
        (["mapping_only"], NEVER, True, 96 + 30),
        (["mapping_only"], RefitSchedule(fixed=True), True, 30),
        (["mapping_only"], RefitSchedule(fixed=True), False, 40 + 30),
        (["mapping_only"], RefitSchedule("never", at_end=True), True, 96 + 30),
        (["linear_probe"], ONCE, True, 96 + 40 + 30),
        (["majority", "raw_linear", "local_probe"], ONCE, False, 0),
        (["mapping_only", "linear_probe"], ONCE, True, 30 + 96 + 40 + 30),
        (["mapping_only"], ONCE, False, 96 + 40 + 30),
        (["mapping_only", "linear_probe"], ONCE, False, 2 * (96 + 40 + 30)),
    ],
)
def test_baselines_pay_for_what_the_run_has_not_asked(
    baselines: list[str], fits: RefitSchedule, stored: bool, expected: int
) -> None:
    assert plan(baselines=baselines, fits=fits, stored=stored, budget=3000).amounts["baseline"] == expected


def test_a_start_from_a_learned_program_has_not_asked_what_the_baseline_without_one_asks() -> None:
    for fits in (ONCE, NEVER, RefitSchedule(fixed=True)):
        made = plan(baselines=["mapping_only"], fits=fits, budget=3000, begun=True)
        assert made.amounts["baseline"] == (0 if fits.fixed else 96) + 40 + 30
        assert made.total <= 3000


def test_without_a_store_what_is_scored_again_is_paid_again() -> None:
    kept, lost = plan(), plan(stored=False)
    assert lost.amounts["validation"] == kept.amounts["validation"] + 40  # in the end
    assert lost.amounts["test"] == 2 * 30
    assert lost.steps < kept.steps
    # and before: with and without the program, and on both sides of the last fit
    sure = plan(stored=False, compared=True, fits=RefitSchedule("once", at_end=True))
    assert sure.amounts["validation"] == kept.amounts["validation"] + 5 * 40
    assert plan(compared=True) == kept


@pytest.mark.parametrize(
    ("fits", "passes"),
    [
        (NEVER, 0), (ONCE, 1), (RefitSchedule(2), 1), (LATER, 5), (RefitSchedule("once", at_end=True), 2),
        (RefitSchedule("never", at_end=True), 1), (RefitSchedule("validation", at_end=True), 6),
    ],
)  # fmt: skip
def test_every_fit_on_a_fresh_pass_is_in_the_plan(fits: RefitSchedule, passes: int) -> None:
    made = plan(fits=fits, budget=5000)
    assert made.amounts["mapping"] == passes * 96
    assert made.refits == (fits is LATER or fits.refresh == "validation")


def test_the_first_fit_gets_all_but_one_step_in_whole_batches() -> None:
    # 330 - 230 = 100 are left, 68 of them beside one step: 4 batches of 16
    made = plan(budget=330)
    assert (made.prime, made.amounts["mapping"], made.steps) == (64, 64, 1)
    assert plan(budget=330, prime=50).prime == 50
    assert plan(budget=2000, prime=500).prime == 96


def test_later_fits_get_half_of_what_is_left_then_or_are_given_up() -> None:
    # 800 - 230 - 96 - 32 = 442: half of it pays for two passes, so there are three validations
    made = plan(fits=LATER, budget=800)
    assert made.refits
    assert (made.amounts["mapping"], made.amounts["validation"]) == (3 * 96, 3 * 40)
    few = plan(fits=LATER, budget=500)  # 142: half of it is less than a pass
    assert not few.refits
    assert (few.amounts["mapping"], few.amounts["validation"]) == (96, 5 * 40)


def test_without_a_budget_epochs_decide() -> None:
    made = plan(budget=None, max_steps=12)
    assert (made.steps, made.interval, made.budget, made.prime) == (12, None, None, 96)
    assert made.amounts["train"] == 12 * 32
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs: .*access\.query_budget=N"):
        plan(budget=None)


def test_a_bound_on_the_steps_leaves_money_unspent() -> None:
    few = plan(max_steps=6)
    assert (few.steps, few.interval) == (6, 2)  # validations after steps 2, 4 and 6
    assert plan(max_steps=3).interval == 1
    assert plan(max_steps=3).total == 998 - 18 * 32


@pytest.mark.parametrize(("batches", "steps", "spent"), [(2, 21, 672), (1, 21, 672), (9, 21, 672)])
def test_an_epoch_that_is_cut_short_has_no_smaller_batch(batches: int, steps: int, spent: int) -> None:
    made = plan(dataclasses.replace(SIZES, batches=batches))
    assert (made.steps, made.amounts["train"]) == (steps, spent)
    uneven = plan(dataclasses.replace(SIZES, train=100, batches=batches), validations=2)
    # 790 pay for 24 steps of 32, or for 26 where each seventh costs 8
    assert (uneven.steps, uneven.amounts["train"]) == ((26, 760) if batches == 9 else (24, 768))


SWEEP = [
    Sizes(train, val, 30, min(batch, train), accumulate, queries, processes)
    for train, val, batch, accumulate, queries, processes in itertools.product(
        (7, 96, 100), (5, 40), (3, 16), (1, 2, 3), (1, 6), (1, 4)
    )
]
CHOICES = [
    {"validations": 1},
    {"validations": 4, "baselines": ["mapping_only"], "stored": False},
    {"prime": 20, "baselines": ["mapping_only", "linear_probe"]},
    {"fits": LATER},
    {"fits": LATER, "prime": 9, "baselines": ["linear_probe"]},
    {"fits": RefitSchedule(3, at_end=True), "baselines": ["mapping_only"]},
    {"fits": NEVER, "baselines": ["mapping_only"]},
    {"fits": LATER, "baselines": ["mapping_only"], "spare": None},
    {"fits": NEVER},
]


def least(sizes: Sizes, **choices: object) -> int:
    """What the error says is needed."""
    with pytest.raises(ConfigError, match=r"access\.query_budget: expected at least \d+ queries") as refused:
        plan(sizes, budget=1, **choices)  # type: ignore[arg-type]
    return int(str(refused.value).split("at least ")[1].split()[0])


@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_the_budget_is_never_passed_and_hardly_left(choices: dict[str, object]) -> None:
    for sizes in SWEEP:
        enough = least(sizes, **choices)
        for budget in (enough, enough + 1, enough + sizes.step // 2, 2 * enough, 3000, 20_011):
            if budget < enough:
                continue
            made = plan(sizes, budget=budget, **choices)  # type: ignore[arg-type]
            assert made.steps >= 1
            assert made.total <= budget
            validations = -(-made.amounts["validation"] // sizes.pass_over(sizes.val))
            assert budget - made.total < sizes.step, (sizes, budget, made)
            assert made.prime <= sizes.train
            assert made.interval is not None
            assert made.interval % sizes.accumulate == 0
            assert -(-made.steps // (made.interval // sizes.accumulate)) <= max(1, validations - 1)


@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_what_the_error_names_is_exactly_enough(choices: dict[str, object]) -> None:
    for sizes in SWEEP:
        enough = least(sizes, **choices)
        assert plan(sizes, budget=enough, **choices).steps == 1  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=rf"expected at least {enough} .* got {enough - 1}; raise it, or lower"):
            plan(sizes, budget=enough - 1, **choices)  # type: ignore[arg-type]


def test_the_plan_reads_well() -> None:
    lines = [" ".join(line.split()) for line in plan(budget=50_000).lines(2.0, 100.0)]
    total = plan(budget=50_000).total
    assert "mapping 96" in lines
    assert f"total {total:,} of 50,000" in lines
    assert f"cost {total / 500:,.2f}" in lines
    assert f"time {total / 100:,.0f} s at 100 queries/s" in lines
    assert not [line for line in lines if line.startswith("baseline")]  # nothing is asked for it
    bare = plan(budget=None, max_steps=1).lines(None, None)
    assert not [line for line in bare if line.startswith(("cost", "time")) or "of" in line]


def test_cost() -> None:
    assert cost(2500, 4.0) == 10.0
    assert cost(2500, None) is None
