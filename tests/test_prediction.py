"""Image files in, a table out; and which source class speaks for which target class."""

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from reprogram import artefact, build, sourcing
from reprogram.classifier import ReprogrammedClassifier
from reprogram.errors import ConfigError, DataError, RunError
from reprogram.illustrations import label_map
from reprogram.prediction import find_images, predict
from reprogram.types import TaskSpec

CFG: dict[str, Any] = {
    "source": {"_target_": "reprogram.sources.embedded.embedded_source", "prepare": False, "precision": "float32"},
    "access": {"_target_": None},
    "program": {"_target_": "reprogram.programs.frame.FrameProgram", "size": 32},
    "mapping": {"_target_": "reprogram.mappings.assignment.AssignmentMapping", "choice": "random", "per_class": 4},
    "seed": 0,
}


@pytest.fixture(scope="module")
def classifier() -> ReprogrammedClassifier:
    task = TaskSpec("toy", ("benign", "malignant"), (12, 10))
    return build.classifier(CFG, sourcing.source(CFG, "cpu", task), task, "cpu").eval()


@pytest.fixture(scope="module")
def run(classifier: ReprogrammedClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    artefact.save(classifier, CFG, folder)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five images of the task's own size; one of them grey, one in a folder below, and a text beside them."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.BMP", "more/d.png"):
        Image.fromarray(generator.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(folder / name)
    Image.fromarray(generator.integers(0, 256, (12, 10), dtype=np.uint8)).save(folder / "grey.png")
    (folder / "notes.txt").write_text("not an image")
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_folders_files_and_patterns_are_found_in_order(images: Path) -> None:
    names = [path.name for path in find_images(str(images))]
    assert names == ["a.png", "b.png", "c.BMP", "grey.png", "d.png"]
    assert [path.name for path in find_images(str(images / "*.png"))] == ["a.png", "b.png", "grey.png"]
    assert [path.name for path in find_images(str(images / "**" / "*.png"))] == ["a.png", "b.png", "grey.png", "d.png"]
    listed = find_images([str(images / "b.png"), str(images / "more")])
    assert [path.name for path in listed] == ["b.png", "d.png"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(images: Path) -> None:
    (images / "a.png").rename(images / "a[1].png")
    assert [path.name for path in find_images(str(images / "a[1].png"))] == ["a[1].png"]


@pytest.mark.parametrize("name", ["nothing.png", "*.tiff", "empty"])
def test_an_input_that_names_nothing_is_refused(name: str, images: Path) -> None:
    (images / "empty").mkdir()
    with pytest.raises(DataError, match=r"found no image at .*expected a file, a folder of images, or a pattern"):
        find_images([str(images / "a.png"), str(images / name)])


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_the_table_holds_the_probabilities_of_the_classifier(
    batch_size: int, classifier: ReprogrammedClassifier, run: Path, images: Path, tmp_path: Path
) -> None:
    assert predict(run, str(images), tmp_path / "out.csv", batch_size=batch_size) == 5
    found = rows(tmp_path / "out.csv")
    assert list(found[0]) == ["file", "predicted", "score_benign", "score_malignant"]
    assert [Path(row["file"]).name for row in found] == ["a.png", "b.png", "c.BMP", "grey.png", "d.png"]
    for row in found:
        pixels = np.array(Image.open(row["file"]).convert("RGB"))
        expected = classifier(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]
        scores = [float(row["score_benign"]), float(row["score_malignant"])]
        assert scores == pytest.approx(expected.tolist(), abs=2e-6)
        assert row["predicted"] == classifier.class_names[int(expected.argmax())]


def test_decisions_follow_the_operating_threshold(
    classifier: ReprogrammedClassifier, images: Path, tmp_path: Path
) -> None:
    for threshold, expected in ((0.0, "malignant"), (1.01, "benign")):
        classifier.threshold = threshold
        artefact.save(classifier, CFG, tmp_path)
        classifier.threshold = None
        predict(tmp_path, str(images), tmp_path / "out.csv")
        assert {row["predicted"] for row in rows(tmp_path / "out.csv")} == {expected}


def test_images_of_another_size_are_resized(run: Path, tmp_path: Path) -> None:
    Image.new("L", (100, 37), 90).save(tmp_path / "large.png")
    Image.new("RGB", (10, 12), (90, 90, 90)).save(tmp_path / "same.png")
    predict(run, [str(tmp_path / "large.png"), str(tmp_path / "same.png")], tmp_path / "out.csv")
    large, same = rows(tmp_path / "out.csv")
    assert large["score_benign"] == same["score_benign"]


def test_without_an_output_the_table_is_printed(run: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(run, str(images / "a.png"))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "file,predicted,score_benign,score_malignant"
    assert printed[1].startswith(f"{images / 'a.png'},")
    assert len(printed) == 2


def damage(images: Path) -> None:
    whole = (images / "b.png").read_bytes()
    (images / "b.png").write_bytes(whole[: len(whole) // 2])
    (images / "c.BMP").write_text("no image at all")


def test_damaged_images_are_counted_and_named(run: Path, images: Path, tmp_path: Path) -> None:
    damage(images)
    with pytest.raises(DataError, match=r"2 of 5 images cannot be read: .*b\.png.*c\.BMP.*skip_unreadable=true"):
        predict(run, str(images), tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_damaged_images_are_left_out_when_asked(
    run: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(images)
    with caplog.at_level(logging.WARNING, logger="reprogram.prediction"):
        assert predict(run, str(images), tmp_path / "out.csv", skip_unreadable=True) == 3
    assert [Path(row["file"]).name for row in rows(tmp_path / "out.csv")] == ["a.png", "grey.png", "d.png"]
    assert "2 of 5 images cannot be read" in caplog.text
    assert "b.png" in caplog.text


def test_what_cannot_work_is_refused(run: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"batch_size: expected a whole number >= 1, got 0"):
        predict(run, str(images), batch_size=0)
    with pytest.raises(ConfigError, match=r"output: cannot write .*nowhere"):
        predict(run, str(images), tmp_path / "nowhere" / "out.csv")
    with pytest.raises(RunError, match="expected a finished run"):
        predict(tmp_path, str(images))


def named(mapping: dict[str, Any]) -> list[tuple[str, str, float]]:
    cfg = {**CFG, "mapping": mapping}
    task = TaskSpec("toy", ("one", "two"), (8, 8))
    return label_map(build.classifier(cfg, sourcing.source(cfg, "cpu", task), task, "cpu"))


def test_the_label_map_names_assigned_source_classes_in_equal_parts(classifier: ReprogrammedClassifier) -> None:
    names = classifier.source.spec.class_names
    mapping = {
        "_target_": "reprogram.mappings.assignment.AssignmentMapping",
        "choice": "given",
        "given": [[7, 2], [0, 5]],
    }
    assert named(mapping) == [
        ("one", names[7], 0.5),
        ("one", names[2], 0.5),
        ("two", names[0], 0.5),
        ("two", names[5], 0.5),
    ]


def test_the_label_map_shows_what_a_semantic_mapping_found_and_the_weights_it_learned(
    classifier: ReprogrammedClassifier,
) -> None:
    names = classifier.source.spec.class_names
    mapping = {
        "_target_": "reprogram.mappings.semantic.SemanticMapping",
        "per_class": 2,
        "given": [[7, 2], [0, 5]],
        "learn": True,
    }
    cfg, task = {**CFG, "mapping": mapping}, TaskSpec("toy", ("one", "two"), (8, 8))
    model = build.classifier(cfg, sourcing.source(cfg, "cpu", task), task, "cpu")
    with torch.no_grad():
        model.mapping.weighting.logits[0, 1] = torch.tensor(3.0).log()
    (*_, first), (*_, second), *rest = label_map(model)
    assert (first, second) == (pytest.approx(0.25), pytest.approx(0.75))
    assert rest == [("two", names[0], 0.5), ("two", names[5], 0.5)]


def test_the_label_map_names_the_largest_weights_of_a_matrix(classifier: ReprogrammedClassifier) -> None:
    mapping = {"_target_": "reprogram.mappings.linear.LinearMapping"}
    cfg = {**CFG, "mapping": mapping}
    model = build.classifier(cfg, classifier.source, classifier.task, "cpu")
    with torch.no_grad():
        model.mapping.weight.zero_()
        model.mapping.weight[0, 9], model.mapping.weight[0, 3], model.mapping.weight[1, 4] = 2.0, 5.0, 1.0
        model.mapping.weight[1, 8] = -9.0
    names = classifier.source.spec.class_names
    found = label_map(model, top=2)
    assert found[:3] == [("benign", names[3], 5.0), ("benign", names[9], 2.0), ("malignant", names[4], 1.0)]
    assert len(found) == 4
    assert len(label_map(model)) == 10
