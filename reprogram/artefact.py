"""The small shareable result: learned program and mapping, with all that is needed to put them to work again."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from reprogram import build, sourcing
from reprogram.checks import is_black_box
from reprogram.classifier import ReprogrammedClassifier
from reprogram.errors import RunError, SourceError
from reprogram.sources.ledger import LEDGER_FILE, OWN_RUN, Ledger
from reprogram.types import TaskSpec

SCHEMA_VERSION = 1
FOLDER = "program"


def save(classifier: ReprogrammedClassifier, cfg: build.Config, run_dir: Path) -> None:
    """Writes ``program/program.safetensors`` and ``program/program.json``; no weight of the source is in them."""
    folder = run_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    tensors = _state(classifier)
    if classifier.task.support is not None:
        tensors["task.support"] = classifier.task.support
    task = classifier.task
    record = {
        "schema_version": SCHEMA_VERSION,
        "config": {key: cfg[key] for key in (*build.CLASSIFIER_BLOCKS, "seed")},
        "source_fingerprint": classifier.source.fingerprint,
        "threshold": classifier.threshold,
        "temperature": classifier.temperature,
        "task": {
            "name": task.name,
            "class_names": task.class_names,
            "image_size": task.image_size,
            "ordinal": task.ordinal,
            "private": task.private,
            "licence": task.licence,
            "citation": task.citation,
        },
    }
    (folder / "program.tmp").write_bytes(
        save_tensors({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    )
    os.replace(folder / "program.tmp", folder / "program.safetensors")
    write_json(folder / "program.json", record)


def load(
    directory: str | Path,
    source_weights: str | Path | None = None,
    device: str = "cpu",
    encoder_weights: str | Path | None = None,
) -> ReprogrammedClassifier:
    """Loads a reprogrammed classifier.

    One behind a black box goes on counting its queries in the ledger of its run, where that lies beside the program.

    Args:
        directory: A finished run, or its ``program`` folder alone.
        source_weights: Where the source's weights lie now; ``None``: where they lay in training.
        device: ``cpu`` or ``cuda``.
        encoder_weights: Where those of a program's encoder lie now.

    Returns:
        A module in evaluation mode: target images [B, 3, h, w] in -> class probabilities [B, K_t] out. It carries
        ``class_names`` and the operating ``threshold``.

    Raises:
        RunError: If there is no such artefact, or it does not fit its own description.
        SourceError: If the source is not the one the program was trained on.
    """
    folder, record, tensors = _read(directory)
    cfg = record["config"]
    if source_weights is not None:
        _relocate(cfg["source"], "source", source_weights)
    if encoder_weights is not None:
        _relocate(cfg["program"].get("encoder", {}), "encoder", encoder_weights)
    facts = dict(record["task"])
    facts["class_names"], facts["image_size"] = tuple(facts["class_names"]), tuple(facts["image_size"])
    task = TaskSpec(**facts, support=tensors.pop("task.support", None))
    cfg.setdefault("access", {"_target_": None})  # artefacts of before there were black boxes
    device_type = torch.device(device).type
    source = sourcing.source(cfg, device_type, task)
    if source.fingerprint != record["source_fingerprint"]:
        raise SourceError(
            f"{folder}: this program was trained on a source with fingerprint {record['source_fingerprint'][:12]}, "
            f"got {source.fingerprint[:12]}; use the same weights file and normalisation"
        )
    account = _account(cfg, folder.parent) if is_black_box(cfg) else None
    classifier = build.classifier(cfg, build.accessed(cfg, source, account), task, device_type)
    classifier.threshold = record["threshold"]
    classifier.temperature = record.get("temperature", 1.0)  # artefacts of before there was one
    differing = _differing(classifier, tensors)
    if differing:
        raise RunError(f"{folder}: tensors do not fit the program; differing: {differing}")
    classifier.load_state_dict(tensors, strict=False)
    return classifier.eval().requires_grad_(False).to(device)


def start(classifier: ReprogrammedClassifier, cfg: build.Config, directory: str | Path) -> None:
    """Gives an untrained classifier the program and the mapping of an artefact, whatever source that was made for.

    What its mapping had observed, and its calibration, are left behind.

    Args:
        classifier: As ``build.classifier`` makes it.
        cfg: Its configuration.
        directory: A finished run, or its ``program`` folder alone.

    Raises:
        RunError: If there is no such artefact, or it is of another program, another kind of mapping or other classes.
    """
    folder, record, tensors = _read(directory)
    tensors.pop("task.support", None)
    names, theirs = list(classifier.class_names), list(record["task"]["class_names"])
    if names != theirs:
        raise RunError(
            f"start_from: expected a run of the classes {names}, got {theirs} in {folder}; start from one of this task"
        )
    for key in ("program", "mapping"):
        own, other = json.loads(json.dumps(cfg[key])), record["config"][key]  # as JSON keeps it
        compared = own.keys() | other.keys() if key == "program" else {"_target_"}  # a schedule may be another one
        wrong = sorted(name for name in compared if own.get(name) != other.get(name))
        if wrong:
            expected, got = (", ".join(f"{name}={str(one.get(name))[:80]}" for name in wrong) for one in (own, other))
            raise RunError(
                f"start_from: expected the {key} of this run, {expected}, got {got} in {folder}; choose the "
                f"same {key}, or start_from=null"
            )
    differing = _differing(classifier, tensors)
    if differing:
        raise RunError(
            f"start_from: expected tensors that fit program and mapping of this run, got others in {folder}; "
            f"differing: {differing}; choose the same source classes, image size and mapping, or start_from=null"
        )
    classifier.load_state_dict(tensors, strict=False)
    classifier.mapping.reset()


def _read(directory: str | Path) -> tuple[Path, dict[str, Any], dict[str, torch.Tensor]]:
    """Folder, description and tensors of an artefact.

    Raises:
        RunError: If there is none, or it cannot be read.
    """
    folder = Path(directory)
    folder = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    try:
        record: dict[str, Any] = json.loads((folder / "program.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "program.safetensors")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(
            f"{directory}: expected a finished run or its program folder, with program.json and program.safetensors"
        ) from error
    except Exception as error:  # safetensors has its own error class for damaged files
        raise RunError(f"{folder}: the artefact cannot be read: {error}") from error
    if record.get("schema_version") != SCHEMA_VERSION:
        raise RunError(f"{folder}: expected schema_version {SCHEMA_VERSION}, got {record.get('schema_version')}")
    missing = {"config", "task", "source_fingerprint", "threshold"} - record.keys()
    if missing:
        raise RunError(f"{folder}: program.json lacks {sorted(missing)}; write the artefact again")
    return folder, record, tensors


def _differing(classifier: ReprogrammedClassifier, tensors: dict[str, torch.Tensor]) -> list[str]:
    """Names of what an artefact lacks, has too much, or has in another shape."""
    expected = {key: tuple(value.shape) for key, value in _state(classifier).items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    return sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))


def _relocate(block: build.Config, what: str, file: str | Path) -> None:
    """Names another place of the weights: whatever key has it."""
    key = next((key for key in ("weights", "path", "name") if key in block), None)
    if key is None:
        raise RunError(f"{what}_weights: this result has no {what} whose weights lie in a single file")
    block[key] = str(file)


def _account(cfg: dict[str, Any], run_dir: Path) -> Ledger:
    """The ledger of the run, where it lies beside the program, without its budget: what is asked now is counted on."""
    opened = {**cfg, "access": {**cfg["access"], "query_budget": None}}
    beside = (run_dir / LEDGER_FILE).is_file() or cfg["access"]["ledger"] is not None
    return build.ledger(opened, run_dir) if beside else Ledger(None, OWN_RUN)


def write_json(path: Path, record: object) -> None:
    """Writes a JSON file that nobody ever sees half."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(draft, path)


def _state(classifier: ReprogrammedClassifier) -> dict[str, torch.Tensor]:
    """Tensors of program and mapping, by their names in the artefact."""
    parts = {"program": classifier.program, "mapping": classifier.mapping}
    states = ((f"{part}.{key}", value) for part, module in parts.items() for key, value in module.state_dict().items())
    return {key: value for key, value in states if isinstance(value, torch.Tensor)}
