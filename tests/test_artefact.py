"""The shareable program: what is saved is what is loaded, and nothing else is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import reprogram
from reprogram import artefact, build, sourcing
from reprogram.classifier import ReprogrammedClassifier
from reprogram.errors import RunError, SourceError
from reprogram.mappings.linear import LinearMapping
from reprogram.types import TaskSpec

NETWORK = """
import torch
from torch import nn

def build(classes=12):
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(16, classes))
"""

PROGRAMS = {
    "frame": {"_target_": "reprogram.programs.frame.FrameProgram", "size": 10, "activation": "tanh"},
    "full": {"_target_": "reprogram.programs.full.FullProgram", "strength": 0.5},
}
MAPPINGS = {
    "random": {"_target_": "reprogram.mappings.assignment.AssignmentMapping", "choice": "random", "per_class": 3},
    "frequency": {"_target_": "reprogram.mappings.frequency.FrequencyMapping", "per_class": 2},
    "linear": {"_target_": "reprogram.mappings.linear.LinearMapping"},
}
SUPPORT = torch.ones(9, 9, dtype=torch.bool).triu(1)


@pytest.fixture(autouse=True)
def _network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_network_of_artefacts.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def cfg(tmp_path: Path) -> dict[str, Any]:
    """As ``build.plain`` leaves it; the source's weights lie in a file of their own."""
    from toy_network_of_artefacts import build as network

    weights = tmp_path / "weights.safetensors"
    save_file({key: value + 0.01 for key, value in network().state_dict().items()}, weights)
    return {
        "source": {
            "_target_": "reprogram.sources.module.module_source",
            "target": "toy_network_of_artefacts.build",
            "image_size": [16, 16],
            "weights": str(weights),
            "prepare": True,
            "precision": "float32",
        },
        "access": {"_target_": None},
        "program": PROGRAMS["frame"],
        "mapping": MAPPINGS["linear"],
        "seed": 3,
        "run_dir": "not part of the artefact",
    }


def trained(cfg: dict[str, Any], support: torch.Tensor | None = None) -> ReprogrammedClassifier:
    """A classifier that differs from an untrained one in everything that training changes."""
    task = TaskSpec("toy", ("benign", "malignant"), (9, 9), support, True, False, "CC0", "Somebody, 2020")
    model = build.classifier(cfg, sourcing.source(cfg, "cpu", task), task, "cpu")
    torch.manual_seed(1)
    with torch.no_grad():
        model.program.theta.normal_()
    targets = torch.arange(30) % 2
    model.mapping.observe((torch.randn(30, 12) + targets[:, None] * torch.randn(12)).log_softmax(1), targets)
    model.mapping.refit()
    model.mapping.observe(torch.randn(3, 12).log_softmax(1), torch.tensor([0, 1, 1]))  # left over at the end
    model.threshold = 0.31
    return model.eval()


@pytest.mark.parametrize("support", [None, SUPPORT], ids=["whole", "support"])
@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_loaded_classifier_gives_identical_probabilities(
    program: str, mapping: str, support: torch.Tensor | None, cfg: dict[str, Any], tmp_path: Path
) -> None:
    cfg |= {"program": PROGRAMS[program], "mapping": MAPPINGS[mapping]}
    model, images = trained(cfg, support), torch.randint(0, 256, (6, 3, 9, 9), dtype=torch.uint8)
    artefact.save(model, cfg, tmp_path / "run")
    loaded = reprogram.load(tmp_path / "run")
    assert torch.equal(loaded(images), model(images))
    assert loaded(images).std(0).max() > 1e-4  # not the same answer to everything
    assert torch.equal(artefact.load(str(tmp_path / "run" / "program"))(images), model(images))


def test_the_facts_of_the_task_travel_with_it(cfg: dict[str, Any], tmp_path: Path) -> None:
    model = trained(cfg, SUPPORT)
    artefact.save(model, cfg, tmp_path)
    loaded = artefact.load(tmp_path)
    assert loaded.threshold == 0.31
    assert loaded.class_names == ("benign", "malignant")
    for fact in ("name", "class_names", "image_size", "ordinal", "private", "licence", "citation"):
        assert getattr(loaded.task, fact) == getattr(model.task, fact), fact
    assert loaded.task.support is not None
    assert torch.equal(loaded.task.support, SUPPORT)
    assert loaded.source.fingerprint == model.source.fingerprint
    assert loaded.decide(torch.tensor([[0.68, 0.32], [0.7, 0.3]])).tolist() == [1, 0]


def test_without_a_threshold_none_is_invented(cfg: dict[str, Any], tmp_path: Path) -> None:
    model = trained(cfg)
    model.threshold = None
    artefact.save(model, cfg, tmp_path)
    assert artefact.load(tmp_path).threshold is None


