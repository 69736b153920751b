"""Programs x mappings on real weights and real data, at equal epochs: which combination wins, and is that beyond noise?

    REPROGRAM_ASSETS=DIR python scripts/benchmark_catalogue.py rates --output runs/catalogue
    REPROGRAM_ASSETS=DIR python scripts/benchmark_catalogue.py run --output runs/catalogue --part 0/2
    REPROGRAM_ASSETS=DIR python scripts/benchmark_catalogue.py run --output runs/catalogue --part 1/2
    REPROGRAM_ASSETS=DIR python scripts/benchmark_catalogue.py run --output runs/catalogue --source resnet18 --best 3
    python scripts/benchmark_catalogue.py report --output runs/catalogue --results benchmarks

Each run is one ``reprogram-train`` with the overrides that are printed; finished ones are skipped, so ``run`` can be
stopped and repeated. ``rates`` comes first: it chooses each program's learning rate, on validation, with a seed of its
own. ``--best`` runs only the combinations that did best on validation with MobileNetV1.
"""

import argparse
import itertools
import json
import sys
from functools import cache
from pathlib import Path

import numpy as np

SETS = ("mnist", "ham10000", "pneumonia")
PROGRAMS = ("frame", "full", "sample_masks", "patch")
MAPPINGS = {
    "random": ["mapping=assignment", "mapping.choice=random"],
    "FLM": ["mapping=frequency", "mapping.refresh=once"],
    "ILM": ["mapping=frequency", "mapping.refresh=1"],
    "BLM": ["mapping=bayesian"],
    "BLM+": ["mapping=bayesian_plus"],
    "linear": ["mapping=linear"],
}
SEEDS = (0, 1, 2)
RATES = (0.01, 0.05)
RATE_SEED = 100
COMMON = ("protocol.max_train=600", "protocol.max_val=300", "data.batch_size=32", "trainer.max_epochs=8")
SOURCES = {"mobilenetv1": (), "resnet18": ("source.image_size=[128,128]",)}
BASELINES = ("majority", "linear_probe", "feature_probe")  # the same for every combination: computed once for each set
RESAMPLES = 2000

