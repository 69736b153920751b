"""Accuracy against queries behind a black box: every estimator and recipe under the same accounting.

    REPROGRAM_ASSETS=DIR python scripts/benchmark_queries.py run
    python scripts/benchmark_queries.py report

Finished runs are skipped, so ``run`` can be stopped and repeated; several processes share the work. A job is one
``reprogram-train`` of ``experiment=black_box/<task>_<source>`` with overrides that are kept in the results. Its budget
is that of the curve for training and mapping, plus what validation, test and the mapping-only baseline need. The curves
show validation; test is scored once, at the end of each run.
"""

import argparse
import fcntl
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ADAM = ["optimizer=adam", "scheduler=cosine"]
# Estimators are compared with BAR's frequency mapping, with which the program has all the work to do, on the small
# program of the default recipe: D is the same for all.
FREQUENCY = ["mapping=frequency", "mapping.per_class=5", "mapping.refresh=once", "mapping.refit_at_end=false"]
FREQUENCY += ["callbacks.monitor=val/balanced_accuracy", "callbacks.mode=max", "callbacks.patience=null"]
FREQUENCY += ["access.prime=500", "optimizer.lr=0.05"]
SHARED = ["estimator.per_example=false", "data.batch_size=20"]
ESTIMATORS: dict[str, list[str]] = {
    "BAR with Adam, 16x16 frame": ["recipe=bar", *ADAM, "program.resolution=16", "access.prime=500"],
    "one-sided": [*FREQUENCY, "estimator=one_sided", "estimator.smoothing=1", "data.batch_size=20"],
    "two-sided": FREQUENCY,
    "two-sided, orthogonal": [*FREQUENCY, "estimator.directions=orthogonal", "estimator.num_directions=8", *SHARED],
    "NES": [*FREQUENCY, "estimator=nes", "data.batch_size=20"],
    "SPSA-GC": [*FREQUENCY, "estimator=spsa", "estimator.a=0.05", "estimator.c=0.1", "data.batch_size=20"],
    "ZOO Adam": [*FREQUENCY, "estimator=coordinate", "estimator.lr=0.05", "data.batch_size=20"],
    "ZOO Newton": [
        *FREQUENCY,
        "estimator=coordinate",
        "estimator.rule=newton",
        "estimator.lr=0.05",
        "data.batch_size=20",
    ],
    "CMA-ES": [*FREQUENCY, "estimator=cma_es", "estimator.sigma=0.1", "data.batch_size=50"],
}
LIMITED = "default, top 5 of 2 decimals, PNG"
DEFAULTS: dict[str, list[str]] = {
    "default": [],
    "white box": [],
    LIMITED: ["access.top_k=5", "access.decimals=2", "access.encoding=png"],
}
BAR = {"BAR as published": ["recipe=bar"], "BAR with Adam": ["recipe=bar", *ADAM]}
RECIPES = {**BAR, **ESTIMATORS, **DEFAULTS}
GROUPS = {
    "frequency mapping": (*BAR, *ESTIMATORS),
    "linear mapping, fitted on responses": (*BAR, "default", LIMITED),
}
TASKS = ("mnist", "ham10000", "retina", "abide")
CURVE_VALIDATIONS = 6


class Job(NamedTuple):
    """One run: ``queries`` are those for training and mapping."""

    task: str
    source: str
    recipe: str
    queries: int
    seed: int

    @property
    def name(self) -> str:
        """Folder of the run."""
        slug = "".join(letter if letter.isalnum() else "-" for letter in self.recipe.lower())
        return f"{self.task}-{self.source}-{slug}-{self.queries}-{self.seed}"