def test_it_is_for_use_not_for_training(cfg: dict[str, Any], tmp_path: Path) -> None:
    artefact.save(trained(cfg), cfg, tmp_path)
    loaded = artefact.load(tmp_path)
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_it_holds_no_weight_of_the_source_and_no_response(cfg: dict[str, Any], tmp_path: Path) -> None:
    artefact.save(trained(cfg), cfg, tmp_path)
    assert sorted(file.name for file in (tmp_path / "program").iterdir()) == ["program.json", "program.safetensors"]
    tensors = load_file(tmp_path / "program" / "program.safetensors")
    assert set(tensors) == {"program.theta", "mapping.weight", "mapping.bias"}
    assert set(json.loads((tmp_path / "program" / "program.json").read_text())["config"]) == {
        "source",
        "access",
        "program",
        "mapping",
        "seed",
    }


def test_the_weights_of_the_source_may_have_moved(cfg: dict[str, Any], tmp_path: Path) -> None:
    model, images = trained(cfg), torch.randint(0, 256, (2, 3, 9, 9), dtype=torch.uint8)
    artefact.save(model, cfg, tmp_path)
    moved = Path(cfg["source"]["weights"]).rename(tmp_path / "elsewhere.safetensors")
    with pytest.raises(SourceError, match=r"expected a weights file at .*weights\.safetensors"):
        artefact.load(tmp_path)
    assert torch.equal(artefact.load(tmp_path, source_weights=moved)(images), model(images))


def test_other_weights_of_the_source_are_refused(cfg: dict[str, Any], tmp_path: Path) -> None:
    model = trained(cfg)
    artefact.save(model, cfg, tmp_path)
    path = Path(cfg["source"]["weights"])
    state = load_file(path)
    state["0.weight"].flatten()[0] += 1e-3
    save_file(state, path)
    with pytest.raises(SourceError, match=f"fingerprint {model.source.fingerprint[:12]}, got .*same weights file"):
        artefact.load(tmp_path)


@pytest.mark.parametrize(
    "missing",
    [
        "program.json",
        "program.safetensors",
    ],
)
def test_a_missing_file_is_named(missing: str, cfg: dict[str, Any], tmp_path: Path) -> None:
    artefact.save(trained(cfg), cfg, tmp_path)
    (tmp_path / "program" / missing).unlink()
    with pytest.raises(RunError, match=rf"expected a finished run or its program folder, .*{missing}"):
        artefact.load(tmp_path)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected a finished run"):
        artefact.load(tmp_path / "nowhere")


@pytest.mark.parametrize("file", ["program.json", "program.safetensors"])
@pytest.mark.parametrize("keep", [0, 40, -20])
def test_a_damaged_file_is_refused(file: str, keep: int, cfg: dict[str, Any], tmp_path: Path) -> None:
    artefact.save(trained(cfg), cfg, tmp_path)
    path = tmp_path / "program" / file
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunError, match="the artefact cannot be read"):
        artefact.load(tmp_path)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "program" / "program.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in {**record, **changes}.items() if value != "gone"}))


def test_another_schema_is_refused(cfg: dict[str, Any], tmp_path: Path) -> None:
    artefact.save(trained(cfg), cfg, tmp_path)
    edit(tmp_path, schema_version=99)
    with pytest.raises(RunError, match="expected schema_version 1, got 99"):
        artefact.load(tmp_path)


def test_tensors_of_another_mapping_are_refused(cfg: dict[str, Any], tmp_path: Path) -> None:
    artefact.save(trained(cfg), cfg, tmp_path)
    edit(tmp_path, config={**cfg, "mapping": MAPPINGS["random"]})
    with pytest.raises(RunError, match=r"tensors do not fit the program; differing: .*mapping\.assignment"):
        artefact.load(tmp_path)


def test_tensors_of_another_size_are_refused(cfg: dict[str, Any], tmp_path: Path) -> None:
    artefact.save(trained(cfg), cfg, tmp_path)
    edit(tmp_path, config={**cfg, "program": {**PROGRAMS["frame"], "size": 12}})
    with pytest.raises(RunError, match=r"do not fit the program"):
        artefact.load(tmp_path)


@pytest.mark.parametrize("part", ["config", "task", "source_fingerprint", "threshold"])
def test_a_description_with_a_part_missing_is_refused(part: str, cfg: dict[str, Any], tmp_path: Path) -> None:
    artefact.save(trained(cfg), cfg, tmp_path)
    edit(tmp_path, **{part: "gone"})
    with pytest.raises(RunError):
        artefact.load(tmp_path)


