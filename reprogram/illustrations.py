"""The four pictures of a run: program, composed examples, learning curves, confusion matrix."""

from pathlib import Path

import numpy as np
import torch

from reprogram.classifier import ReprogrammedClassifier
from reprogram.data.base import TaskData
from reprogram.data.loader import to_float
from reprogram.evaluation.predictions import Predictions

NUM_EXAMPLES = 8
SHOWN = ("train/loss", "train/accuracy", "val/nll", "val/accuracy", "val/balanced_accuracy", "val/auroc")


@torch.inference_mode()
def illustrate(
    classifier: ReprogrammedClassifier,
    data: TaskData,
    test: Predictions,
    history: list[dict[str, float]],
    best: dict[str, float],
    folder: Path,
    device: torch.device,
) -> list[Path]:
    """Draws all pictures into the run directory and returns their paths.

    ``examples.png`` shows target data: it stays in the run directory, whatever ``private`` says.
    """
    from reprogram.evaluation import pictures

    task, source = data.spec, classifier.source.spec
    paths = [folder / f"{name}.png" for name in ("program", "examples", "curves", "confusion")]
    blank = torch.full((1, 3, *task.image_size), 0.5, device=device)
    canvas = classifier.compose(blank)[0].cpu().numpy()
    placement = classifier.program.placement
    box = placement.box if placement.size != placement.canvas else None
    pictures.draw_program(paths[0], canvas, box, f"Program: {task.name} on {source.name}")

    with classifier.source.asked_for("test"):
        _draw_examples(paths[1], classifier, data, test, device)
    measure = "queries" if "queries" in best else "epoch"
    curves = [
        {key: row[key] for key in (measure, *SHOWN) if key in row} for row in history
    ]  # more would hide each other
    pictures.draw_curves(paths[2], curves, best[measure], measure)
    pictures.draw_confusion(paths[3], test, task.class_names, f"Test split of {task.name}", classifier.threshold)
    return paths


def _draw_examples(
    path: Path, classifier: ReprogrammedClassifier, data: TaskData, test: Predictions, device: torch.device
) -> None:
    """A test image of each class as the source sees it, and what it takes it for."""
    from reprogram.evaluation import pictures

    task, source = data.spec, classifier.source.spec
    rows = _one_of_each(test.targets, NUM_EXAMPLES)
    images = to_float(data.splits["test"].images[torch.from_numpy(rows)].to(device))
    canvases = classifier.compose(images)
    log_probs = classifier.source(canvases)
    top = log_probs.max(dim=1)
    decided = classifier.decide(classifier.probabilities(classifier.mapping(log_probs))).tolist()
    assignment = getattr(classifier.mapping, "assignment", None)
    owner = (
        {int(s): task.class_names[t] for t, row in enumerate(assignment.tolist()) for s in row}
        if assignment is not None
        else None
    )
    pictures.draw_examples(
        path,
        canvases.cpu().numpy(),
        [task.class_names[target] for target in test.targets[rows]],
        [task.class_names[index] for index in decided],
        [source.class_names[index] for index in top.indices.tolist()],
        top.values.exp().tolist(),
        None if owner is None else [owner.get(index, "none") for index in top.indices.tolist()],
        f"Test examples as {source.name} sees them: {task.name}",
    )


def label_map(classifier: ReprogrammedClassifier, top: int = 5) -> list[tuple[str, str, float]]:
    """Rows (target class, source class, weight): the assigned source classes, or those with the largest weights."""
    mapping, source, task = classifier.mapping, classifier.source.spec, classifier.task
    assignment, weight = getattr(mapping, "assignment", None), getattr(mapping, "weight", None)
    rows: list[tuple[str, str, float]] = []
    for index, name in enumerate(task.class_names):
        if assignment is not None:
            sources = assignment[index].tolist()
            logits = getattr(getattr(mapping, "weighting", None), "logits", None)
            weights = [1.0 / len(sources)] * len(sources) if logits is None else logits[index].softmax(0).tolist()
            rows += [(name, source.class_names[s], value) for s, value in zip(sources, weights, strict=True)]
        elif weight is not None:
            values, indices = weight[index].topk(min(top, weight.shape[1]))
            pairs = zip(indices.tolist(), values.tolist(), strict=True)
            rows += [(name, source.class_names[s], value) for s, value in pairs]
    return rows


def _one_of_each(targets: np.ndarray, count: int) -> np.ndarray:
    """Rows of up to ``count`` examples, classes in turn."""
    per_class = [np.flatnonzero(targets == label) for label in np.unique(targets)]
    turns = [rows[turn] for turn in range(count) for rows in per_class if turn < len(rows)]
    return np.sort(np.array(turns[:count]))
