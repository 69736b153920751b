"""White-box reprogramming on real weights and real data: programs with three label mappings beside their baselines.

    REPROGRAM_ASSETS=DIR python scripts/benchmark_white_box.py run --source resnet18 --output runs/benchmark
    python scripts/benchmark_white_box.py report --output runs/benchmark --results benchmarks

Finished runs are skipped, so ``run`` can be stopped and repeated. Each run is one ``reprogram-train`` of
``experiment=white_box/<set>_<source>`` with the overrides that are printed and kept in the results.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np

SETS = ("mnist", "ham10000", "retina", "pneumonia")
MAPPINGS = {
    "FLM": ["mapping=frequency", "mapping.refresh=once"],
    "ILM": ["mapping=frequency", "mapping.refresh=1"],
    "linear": ["mapping=linear"],
}
SEEDS = (0, 1, 2)
COMMON = ["data.batch_size=16", "protocol.max_val=120", "trainer.max_epochs=5"]
SOURCES = {  # sizes that one core without matrix units can train in minutes
    "resnet18": ["source.image_size=[128,128]", "protocol.max_train=320"],
    "mobilenetv2": ["source.image_size=[128,128]", "protocol.max_train=320"],
    "mobilenetv1": ["protocol.max_train=1500"],
}
MODELS = ("reprogrammed", "mapping_only", "linear_probe", "majority")
METRICS = ("accuracy", "balanced_accuracy", "auroc")
RESAMPLES = 1000

HEADING = """# White-box reprogramming on real weights and real data

Test accuracy, mean over the seeds, with 95 % bootstrap intervals over the test rows; "over mapping only" is the paired
difference and its two-sided p-value (0.002 is the smallest that 1,000 resamples can show). The epoch, and whether the
mapping is fitted once more at the end, are chosen on validation (120 images); test is scored once. Made by

    REPROGRAM_ASSETS=DIR OMP_NUM_THREADS=1 python scripts/benchmark_white_box.py run --source resnet18
    python scripts/benchmark_white_box.py report

on two cores without matrix units (AVX2, float32), several processes side by side, so the seconds (training, with
loading) are an upper bound. ResNet-18 and MobileNetV2 see a 128-pixel canvas and 320 training images (100 steps of 16),
MobileNetV1 0.25 its own 128 pixels and 1,500 images; five epochs, frame program, image at 3/4 of the canvas.
"Mapping only" is the same mapping fitted with the untrained frame, the linear probe sees the plain image on the whole
canvas. Exact overrides of each row: `white_box.json`.

