"""Medical evaluation: diabetic retinopathy, autism, skin lesions, white box and black box, beside all baselines.

    REPROGRAM_ASSETS=DIR python scripts/benchmark_medical.py --output runs/medical --results benchmarks --workers 2

Each run is one ``reprogram-train``, whose command is printed; finished ones are skipped, so it can be stopped and
repeated. At the end ``reprogram-report`` writes the page and the table.
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

DATA = {"ham10000": "ham10000_64", "retina": "retinamnist", "abide": "abide1_cc200_corr"}
RESNET50 = "source.weights=${oc.env:REPROGRAM_ASSETS}/weights/noncommercial/resnet50_ktb.torchvision.safetensors"
LOCAL = (  # a black box's user could have this one at home; it is 50 times cheaper
    "source@evaluation.local_source=module",
    "evaluation.local_source.target=timm.models.efficientnet._gen_mobilenet_v1",
    "++evaluation.local_source.kwargs={variant: mobilenetv1_100, channel_multiplier: 0.25, pad_type: same}",
    "evaluation.local_source.name=mobilenetv1_025",
    "evaluation.local_source.image_size=[128,128]",
    "evaluation.local_source.mean=[0.5,0.5,0.5]",
    "evaluation.local_source.std=[0.5,0.5,0.5]",
    "evaluation.local_source.weights=${oc.env:REPROGRAM_ASSETS}/weights/mobilenetv1_025_128.timm.safetensors",
)
WHITE = "evaluation.baselines=[majority,raw_linear,mapping_only,linear_probe,feature_probe{}]"
BLACK = "evaluation.baselines=[majority,raw_linear,mapping_only,linear_probe,local_probe]"
FOLDS, SITES = range(10), range(20)


def jobs(seeds: int) -> dict[str, list[str]]:
    """Overrides of every run, by the name of its folder."""
    found: dict[str, list[str]] = {}
    last: dict[str, list[str]] = {}
    for task, file in DATA.items():
        common = [f"data.path=${{oc.env:REPROGRAM_ASSETS}}/data/{file}.npz", RESNET50, *LOCAL, "protocol=fixed"]
        common += ["data.size=28"] if task == "retina" else []
        for seed in range(seeds):
            baselines = WHITE.format(",local_probe,fine_tuning" if seed == 0 else "")
            found[f"{task}_resnet50_white_{seed}"] = [
                *(f"experiment=white_box/{task}_resnet50", *common, f"seed={seed}", baselines),
            ]
        twin = [f"experiment=black_box/{task}_resnet50", *common, BLACK, "access.query_budget=20000"]
        found[f"{task}_resnet50_black"] = [*twin, "recipe=black_box"]
        last[f"{task}_resnet50_bar"] = twin
    protocols = {
        "fold": [["protocol=kfold", f"protocol.fold={fold}"] for fold in FOLDS],
        "site": [["protocol=leave_one_out", f"protocol.index={site}"] for site in SITES],
    }
    for access, baselines in (("white", WHITE.format("")), ("black", BLACK)):
        for protocol, choices in protocols.items():
            for number, choice in enumerate(choices):
                bound = "access.query_budget=20000" if access == "black" else "trainer.max_epochs=10"
                found[f"abide_mobilenetv1_{access}_{protocol}_{number}"] = [
                    *(f"experiment={access}_box/abide_mobilenetv1", *choice, *LOCAL, baselines, bound),
                ]
    return {**found, **last}


def run(output: Path, threads: int, name: str, overrides: list[str]) -> None:
    """Trains one, unless it has been done; what it says goes to a file beside it."""
    folder = output / name
    if (folder / "metrics.json").is_file():
        return
    started = time.monotonic()
    words = [*overrides, f"run_dir={folder}", "trainer.enable_progress_bar=false"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    with (output / f"{name}.log").open("w") as log:
        command = [sys.executable, "-m", "reprogram.commands.train", *words]
        code = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode
    print(f"{name}: {'done' if code == 0 else f'FAILED ({code})'} in {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/medical"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/medical"))
    parser.add_argument("--workers", type=int, default=1, help="runs side by side")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--seeds", type=int, default=1, help="of the white-box runs of ResNet-50")
    parser.add_argument("--only", default="", help="runs whose name contains this")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    chosen = {name: overrides for name, overrides in jobs(arguments.seeds).items() if arguments.only in name}
    for name, overrides in chosen.items():
        print(name, *overrides, flush=True)
    with ThreadPoolExecutor(arguments.workers) as pool:
        list(pool.map(partial(run, arguments.output, arguments.threads), chosen, chosen.values()))
    report = [f"runs={arguments.output}/*", f"output={arguments.results}"]
    subprocess.run([sys.executable, "-m", "reprogram.commands.report", *report], check=True)


if __name__ == "__main__":
    main()