def jobs() -> list[Job]:
    """All runs, the most important first."""
    small = "mobilenetv1"
    found = [Job(task, small, name, 80_000, seed) for seed in range(3) for task in TASKS for name in BAR]
    found += [Job("mnist", small, "default", 80_000, seed) for seed in range(5)]
    found += [Job("mnist", small, "white box", 0, seed) for seed in range(5)]
    for seed in range(3):
        found += [Job(task, small, "default", count, seed) for task in TASKS for count in (4_000, 20_000, 80_000)]
    for seed in range(3):
        found += [Job("mnist", small, LIMITED, 20_000, seed)]
        found += [Job("mnist", "resnet18", name, 20_000, seed) for name in ("BAR as published", "default")]
        found += [Job(task, small, name, 5_000, seed) for task in TASKS for name in ESTIMATORS]
    return list(dict.fromkeys(found))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "report"))
    parser.add_argument("--task", choices=TASKS, action="append")
    parser.add_argument("--recipe", choices=RECIPES, action="append")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark_queries"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks"))
    arguments = parser.parse_args()
    tasks, recipes = arguments.task or TASKS, arguments.recipe or RECIPES
    chosen = [job for job in jobs() if job.task in tasks and job.recipe in recipes]
    if arguments.action == "run":
        arguments.output.mkdir(parents=True, exist_ok=True)
        for job in chosen:
            with (arguments.output / f"{job.name}.lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # another process is at it
                run(job, arguments.output)
    else:
        report(chosen, arguments.output, arguments.results)


def run(job: Job, output: Path) -> None:
    """Trains, unless it has been done."""
    from hydra import compose, initialize_config_dir

    from reprogram import build
    from reprogram.commands.launch import config_folder
    from reprogram.runs import train

    run_dir = output / job.name
    if (run_dir / "metrics.json").is_file():
        return
    overrides = [f"experiment=black_box/{job.task}_{job.source}", *RECIPES[job.recipe], f"seed={job.seed}"]
    if job.recipe == "white box":  # the program and the fits of the default, and the gradient
        overrides += ["estimator=backprop", "access=white_box", "callbacks.patience=null", "trainer.max_epochs=5"]
    if job.source == "resnet18":
        overrides += ["source.image_size=[128,128]"]
    if job.queries and not job.recipe.startswith("default"):
        overrides += [f"access.validations={CURVE_VALIDATIONS}"]
    fixed = [f"run_dir={run_dir}", "trainer.enable_progress_bar=false", "logger=none"]

    def composed(*more: str) -> dict[str, Any]:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            return build.plain(compose("train", [*overrides, *fixed, *more]))

    if job.queries:
        overrides.append(f"access.query_budget={total_budget(composed(), job.queries)}")
    print(job.name, " ".join(overrides), flush=True)
    train(composed())
    (run_dir / "overrides.json").write_text(json.dumps(overrides))


def total_budget(cfg: dict[str, Any], queries: int) -> int:
    """The budget with which a plan has at most so many queries for training and mapping."""
    from reprogram import build, sourcing
    from reprogram.accounting import query_plan
    from reprogram.sources.ledger import Ledger

    data = build.task_data(cfg)
    source = build.accessed(cfg, sourcing.source(cfg, "cpu", data.spec), Ledger(None, "plan"))
    classifier = build.classifier(cfg, source, data.spec, "cpu")
    estimator = build.estimator(cfg, classifier.program)
    budget = queries + len(data.splits["val"]) * cfg["access"]["validations"] + 2 * len(data.splits["test"])
    while True:  # a plan that cannot pay for all validations gives what is left of them to the training
        cfg["access"]["query_budget"] = budget
        plan = query_plan(cfg, data.splits, estimator.queries_per_example, classifier.mapping.schedule)
        assert plan is not None
        excess = plan.amounts["train"] + plan.amounts["mapping"] - queries
        if excess <= 0:
            return budget
        budget -= excess


def report(chosen: list[Job], output: Path, results: Path) -> None:
    """Writes ``queries_<task>.{json,png}`` for each task, and ``queries.md``."""
    results.mkdir(exist_ok=True)
    done = [job for job in chosen if (output / job.name / "overrides.json").is_file()]
    lines = []
    for task, source in dict.fromkeys((job.task, job.source) for job in done):
        rows = []
        for recipe, queries in dict.fromkeys(
            (j.recipe, j.queries) for j in done if (j.task, j.source) == (task, source)
        ):
            same = [job for job in done if job[:4] == (task, source, recipe, queries)]
            rows.append(_row([output / job.name for job in same], recipe, queries))
        title = f"{task}_{source}"
        (results / f"queries_{title}.json").write_text(
            json.dumps({"task": task, "source": source, "rows": rows}) + "\n"
        )
        draw(results / f"queries_{title}.png", title, rows)
        lines.append(f"\n## {task} on {source}\n\n{_markdown(rows)}")
    first = json.loads((output / done[0].name / "metrics.json").read_text())["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in first["packages"].items())
    heading = HEADING.format(device=first["device"], python=first["python"], versions=versions)
    lines.append(_recovery(output, done))
    (results / "queries.md").write_text(heading + "\n".join(lines))
    print("\n".join(lines))


HEADING = """# Accuracy against queries behind a black box

Mean over the seeds [lowest, highest]; D is the number of the program's parameters. Queries are those spent on
training and mapping, as the ledger counted them (of the white box: images scored); validation, test and the
mapping-only baseline come on top. A default run may stop before its budget is spent. Programs and mappings are chosen
on validation - the mapping alone is one of the candidates - and test is scored once. When the default stops and when
it keeps its program was settled on training images alone (`stopping.md`). Made by

    REPROGRAM_ASSETS=DIR OMP_NUM_THREADS=1 python scripts/benchmark_queries.py run   (two of them)
    python scripts/benchmark_queries.py report

on {device}, python {python}, {versions}.
The cores were shared with other work, so the seconds say little. Exact overrides and commits: `queries_<task>.json`.
"""


def _row(runs: list[Path], recipe: str, queries: int) -> dict[str, Any]:
    """One recipe at one budget over its seeds."""
    records = [json.loads((path / "metrics.json").read_text()) for path in runs]
    return {
        "recipe": recipe,
        "queries": queries,
        "D": records[0]["dimension"],
        "seeds": [record["seed"] for record in records],
        "spent": [record["queries"]["train"] + record["queries"]["mapping"] for record in records],
        "total": [record["queries"]["total"] for record in records],
        "test": {name: [record["test"][name]["value"] for record in records] for name in METRICS},
        "mapping_only": {
            name: [record["baselines"]["mapping_only"]["test"][name]["value"] for record in records] for name in METRICS
        },
        "program_kept": [record["best_step"] > 0 for record in records],
        "curves": [[(row.get("queries"), row["val/balanced_accuracy"]) for row in r["history"]] for r in records],
        "val": [
            {name: record["val"][name]["value"] for name in ("balanced_accuracy", "accuracy", "nll")}
            for record in records
        ],
        "train_s": [record["timing"]["train_s"] for record in records],
        "commits": sorted({str(record["environment"]["commit"]) for record in records}),
        "overrides": json.loads((runs[0] / "overrides.json").read_text()),
    }


METRICS = ("balanced_accuracy", "accuracy", "auroc")


def _recovery(output: Path, done: list[Job]) -> str:
    """How much of the white-box program's gain over the mapping alone the default recipe recovers on digits."""
    from reprogram.evaluation.intervals import resample_weights
    from reprogram.evaluation.predictions import read_csv

    def test(job: Job, name: str) -> Any:
        return next(one for one in read_csv(output / job.name / name)[0] if one.split == "test")

    queried = [job for job in done if (job.task, job.recipe, job.queries) == ("mnist", "default", 80_000)]
    white = [job for job in done if (job.task, job.recipe) == ("mnist", "white box")]
    if not queried or not white:
        return ""
    groups = {"default, 80k queries": queried, "white box": white}
    weights = np.concatenate(list(resample_weights(test(queried[0], "predictions.csv"), 1000, seed=0)))
    weights = np.concatenate([np.ones((1, weights.shape[1])), weights])  # first row: the point estimate
    lines = ["\n## Digits: what the program adds to the mapping alone, on test\n"]
    lines.append(
        f"Means over {len(queried)} and {len(white)} seeds, each run against its own mapping alone (the white box runs "
        "in bfloat16 where the processor has matrix units); paired bootstrap over the test rows, 95 %.\n"
    )
    lines.append(
        "| metric | " + " | ".join(f"{name}: mapping alone | with the program | gain" for name in groups) + " |"
    )
    lines.append("|---|" + "---:|" * 3 * len(groups))
    for metric in ("accuracy", "balanced_accuracy", "nll"):
        cells, gains = [], []
        for found in groups.values():
            alone, reached = (
                np.mean([_resampled(test(job, file), weights, metric) for job in found], axis=0)
                for file in ("predictions_mapping_only.csv", "predictions.csv")
            )
            gain = reached - alone
            low, high = np.quantile(gain[1:], [0.025, 0.975])
            below = (gain[1:] <= 0).mean()
            p_value = min(1.0, 2 * max(min(below, 1 - below), 1 / 1000))
            cells += [f"{alone[0]:.4f}", f"{reached[0]:.4f}"]
            cells.append(f"{gain[0]:+.4f} [{low:+.4f}, {high:+.4f}], p = {p_value:.3f}")
            gains.append(gain)
        lines.append(f"| {metric} | {' | '.join(cells)} |")
        if metric == "balanced_accuracy":
            half = (gains[0][1:] >= gains[1][1:] / 2).mean()
            share = (
                f"Of the white box's gain in balanced accuracy the default recovers {gains[0][0] / gains[1][0]:.0%}; "
                f"it is at least half in {half:.0%} of the resamples."
            )
    return "\n".join([*lines, "", share]) + "\n"


def _resampled(predictions: Any, weights: Any, metric: str) -> Any:
    from reprogram.evaluation.metrics import evaluate

    return evaluate(predictions.targets, predictions.scores, weights, False)[metric]


def draw(path: Path, title: str, rows: list[dict[str, Any]]) -> None:
    """Validation against queries, a band from the worst to the best seed; test at the end of each run as a mark."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, panels = plt.subplots(1, 2, figsize=(13, 5.8), layout="constrained")
    for axes, (group, members) in zip(panels, GROUPS.items(), strict=True):
        for row in rows:
            if row["recipe"] not in members:
                continue
            colour = "black" if row["recipe"] in BAR else f"C{members.index(row['recipe']) + row['queries'] // 20_000}"
            length = min(map(len, row["curves"]))
            points = np.array([curve[:length] for curve in row["curves"]], dtype=float)
            x, y = points[:, :, 0].mean(axis=0), points[:, :, 1]
            label = f"{row['recipe']}, {row['queries'] // 1000}k (D = {row['D']:,})"
            axes.plot(
                x,
                y.mean(axis=0),
                color=colour,
                marker=".",
                label=label,
                linewidth=2 if row["recipe"] == "default" else 1,
                linestyle="--" if row["recipe"] == "BAR with Adam" else "-",
            )
            axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=colour, alpha=0.12, linewidth=0)
            axes.plot(np.mean(row["spent"]), np.mean(row["test"]["balanced_accuracy"]), "x", color=colour)
        axes.set_title(f"{title.replace('_', ' on ')}: {group}", fontsize=10)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda queries, _: f"{queries / 1000:g}k")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("queries for training and mapping")
        axes.set_ylabel("balanced accuracy (line: validation, x: test)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _markdown(rows: list[dict[str, Any]]) -> str:
    head = ["recipe", "D", "queries", "seeds", "test balanced accuracy", "test accuracy", "mapping only, balanced"]
    head += ["val nll", "program kept", "train s"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for row in sorted(rows, key=lambda row: -np.mean(row["test"]["balanced_accuracy"])):
        lines.append(
            [
                row["recipe"],
                f"{row['D']:,}",
                f"{np.mean(row['spent']):,.0f}",
                str(len(row["seeds"])),
                _cell(row["test"]["balanced_accuracy"]),
                _cell(row["test"]["accuracy"]),
                _cell(row["mapping_only"]["balanced_accuracy"]),
                f"{np.mean([found['nll'] for found in row['val']]):.3f}",
                f"{sum(row['program_kept'])}/{len(row['seeds'])}",
                f"{np.mean(row['train_s']):.0f}",
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(values: list[float]) -> str:
    return f"{np.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


if __name__ == "__main__":
    main()