"""


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "report"))
    parser.add_argument("--source", choices=SOURCES, action="append")
    parser.add_argument("--set", choices=SETS, action="append")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark_white_box"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks"))
    arguments = parser.parse_args()
    if arguments.action == "run":
        for seed in SEEDS:
            for name in arguments.set or SETS:
                for mapping in MAPPINGS:
                    for source in arguments.source or SOURCES:
                        run(arguments.output, source, name, mapping, seed)
    else:
        report(arguments.output, arguments.results)


def run(output: Path, source: str, name: str, mapping: str, seed: int) -> None:
    """Trains one combination, unless it has been done."""
    from hydra import compose, initialize_config_dir

    from reprogram.commands.launch import config_folder
    from reprogram.runs import train

    run_dir = output / f"{source}-{name}-{mapping}-{seed}"
    if (run_dir / "metrics.json").is_file():
        return
    # the baselines do not depend on the seed: only the order of the batches does
    baselines = "[majority,mapping_only,linear_probe]" if seed == 0 else "[]"
    overrides = [
        f"experiment=white_box/{name}_{source}",
        *MAPPINGS[mapping],
        *COMMON,
        *SOURCES[source],
        f"seed={seed}",
        f"evaluation.baselines={baselines}",
    ]
    print(run_dir.name, " ".join(overrides), flush=True)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("train", [*overrides, f"run_dir={run_dir}", "trainer.enable_progress_bar=false", "logger=none"])
    train(cfg)
    (run_dir / "overrides.json").write_text(json.dumps(overrides))


def report(output: Path, results: Path) -> None:
    """Writes ``white_box.json`` and ``white_box.md`` from all finished runs."""
    rows = []
    for source in SOURCES:
        for name in SETS:
            for mapping in MAPPINGS:
                runs = [output / f"{source}-{name}-{mapping}-{seed}" for seed in SEEDS]
                runs = [path for path in runs if (path / "overrides.json").is_file()]
                if runs and runs[0].name.endswith("-0"):
                    rows.append(_row(source, name, mapping, runs))
    results.mkdir(exist_ok=True)
    environment = json.loads((runs_of(output)[0] / "metrics.json").read_text())["environment"]
    environment.pop("command")
    record = {
        "command": "python scripts/benchmark_white_box.py run (one process per source)",
        "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
        "environment": environment,
        "rows": rows,
    }
    (results / "white_box.json").write_text(json.dumps(record, indent=1) + "\n")
    (results / "white_box.md").write_text(HEADING + _markdown(rows))
    print(_markdown(rows))


def runs_of(output: Path) -> list[Path]:
    """All finished runs."""
    return sorted(path.parent for path in output.glob("*/overrides.json"))


def _row(source: str, name: str, mapping: str, runs: list[Path]) -> dict:
    """One combination: the mean over seeds, with bootstrap intervals over the test rows (paired for differences)."""
    from reprogram.evaluation.intervals import resample_weights
    from reprogram.evaluation.metrics import evaluate
    from reprogram.evaluation.predictions import read_csv

    def test(path: Path):
        return next(found for found in read_csv(path)[0] if found.split == "test")

    models = {"reprogrammed": [test(path / "predictions.csv") for path in runs]}
    for baseline in ("majority", "mapping_only", "linear_probe"):
        models[baseline] = [test(runs[0] / f"predictions_{baseline}.csv")]
    reference = models["reprogrammed"][0]
    assert all(found.ids == reference.ids for group in models.values() for found in group)
    weights = np.concatenate(list(resample_weights(reference, RESAMPLES, seed=0)))
    weights = np.concatenate([np.ones((1, weights.shape[1])), weights])  # first row: the point estimate

    values = {}
    for model, found in models.items():
        scored = [evaluate(reference.targets, one.scores, weights, ordinal=False) for one in found]
        values[model] = {metric: np.mean([one[metric] for one in scored], axis=0) for metric in METRICS}
        values[model]["per_seed"] = [float(one["accuracy"][0]) for one in scored]
    row = {
        "source": source,
        "set": name,
        "mapping": mapping,
        "seeds": len(runs),
        "test_examples": len(reference.ids),
        "overrides": json.loads((runs[0] / "overrides.json").read_text()),
        "accuracy_per_seed": values["reprogrammed"]["per_seed"],
        "train_s": [json.loads((path / "metrics.json").read_text())["timing"]["train_s"] for path in runs],
        "test": {model: {metric: _interval(found[metric]) for metric in METRICS} for model, found in values.items()},
    }
    for baseline in ("mapping_only", "linear_probe"):
        difference = values["reprogrammed"]["accuracy"] - values[baseline]["accuracy"]
        below = (difference[1:] <= 0).mean()
        row[f"accuracy_over_{baseline}"] = {
            **_interval(difference),
            "p_value": float(min(1.0, 2 * max(min(below, 1 - below), 1 / RESAMPLES))),
        }
    return row


def _interval(values: np.ndarray) -> dict:
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def _markdown(rows: list[dict]) -> str:
    head = ["source", "set", "mapping", "seeds", "reprogrammed", "mapping only", "linear probe", "majority"]
    head += ["over mapping only", "balanced", "AUROC", "train s"]
    lines = [head, ["---"] * 4 + ["---:"] * (len(head) - 4)]
    for row in rows:
        test = row["test"]
        gain = row["accuracy_over_mapping_only"]
        lines.append(
            [
                row["source"],
                row["set"],
                row["mapping"],
                str(row["seeds"]),
                *(_cell(test[model]["accuracy"]) for model in MODELS),
                f"{_cell(gain, sign='+')} p={gain['p_value']:.3f}",
                f"{test['reprogrammed']['balanced_accuracy']['value']:.3f}",
                f"{test['reprogrammed']['auroc']['value']:.3f}",
                f"{np.mean(row['train_s']):.0f}",
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(found: dict, sign: str = "") -> str:
    return f"{found['value']:{sign}.3f} [{found['low']:{sign}.2f}, {found['high']:{sign}.2f}]"


if __name__ == "__main__":
    main()