HEADING = """# Programs x mappings

Test balanced accuracy, the mean over {seeds} seeds (order of the batches, random mapping, start of SMM's network), with
95 % bootstrap intervals over the test examples (by lesion on HAM10000); the likeliest class is chosen. Every run: 600
training and 300 validation images, eight epochs of 32, Adam, cosine; the epoch, and whether a program is kept at all,
by balanced accuracy on validation; test scored once. Programs and mappings as their configs have them: the frame shows
the image at 3/4 of the canvas, the others on all of it. The learning rate is the program's, chosen on validation
(`rates`, with a seed of its own): {rates}. "Alone": the same
mapping with the untrained program; a star where the trained one differs from it with p < 0.05. ResNet-18 sees 128
pixels too, and the three pairs that did best with MobileNetV1 on validation. Made by

{commands}

on {hardware}, one thread a process. The JSON holds every run.

"""


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("rates", "run", "report"))
    parser.add_argument("--source", choices=SOURCES, default="mobilenetv1")
    parser.add_argument("--best", type=int, help="only so many combinations: those best on validation with MobileNetV1")
    parser.add_argument("--part", default="0/1", help="I/N: every N-th run, from the I-th on")
    parser.add_argument("--output", type=Path, default=Path("runs/catalogue"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks"))
    arguments = parser.parse_args()
    if arguments.action == "report":
        return report(arguments.output, arguments.results)
    part, parts = map(int, arguments.part.split("/"))
    if arguments.action == "rates":
        jobs = [
            (arguments.source, name, program, "ILM", RATE_SEED, rate)
            for name, program, rate in itertools.product(SETS, PROGRAMS, RATES)
        ]
    else:
        rates = chosen_rates(arguments.output)
        pairs = list(itertools.product(PROGRAMS, MAPPINGS))
        if arguments.best is not None:
            pairs = by_validation(arguments.output)[: arguments.best]
        jobs = [
            (arguments.source, name, program, mapping, seed, rates[program])
            for seed, name, (program, mapping) in itertools.product(SEEDS, SETS, pairs)
        ]
    for job in jobs[part::parts]:
        run(arguments.output, *job)


def folder(output: Path, source: str, name: str, program: str, mapping: str, seed: int, rate: float) -> Path:
    """Where a run's records go."""
    return output / f"{source}-{name}-{program}-{mapping}-{seed}-{rate}"


def run(output: Path, source: str, name: str, program: str, mapping: str, seed: int, rate: float) -> None:
    """Trains one combination, unless it has been done."""
    from hydra import compose, initialize_config_dir

    from reprogram.commands.launch import config_folder
    from reprogram.runs import train

    run_dir = folder(output, source, name, program, mapping, seed, rate)
    if (run_dir / "metrics.json").is_file():
        return
    first = (program, mapping, seed) == ("full", "linear", 0)
    baselines = ["mapping_only", *(BASELINES if first else ())]
    overrides = [
        *(f"experiment=white_box/{name}_{source}", f"program={program}", *MAPPINGS[mapping], *COMMON),
        *(*SOURCES[source], f"optimizer.lr={rate}", f"seed={seed}", f"evaluation.baselines=[{','.join(baselines)}]"),
    ]
    print(run_dir.name, " ".join(overrides), flush=True)
    quiet = ["trainer.enable_progress_bar=false", "logger=none", "evaluation.num_resamples=100"]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("train", [*overrides, *quiet, f"run_dir={run_dir}"])
    train(cfg)


def metrics(path: Path) -> dict:
    """The record of a finished run."""
    return json.loads((path / "metrics.json").read_text())


def predictions(path: Path, split: str, baseline: str | None = None):
    """Of a finished run, or of one of its baselines."""
    from reprogram.evaluation.predictions import read_csv

    file = "predictions.csv" if baseline is None else f"predictions_{baseline}.csv"
    return next(part for part in read_csv(path / file)[0] if part.split == split)


def recalls(found, right: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """Of each class, for each row of weights; ``right``: how far each example is classified as it should be."""
    rows = [found.targets == label for label in np.unique(found.targets)]
    return [weights[:, own] @ right[own] / weights[:, own].sum(axis=1) for own in rows]


@cache
def validated(path: Path) -> float:
    """Balanced accuracy on validation."""
    found = predictions(path, "val")
    right = found.scores.argmax(axis=1) == found.targets
    return float(np.mean(recalls(found, right, np.ones((1, len(right))))))


def chosen_rates(output: Path) -> dict[str, float]:
    """The learning rate of each program: the best mean over the sets, on validation."""
    means = {
        (program, rate): np.mean(
            [validated(folder(output, "mobilenetv1", name, program, "ILM", RATE_SEED, rate)) for name in SETS]
        )
        for program, rate in itertools.product(PROGRAMS, RATES)
    }
    return {program: max(RATES, key=lambda rate, p=program: means[p, rate]) for program in PROGRAMS}


def runs_of(output: Path, source: str, name: str, program: str, mapping: str) -> list[Path]:
    """The finished runs of a combination, one for each seed."""
    rate = chosen_rates(output)[program]
    found = [folder(output, source, name, program, mapping, seed, rate) for seed in SEEDS]
    return [path for path in found if (path / "metrics.json").is_file()]


def by_validation(output: Path, source: str = "mobilenetv1") -> list[tuple[str, str]]:
    """Pairs of a program and a mapping, the best mean balanced accuracy on validation first."""
    means = {}
    for pair in itertools.product(PROGRAMS, MAPPINGS):
        values = [[validated(path) for path in runs_of(output, source, name, *pair)] for name in SETS]
        if all(values):
            means[pair] = float(np.mean([np.mean(part) for part in values]))
    return sorted(means, key=means.__getitem__, reverse=True)


class Scored:
    """Right answers of a group of runs on the same test rows, resampled alike for all groups."""

    def __init__(self, paths: list[Path], baseline: str | None = None) -> None:
        from reprogram.evaluation.intervals import resample_weights

        found = [predictions(path, "test", baseline) for path in paths]
        first = found[0]
        assert all(part.ids == first.ids for part in found)
        weights = np.concatenate(list(resample_weights(first, RESAMPLES, seed=0)))
        weights = np.concatenate([np.ones((1, weights.shape[1])), weights])  # the first: all rows once
        right = np.mean([part.scores.argmax(axis=1) == part.targets for part in found], axis=0)
        self.accuracy = weights @ right / weights.sum(axis=1)
        self.balanced = np.mean(recalls(first, right, weights), axis=0)


def interval(values: np.ndarray) -> dict[str, float]:
    """Of a statistic: all rows first, then the resamples."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def difference(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Paired, with the two-sided p-value of the bootstrap."""
    gain = one - other
    p_value = min(1.0, 2 * max(min((gain[1:] <= 0).mean(), (gain[1:] >= 0).mean()), 1 / RESAMPLES))
    return {**interval(gain), "p_value": float(p_value)}


def report(output: Path, results: Path) -> None:
    """Writes ``catalogue.json`` and ``catalogue.md`` from all finished runs."""
    record: dict = {"rates": chosen_rates(output), "sources": {}}
    text = ""
    for source in SOURCES:
        order = by_validation(output, source)
        if not order:
            continue
        scored = {(name, pair): Scored(runs_of(output, source, name, *pair)) for name in SETS for pair in order}
        alone = {
            (name, pair): Scored(runs_of(output, source, name, *pair), "mapping_only")
            for name in SETS
            for pair in order
        }
        record["sources"][source] = described(output, source, order, scored, alone)
        text += f"## {source}\n\n" + tables(record["sources"][source], order)
    one = runs_of(output, "mobilenetv1", SETS[0], "full", "linear")[0]
    record["environment"] = {key: value for key, value in metrics(one)["environment"].items() if key != "command"}
    record["commands"] = [line.strip() for line in (__doc__ or "").splitlines() if line.startswith("    ")]
    heading = HEADING.format(
        seeds=len(SEEDS),
        rates=", ".join(f"{program} {rate}" for program, rate in record["rates"].items()),
        commands="\n".join(f"    {line}" for line in record["commands"]),
        hardware=record["environment"]["device"],
    )
    results.mkdir(exist_ok=True)
    (results / "catalogue.json").write_text(json.dumps(record, indent=1) + "\n")
    (results / "catalogue.md").write_text(heading + text)
    sys.stdout.write(text)


def described(output: Path, source: str, order: list, scored: dict, alone: dict) -> dict:
    """Everything that the tables, and the JSON, say of one source."""
    winner = order[0]
    found: dict = {"order_by_validation": [" x ".join(pair) for pair in order], "sets": {}}
    for name in SETS:
        first = folder(output, source, name, "full", "linear", 0, chosen_rates(output)["full"])
        entry: dict = {"pairs": {}, "baselines": {}}
        for pair in order:
            paths = runs_of(output, source, name, *pair)
            records = [metrics(path) for path in paths]
            entry["pairs"][" x ".join(pair)] = {
                "runs": [path.name for path in paths],
                "commit": sorted({str(record["environment"].get("commit")) for record in records}),
                "balanced_accuracy": interval(scored[name, pair].balanced),
                "accuracy": interval(scored[name, pair].accuracy),
                "auroc": float(np.mean([record["test"]["auroc"]["value"] for record in records])),
                "balanced_accuracy_per_seed": [float(Scored([path]).balanced[0]) for path in paths],
                "val_balanced_accuracy": float(np.mean([validated(path) for path in paths])),
                "mapping_only": interval(alone[name, pair].balanced),
                "over_mapping_only": difference(scored[name, pair].balanced, alone[name, pair].balanced),
                "winner_over_this": difference(scored[name, winner].balanced, scored[name, pair].balanced),
                "program_kept": sum(record["best_epoch"] >= 0 for record in records),
                "dimension": records[0]["dimension"],
                "train_s": [record["timing"]["train_s"] for record in records],
            }
        for baseline in BASELINES:
            if (first / f"predictions_{baseline}.csv").is_file():
                entry["baselines"][baseline] = interval(Scored([first], baseline).balanced)
        found["sets"][name] = entry
    means = {pair: np.mean([scored[name, pair].balanced for name in SETS], axis=0) for pair in order}
    found["mean_over_sets"] = {
        " x ".join(pair): {**interval(means[pair]), "winner_over_this": difference(means[winner], means[pair])}
        for pair in order
    }
    return found


def tables(found: dict, order: list) -> str:
    """One table a set, programs down and mappings across, and the mean over the sets."""
    text = ""
    for name, entry in found["sets"].items():
        text += f"### {name}\n\n"
        baselines = ", ".join(f"{key} {cell(value)}" for key, value in entry["baselines"].items())
        text += f"Baselines: {baselines}.\n\n" if baselines else ""
        text += grid(entry["pairs"], order, lambda value: f"{cell(value['balanced_accuracy'])}, alone {alone(value)}")
    text += "### Mean over the sets\n\n"
    text += grid(found["mean_over_sets"], order, cell)
    winner = found["order_by_validation"][0]
    text += f"Best on validation: **{winner}**. Its gain over the others, mean over the sets, on test:\n\n"
    lines = [["over", "gain", "p"], ["---", "---", "---:"]]
    for key, value in found["mean_over_sets"].items():
        if key != winner:
            gain = value["winner_over_this"]
            lines.append([key, cell(gain, "+"), f"{gain['p_value']:.3f}"])
    return text + table(lines)


def grid(values: dict, order: list, show) -> str:
    """Programs down, mappings across."""
    programs = [program for program in PROGRAMS if any(pair[0] == program for pair in order)]
    mappings = [mapping for mapping in MAPPINGS if any(pair[1] == mapping for pair in order)]
    lines = [["", *mappings], ["---"] * (1 + len(mappings))]
    for program in programs:
        row = [f"{program} x {mapping}" for mapping in mappings]
        lines.append([program, *(show(values[key]) if key in values else "" for key in row)])
    return table(lines)


def table(lines: list[list[str]]) -> str:
    """Markdown."""
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def cell(found: dict, sign: str = "") -> str:
    """A value with its interval."""
    return f"{found['value']:{sign}.3f} [{found['low']:{sign}.2f}, {found['high']:{sign}.2f}]"


def alone(value: dict) -> str:
    """The untrained program, and whether the trained one differs beyond noise."""
    return f"{value['mapping_only']['value']:.3f}{'*' if value['over_mapping_only']['p_value'] < 0.05 else ''}"


if __name__ == "__main__":
    main()
