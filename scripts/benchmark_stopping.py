"""When should the default black-box recipe stop, and when should it keep its program? Settled on training images alone.

    REPROGRAM_ASSETS=DIR OMP_NUM_THREADS=1 python scripts/benchmark_stopping.py run
    python scripts/benchmark_stopping.py report

The training split of each task is divided anew, three times: a validation split as large as the task's own, a fifth as
a stand-in for the test split, the rest to train on. The recipe then trains to the end of its budget, and every program
that it validates is scored on the stand-in too, outside its account. ``report`` replays what each pair of
``callbacks.confidence`` and ``callbacks.patience`` would have stopped at and kept. The real validation and test splits
are never read. Finished runs are skipped; several processes share the work.
"""

import argparse
import fcntl
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

FILES = {
    "mnist": "mnist_t10k_dev.npz",
    "ham10000": "ham10000_64.npz",
    "retina": "retinamnist.npz",
    "abide": "abide1_cc200_corr.npz",
}
SEEDS = range(3)
QUERIES = 80_000
CONFIDENCES, PATIENCES = (0.5, 0.7, 0.8, 0.9, 0.95), (1, 2, 3, None)
METRICS = ("nll", "balanced_accuracy")
Row = dict[str, float]


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "report"))
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark_stopping"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/stopping.md"))
    arguments = parser.parse_args()
    if arguments.action == "report":
        return report(arguments.output, arguments.results)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for seed, task in itertools.product(SEEDS, FILES):
        with (arguments.output / f"{task}-{seed}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # another process is at it
            run(task, seed, arguments.output)


def run(task: str, seed: int, output: Path) -> None:
    """Trains on a part of the training split, unless it has been done."""
    from hydra import compose, initialize_config_dir

    from reprogram import build
    from reprogram.commands.launch import config_folder
    from reprogram.runs import train

    result = output / f"{task}-{seed}.json"
    if result.is_file():
        return
    inner, fractions = training_split(task, output)
    overrides = [f"experiment=black_box/{task}_mobilenetv1", f"seed={seed}", f"protocol.seed={seed}"]
    overrides += [
        "data=npz",
        f"data.name={task}",
        f"data.ordinal={str(task == 'retina').lower()}",
        f"data.path={inner}",
        *(f"protocol.{key}={value}" for key, value in fractions.items()),
    ]
    overrides += ["callbacks.confidence=null", "callbacks.patience=null", "evaluation.baselines=[]", "logger=none"]
    overrides += ["trainer.enable_progress_bar=false", f"run_dir={output / f'{task}-{seed}'}"]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = build.plain(compose("train", overrides))
    data = build.task_data(cfg)
    val, test = len(data.splits["val"]), len(data.splits["test"])
    cfg["access"]["query_budget"] = QUERIES + val * cfg["access"]["validations"] + test
    watch, made = StandIn(data, cfg["data"]["batch_size"]), build.callbacks
    build.callbacks = lambda *arguments: [*made(*arguments), watch]  # the last: after the candidate without a program
    try:
        trained = train(cfg)
    finally:
        build.callbacks = made
    assert trained is not None
    history = [{**row, **found} for row, found in zip(trained.metrics["history"], watch.found, strict=True)]
    commit = trained.metrics["environment"]["commit"]
    result.write_text(json.dumps({"task": task, "seed": seed, "commit": commit, "history": history}) + "\n")


class StandIn(pl.Callback):
    """Scores what has just been validated again, and the stand-in for the test split: uncounted, as no run could."""

    def __init__(self, data: Any, batch_size: int) -> None:
        self.data, self.batch_size = data, batch_size
        self.found: list[Row] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """The mapping alone."""
        self.on_validation_end(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """The program of the moment."""
        from reprogram.classifier import ReprogrammedClassifier
        from reprogram.evaluation.intervals import paired_difference
        from reprogram.evaluation.metrics import point_metrics
        from reprogram.evaluation.scoring import score

        seen, device = pl_module.classifier, pl_module.device
        uncounted = ReprogrammedClassifier(seen.program, seen.source.source, seen.mapping, seen.task)
        val, test = (
            score(uncounted, self.data.splits[name], name, self.batch_size, device) for name in ("val", "test")
        )
        if not self.found:
            self.alone = val
        gain = paired_difference(self.alone, val, "nll")
        metrics = point_metrics(test, False)
        self.found.append(
            {"gain": gain["value"], "p_value": gain["p_value"]}
            | {f"stand_in/{name}": metrics[name] for name in METRICS}
        )


def training_split(task: str, output: Path) -> tuple[Path, dict[str, float]]:
    """The rows of the training split as a file of their own, and the parts of it to be held out."""
    path = output / f"{task}.npz"
    with np.load(Path(os.environ["REPROGRAM_ASSETS"]) / "data" / FILES[task]) as file:
        arrays = dict(file)
    if "train_images" in arrays:
        val = len(arrays["val_images"])
        rows = {"images": arrays["train_images"], "labels": arrays["train_labels"]}
    else:
        split = arrays.pop("split").astype(str)
        val, taken = int((split == "val").sum()), split == "train"
        rows = {
            key: array[taken] if len(array.shape) and len(array) == len(split) else array
            for key, array in arrays.items()
        }
    if not path.is_file():
        np.savez(path.with_suffix(f".{os.getpid()}.npz"), **rows)
        path.with_suffix(f".{os.getpid()}.npz").rename(path)
    return path, {"val_fraction": round(val / len(rows["labels"]), 4), "test_fraction": 0.2}


def replay(history: list[Row], confidence: float, patience: int | None) -> Row:
    """The row that a run with this rule would have ended with, and the queries it would have spent."""
    best, waited = history[0], 0
    for row in history[1:]:
        waited = 0 if row["val/nll"] < best["val/nll"] else waited + 1
        best = min(best, row, key=lambda one: one["val/nll"])
        if waited == patience:
            break
    sure = best["gain"] > 0 and best["p_value"] / 2 <= 1 - confidence
    return {**(best if sure else history[0]), "spent": row["queries"]}


def report(output: Path, results: Path) -> None:
    """Writes one row a rule."""
    runs = [json.loads(path.read_text()) for path in sorted(output.glob("*.json"))]
    results.with_suffix(".json").write_text(json.dumps(runs) + "\n")
    lines = [["confidence", "patience", *FILES, "mean"]]
    lines.append(["---:"] * len(lines[0]))
    for confidence, patience in itertools.product(CONFIDENCES, PATIENCES):
        means = []
        for task in FILES:
            histories = [run["history"] for run in runs if run["task"] == task]
            ends = [replay(history, confidence, patience) for history in histories]
            gains = [
                [end[f"stand_in/{name}"] - history[0][f"stand_in/{name}"] for name in METRICS]
                for end, history in zip(ends, histories, strict=True)
            ]
            kept = np.mean([end["step"] > 0 for end in ends])
            means.append([*np.mean(gains, axis=0), kept, np.mean([end["spent"] for end in ends])])
        means.append(np.mean(means, axis=0).tolist())
        cells = [f"{nll:+.4f}, {accuracy:+.4f}, {kept:.0%}, {spent:,.0f}" for nll, accuracy, kept, spent in means]
        lines.append([f"{confidence:.0%}", str(patience or "never"), *cells])
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    results.write_text(HEADING + table)
    print(table)


HEADING = """# When the default black-box recipe stops, and when it keeps its program

Settled on training images alone: the training split of each task divided anew, three times, into as many validation
images as the task has, a fifth as a stand-in for the test split, and the rest to train on. 80,000 queries for training
and mapping. Each cell: what the rule changes on the stand-in against the mapping alone - nll (lower is better),
balanced accuracy - how often it keeps the program, and the queries that it spends. Mean over three divisions. Made by

    REPROGRAM_ASSETS=DIR OMP_NUM_THREADS=1 python scripts/benchmark_stopping.py run
    python scripts/benchmark_stopping.py report

`recipe=black_box` takes the lowest nll of the last column: a confidence of 80 %. Patience 1 and 2 are equal there; 2 is
the better one in the rows above. That is little to go by - at 80 % two programs of twelve are kept - but it is clear
that a program must not be kept for any gain on some hundred validation images.

"""

if __name__ == "__main__":
    main()
