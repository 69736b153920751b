"""Learning curves of active learning: each strategy against labels drawn at random, and against all labels.

    REPROGRAM_ASSETS=DIR OMP_NUM_THREADS=1 python scripts/benchmark_active.py run
    python scripts/benchmark_active.py report

MobileNetV1 0.25 at 128 pixels in a white box: frame program, linear mapping, three epochs a round, labels for 5, 10,
20, 30, 45 and 60 % of a pool of 800, five seeds, which choose pool, order and first labels. The first round is the same
for all strategies that begin at random. Finished curves are skipped; several processes share the work.
"""

import argparse
import fcntl
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

DATA = ("mnist", "ham10000", "pneumonia")
SIZES = {"max_train": 800, "max_val": 200, "max_test": 600}  # of the pool, and of what is never chosen from
ALIKE = {"pneumonia": ("least_confidence", "entropy")}  # two classes: these choose what margin chooses
STRATEGIES = ("random", "margin", "least_confidence", "entropy", "clusters", "propagation")
SEEDS = range(5)
METRICS = ("accuracy", "balanced_accuracy")
POINT = 0.01
COLOURS = dict(zip(STRATEGIES, ("#7a7a7a", "#2a6f97", "#61a5c2", "#7b2cbf", "#e09f3e", "#c2331c"), strict=True))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "report"))
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark_active"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/active.md"))
    arguments = parser.parse_args()
    if arguments.action == "report":
        return report(arguments.output, arguments.results)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for seed, data in itertools.product(SEEDS, DATA):
        with (arguments.output / f"{data}-{seed}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # another process is at it
            run(data, seed, arguments.output)


def run(data: str, seed: int, output: Path) -> None:
    """All curves of one pool, and the run with all labels."""
    from reprogram.active.active_learning import learn
    from reprogram.runs import train

    names = [name for name in STRATEGIES if name not in ALIKE.get(data, ())]
    for name in ("all", *names):
        result, folder = output / f"{data}-{name}-{seed}.json", output / f"{data}-{name}-{seed}"
        if result.is_file():
            continue
        chosen = [f"run_dir={folder}", *(() if name == "all" else (f"active={name}",))]
        cfg = composed("train" if name == "all" else "active", data, seed, chosen)
        if name == "all":
            trained = train(cfg)
            assert trained is not None
            records: list[dict[str, Any]] = [{"labels": trained.metrics["data"]["sizes"]["train"], **trained.metrics}]
        else:
            first = output / f"{data}-random-{seed}" / "round_1"
            if name in ("margin", "least_confidence", "entropy") and not (folder / "round_1").exists():
                shutil.copytree(first, folder / "copy")  # the labels it would draw itself
                (folder / "copy").rename(folder / "round_1")
            outcome = learn(cfg)
            assert outcome is not None
            records = outcome.records
        kept = ("labels", "fraction", "confidence", "propagated")
        rows = [
            {key: one[key] for key in kept if key in one} | {metric: one["test"][metric]["value"] for metric in METRICS}
            for one in records
        ]
        result.write_text(json.dumps({"data": data, "strategy": name, "seed": seed, "rows": rows}) + "\n")
        print(result.stem, [round(row["accuracy"], 3) for row in rows], flush=True)


def composed(config: str, data: str, seed: int, chosen: list[str]) -> dict[str, Any]:
    """The configuration of a command."""
    from hydra import compose, initialize_config_dir

    from reprogram.build import plain
    from reprogram.commands.launch import config_folder

    overrides = [f"experiment=white_box/{data}_mobilenetv1", f"seed={seed}", f"protocol.seed={seed}"]
    overrides += [f"protocol.{key}={count}" for key, count in SIZES.items()]
    overrides += ["trainer.max_epochs=3", "evaluation.baselines=[]"]
    overrides += ["evaluation.num_resamples=200", "logger=none", "trainer.enable_progress_bar=false", *chosen]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return plain(compose(config, overrides))


def report(output: Path, results: Path) -> None:
    """Writes the tables, the pictures, and the numbers they are made of."""
    from benchmarking import environment

    curves = [json.loads(path.read_text()) for path in sorted(output.glob("*-*.json"))]
    found_here = environment()
    results.with_suffix(".json").write_text(json.dumps({"environment": found_here, "curves": curves}) + "\n")
    parts = []
    for data in DATA:
        found = {name: _values(curves, data, name) for name in ("all", *STRATEGIES)}
        found = {name: rows for name, rows in found.items() if rows}
        if len(found) < 2:
            continue
        draw(results.with_name(f"active_{data}.png"), data, found)
        parts.append(section(data, found, curves))
    versions = ", ".join(f"{name} {version}" for name, version in found_here["packages"].items())
    hardware = f"{found_here['device']}, python {found_here['python']}, {versions}"
    results.write_text("\n".join([HEADING.format(hardware=hardware), *parts]))
    print("\n".join(parts))


def section(data: str, found: dict[str, dict[str, Any]], curves: list[dict[str, Any]]) -> str:
    """The tables of one task."""
    labels, everything = found["random"]["labels"], found["all"]
    lines = [
        f"## {data}",
        "",
        f"Pool of {everything['labels'][0]:,}; {len(everything['accuracy'])} seeds. All labels: ",
    ]
    lines[-1] += ", ".join(f"{_name(metric)} {everything[metric].mean():.3f}" for metric in METRICS) + "."
    for metric in METRICS:
        top = everything[metric].mean()
        heads = [f"{count:,}" for count in labels]
        lines += ["", f"| {_name(metric)}, mean over seeds | {' | '.join(heads)} | labels to within 1 point of all |"]
        lines += ["|---|" + "---:|" * (len(labels) + 1)]
        for name, rows in found.items():
            if name != "all":
                means = rows[metric].mean(axis=0)
                inside = means >= top - POINT
                stays = np.logical_and.accumulate(inside[::-1])[::-1]  # a curve may fall out again
                reached = f"{labels[int(stays.argmax())]:,}" if stays.any() else "-"
                cells = [
                    f"{mean:.3f}{_against(rows, found['random'], metric, place)}" for place, mean in enumerate(means)
                ]
                lines += [f"| {name} | {' | '.join(cells)} | {reached} |"]
    lines += ["", "| propagated labels | " + " | ".join(f"{count:,}" for count in labels) + " |"]
    lines += ["|---|" + "---:|" * len(labels)]
    passed_on = [one["rows"] for one in curves if (one["data"], one["strategy"]) == (data, "propagation")]
    for key, form in (("count", "{:,.0f}"), ("accuracy", "{:.3f}"), ("mean_trust", "{:.3f}")):
        values = np.array([[row["propagated"][key] for row in rows] for rows in passed_on], dtype=float)  # None: NaN
        name = {"count": "how many", "accuracy": "share that is right", "mean_trust": "mean trust"}[key]
        lines += [f"| {name} | " + " | ".join(form.format(mean) for mean in np.nanmean(values, axis=0)) + " |"]
    return "\n".join([*lines, ""])


def draw(path: Path, data: str, found: dict[str, dict[str, Any]]) -> None:
    """One panel for each metric: means over seeds, and the range of one standard deviation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(METRICS)), METRICS, strict=True):
        for name, rows in found.items():
            mean, spread = rows[metric].mean(axis=0), rows[metric].std(axis=0, ddof=1)
            if name == "all":
                axes.axhline(mean[0], color="black", linestyle="--", linewidth=1, label="all labels")
                continue
            axes.plot(rows["labels"], mean, "o-", ms=3, color=COLOURS[name], label=name.replace("_", " "))
            axes.fill_between(rows["labels"], mean - spread, mean + spread, color=COLOURS[name], alpha=0.1, linewidth=0)
        axes.set(xlabel="labels", ylabel=f"test {_name(metric)}", title=data)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path)


def _values(curves: list[dict[str, Any]], data: str, name: str) -> dict[str, Any]:
    """Of the seeds that all strategies of the task have been run with."""
    seeds: dict[str, set[int]] = {}
    for one in curves:
        if one["data"] == data:
            seeds.setdefault(one["strategy"], set()).add(one["seed"])
    common = set.intersection(*seeds.values()) if seeds else set()
    own = [one for one in curves if (one["data"], one["strategy"]) == (data, name) and one["seed"] in common]
    rows = [one["rows"] for one in sorted(own, key=lambda one: one["seed"])]
    if not rows:
        return {}
    metrics = {metric: np.array([[row[metric] for row in one] for one in rows]) for metric in METRICS}
    return {"labels": [row["labels"] for row in rows[0]], **metrics}


def _against(rows: dict[str, Any], random: dict[str, Any], metric: str, place: int) -> str:
    """A mark where the 95 % interval (Student's t) of the difference to random, paired over seeds, leaves out 0.

    Of so many comparisons one in twenty is marked by chance alone.
    """
    from scipy.stats import t

    if rows is random:
        return ""
    gain = rows[metric][:, place] - random[metric][:, place]
    half = float(t.ppf(0.975, len(gain) - 1)) * gain.std(ddof=1) / np.sqrt(len(gain))
    return " +" if gain.mean() > half else " -" if gain.mean() < -half else ""


def _name(metric: str) -> str:
    return metric.replace("_", " ")


HEADING = """# What labels are worth, and which to ask for

Test metrics of MobileNetV1 0.25 at 128 pixels in a white box against the number of labels: frame program, linear
mapping (fitted, then learned), three epochs a round, at 5, 10, 20, 30, 45 and 60 % of a pool of 800 training images;
200 images to validate on, at most 600 to test. Means over five seeds, which choose pool, validation, order and first
labels, so that strategies are paired by seed. `+` and `-`: the 95 % interval of the difference to `random` (Student's
t, five seeds) leaves out 0; of so many comparisons one in twenty does so by chance. The last column is the smallest
number of labels from which on the mean stays within 1 point of all 800 labels (`-`: it does not by 480). With two
classes least confidence and entropy choose what `margin` chooses. Pictures: bands are one standard deviation over
seeds.

Three epochs are few steps with few labels: the curves mix the number of labels with the amount of training, as they
would for a user who does not tune each round. Made by

    REPROGRAM_ASSETS=DIR OMP_NUM_THREADS=1 python scripts/benchmark_active.py run
    python scripts/benchmark_active.py report

on {hardware}.

What it says. **Digits:** asking for what the model is least sure of is worth it: with 480 labels margin and entropy,
and with 360 least confidence, come within 1 point of all 800 (0.890), where labels drawn at random are at 0.859 with
480; 240 that least confidence asks for equal 480 drawn at random. **Pneumonia:** margin is within 1 point of all
labels (0.936) from 160 labels on, a fifth of the pool; random comes near at 240 and falls out again: its curve is not
monotone. **Skin lesions:** nothing comes within 1 point of all labels (0.627) by 480: every label still helps.
Uncertainty is ahead of random by 0.6 to 1.5 points of accuracy with 360 labels or more, and by 0.8 to 3.6 points of
balanced accuracy: it asks for fewer of the most frequent class (23 to 27 % of 360 labels, 40 % at random).

Where it does not help. With 40 labels nothing but clusters differs from random (digits, +0.045), since the others
begin at random. Clusters are no better than random after that, except on pneumonia with 480. Passing labels on hurts
on digits (-0.034 with 240 labels), where 55 to 79 % of the labels passed on are right: with 240 given, 533 are passed
on, and together weigh as much as 155. On skin lesions, where fewer than half are right until 240 labels, and on
pneumonia (84 to 92 %) it makes no difference that five seeds can tell, but for one mark. So `propagation` is no
default. Its share of right labels, which only a simulation knows, has to be found out by whoever uses it: have a
person label some of them.

![digits](active_mnist.png) ![skin lesions](active_ham10000.png) ![pneumonia](active_pneumonia.png)
"""


if __name__ == "__main__":
    main()