def test_a_source_without_a_file_of_its_own_says_so(tmp_path: Path) -> None:
    cfg = {
        "source": {"_target_": "reprogram.sources.embedded.embedded_source", "prepare": False, "precision": "auto"},
        "access": {"_target_": None},
        "program": {"_target_": "reprogram.programs.frame.FrameProgram"},
        "mapping": MAPPINGS["linear"],
        "seed": 0,
    }
    task = TaskSpec("toy", ("a", "b"), (9, 9))
    artefact.save(build.classifier(cfg, sourcing.source(cfg, "cpu", task), task, "cpu"), cfg, tmp_path)
    assert artefact.load(tmp_path).source.spec.name == "embedded"
    with pytest.raises(RunError, match="source_weights: this result has no source whose weights lie in a single file"):
        artefact.load(tmp_path, source_weights="file.safetensors")
    with pytest.raises(RunError, match="encoder_weights: this result has no encoder"):
        artefact.load(tmp_path, encoder_weights="file.safetensors")


def test_an_artefact_of_before_there_were_black_boxes_loads(cfg: dict[str, Any], tmp_path: Path) -> None:
    model = trained(cfg)
    artefact.save(model, cfg, tmp_path)
    edit(tmp_path, config={key: value for key, value in cfg.items() if key != "access"})
    loaded = artefact.load(tmp_path)
    assert loaded.source.spec.differentiable
    images = torch.rand(3, 3, 9, 9)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


def test_saving_twice_replaces(cfg: dict[str, Any], tmp_path: Path) -> None:
    model = trained(cfg)
    artefact.save(model, cfg, tmp_path)
    with torch.no_grad():
        model.program.theta.zero_()
    artefact.save(model, cfg, tmp_path)
    assert not artefact.load(tmp_path).program.theta.any()


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    artefact.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        artefact.write_json(path, {"a": float("nan")})
    with pytest.raises(TypeError):
        artefact.write_json(path, {"a": path})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.glob("*.tmp")) == []


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_start_takes_program_and_mapping_but_not_the_source(
    program: str, mapping: str, cfg: dict[str, Any], tmp_path: Path
) -> None:
    cfg |= {"program": PROGRAMS[program], "mapping": MAPPINGS[mapping]}
    model, images = trained(cfg), torch.randint(0, 256, (6, 3, 9, 9), dtype=torch.uint8)
    artefact.save(model, cfg, tmp_path / "run")
    Path(cfg["source"]["weights"]).rename(tmp_path / "elsewhere.safetensors")  # it is not loaded again
    later = {**cfg, "mapping": dict(cfg["mapping"])}
    if mapping != "random":
        later["mapping"]["refresh"] = "never"  # a schedule may be another one
    fresh = build.classifier(later, model.source, model.task, "cpu").eval()
    assert not torch.equal(fresh(images), model(images))
    for folder in (tmp_path / "run", tmp_path / "run" / "program"):
        fresh = build.classifier(later, model.source, model.task, "cpu").eval()
        artefact.start(fresh, later, folder)
        assert torch.equal(fresh(images), model(images))
        assert fresh.threshold is None
        assert [one.requires_grad for one in fresh.parameters()] == [one.requires_grad for one in model.parameters()]
        before = {key: value.clone() for key, value in fresh.mapping.named_parameters()}
        fresh.mapping.refit()  # what the other run had observed is not learned from again
        assert all(torch.equal(value, before[key]) for key, value in fresh.mapping.named_parameters())
        assert torch.equal(fresh(images), model(images))


@pytest.mark.parametrize(
    ("changes", "names", "message"),
    [
        ({}, ("benign", "other"), r"the classes \['benign', 'other'\], got \['benign', 'malignant'\] in .*program"),
        ({"program": {**PROGRAMS["frame"], "activation": "sigmoid"}}, None, "activation=sigmoid, got activation=tanh"),
        ({"program": PROGRAMS["full"]}, None, "the program of this run, _target_=.*FullProgram"),
        ({"mapping": MAPPINGS["frequency"]}, None, "the mapping of this run, .*FrequencyMapping, got .*LinearMapping"),
        ({"classes": 9}, None, r"tensors that fit .* differing: \['mapping\.weight'\]"),
    ],
)
def test_a_start_from_another_program_mapping_or_task_is_refused(
    changes: dict[str, Any], names: tuple[str, ...] | None, message: str, cfg: dict[str, Any], tmp_path: Path
) -> None:
    model = trained(cfg)
    artefact.save(model, cfg, tmp_path)
    classes = changes.pop("classes", 12)
    task = TaskSpec("toy", names or model.class_names, (9, 9))
    other = {**cfg, **changes}
    fresh = build.classifier(other, model.source, task, "cpu")
    if classes != 12:
        fresh.mapping = LinearMapping(classes, 2)
    theta = fresh.program.theta.detach().clone()
    with pytest.raises(RunError, match=f"start_from: expected .*{message}"):
        artefact.start(fresh, other, tmp_path)
    assert torch.equal(fresh.program.theta, theta)


def test_a_start_from_nowhere_is_refused(cfg: dict[str, Any], tmp_path: Path) -> None:
    model = trained(cfg)
    (tmp_path / "file").touch()
    for place in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(RunError, match="expected a finished run or its program folder"):
            artefact.start(model, cfg, place)
