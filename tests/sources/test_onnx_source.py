"""ONNX files against the same maths in PyTorch."""

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reprogram.errors import ConfigError, QueryBudgetExceeded, ShapeError, SourceError
from reprogram.sources.black_box import BlackBox
from reprogram.sources.ledger import Ledger
from reprogram.sources.onnx import OnnxSource, log_probabilities

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper, numpy_helper = pytest.importorskip("onnx.helper"), pytest.importorskip("onnx.numpy_helper")

SIZE, CLASSES = (10, 8), 5
TYPES = {np.float32: onnx.TensorProto.FLOAT, np.float16: onnx.TensorProto.FLOAT16}
MEAN, STD = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
HEADS = {"logits": "Identity", "probabilities": "Softmax", "log_probabilities": "LogSoftmax"}


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"kernel": (4, 3, 3, 3), "offset": (4,), "matrix": (4, CLASSES), "bias": (CLASSES,)}
    return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def logits(images: Tensor) -> Tensor:
    """The network of the files, of normalised images."""
    given = weights()
    maps = F.conv2d(images, given["kernel"], given["offset"], padding=1).relu()
    return maps.mean((2, 3)) @ given["matrix"] + given["bias"]


def normalised(images: Tensor, mean: Any = MEAN, std: Any = STD) -> Tensor:
    return (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def written(
    path: Path,
    rows: int | str = "batch",
    size: tuple[Any, Any] = SIZE,
    outputs: str = "logits",
    dtype: Any = np.float32,
    layout: str = "nchw",
    external: bool = False,
    extra_input: bool = False,
    auxiliary: bool = False,
) -> str:
    """Convolution, ReLU, mean over the positions, linear layer, and what makes of the logits what the file returns."""
    kind, node = TYPES[dtype], helper.make_node
    nodes = [node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2])] if layout == "nhwc" else []
    nodes += [
        node("Conv", ["planes" if nodes else "images", "kernel", "offset"], ["maps"], pads=[1, 1, 1, 1]),
        node("Relu", ["maps"], ["positive"]),
        node("GlobalAveragePool", ["positive"], ["mean"]),
        node("Flatten", ["mean"], ["features"]),
        node("Gemm", ["features", "matrix", "bias"], ["sums"]),
        node(HEADS[outputs], ["sums"], ["scores"]),
    ]
    shape = [rows, 3, *size] if layout == "nchw" else [rows, *size, 3]
    inputs = [helper.make_tensor_value_info("images", kind, shape)]
    inputs += [helper.make_tensor_value_info("unused", kind, [1])] if extra_input else []
    results = [helper.make_tensor_value_info("scores", kind, [rows, CLASSES])]
    results += [helper.make_tensor_value_info("features", kind, [rows, 4])] if auxiliary else []
    stored = [numpy_helper.from_array(value.numpy().astype(dtype), name) for name, value in weights().items()]
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", inputs, results, stored),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    options = {"save_as_external_data": True, "location": "tiny.weights", "size_threshold": 0} if external else {}
    onnx.save_model(model, path, **options)
    return str(path)


@pytest.mark.parametrize("outputs", HEADS)
@pytest.mark.parametrize("rows", ["batch", 1, 3])
def test_a_file_gives_the_log_probabilities_of_the_same_maths(outputs: str, rows: int | str, tmp_path: Path) -> None:
    path = written(tmp_path / "tiny.onnx", rows, outputs=outputs)
    source, images = OnnxSource(path, outputs, mean=MEAN, std=STD), torch.rand(7, 3, *SIZE)
    found = source(images)
    torch.testing.assert_close(found, logits(normalised(images)).log_softmax(1), atol=1e-5, rtol=0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(source(images[4:5]), found[4:5], atol=1e-5, rtol=0)


def test_the_batch_of_a_file_decides_how_often_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rows, expected in (("batch", [7]), (3, [3, 3, 3])):
        source = OnnxSource(written(tmp_path / f"{rows}.onnx", rows))
        sizes: list[int] = []

        class Watched:
            def run(self, names: list[str], feed: dict[str, Any], session: Any = source._session) -> Any:
                sizes.append(len(feed["images"]))  # noqa: B023
                return session.run(names, feed)

        monkeypatch.setattr(source, "_session", Watched())
        assert source(torch.rand(7, 3, *SIZE)).shape == (7, CLASSES)
        assert sizes == expected


def test_the_facts_come_from_the_file(tmp_path: Path) -> None:
    source = OnnxSource(written(tmp_path / "tiny.onnx"))
    assert (source.spec.name, source.spec.image_size) == ("tiny", SIZE)
    assert source.spec.class_names == tuple(f"class_{index}" for index in range(CLASSES))
    assert (source.spec.differentiable, source.spec.feature_dim) == (False, None)
    images = torch.rand(2, 3, *SIZE)
    imagenet = logits(normalised(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    torch.testing.assert_close(source(images), imagenet.log_softmax(1), atol=1e-5, rtol=0)
    assert OnnxSource(written(tmp_path / "b.onnx"), class_names=list("abcde")).spec.class_names == tuple("abcde")


def test_a_file_of_float16_gets_it_and_answers_are_float32(tmp_path: Path) -> None:
    path, images = written(tmp_path / "half.onnx", dtype=np.float16), torch.rand(2, 3, *SIZE)
    source = OnnxSource(path, mean=MEAN, std=STD)
    found = source(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, logits(normalised(images)).log_softmax(1), atol=0.03, rtol=0)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(2))
    assert source(images.double()).dtype == torch.float64


def test_channels_may_come_last(tmp_path: Path) -> None:
    path, images = written(tmp_path / "last.onnx", 2, layout="nhwc"), torch.rand(3, 3, *SIZE)
    source = OnnxSource(path, mean=MEAN, std=STD, input_layout="nhwc")
    assert source.spec.image_size == SIZE
    torch.testing.assert_close(source(images), logits(normalised(images)).log_softmax(1), atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match=r"source\.input_layout: expected 3 channels, got \[2, 10, 8, 3\] as nchw"):
        OnnxSource(path)


def test_a_file_for_any_size_needs_one(tmp_path: Path) -> None:
    path, images = written(tmp_path / "any.onnx", size=("height", "width")), torch.rand(2, 3, 6, 9)
    with pytest.raises(ConfigError, match=r"takes images of any size; set source\.image_size"):
        OnnxSource(path)
    source = OnnxSource(path, mean=MEAN, std=STD, image_size=(6, 9))
    torch.testing.assert_close(source(images), logits(normalised(images)).log_softmax(1), atol=1e-5, rtol=0)
    with pytest.raises(ShapeError, match=r"expected images \[B, 3, 6, 9\], got \[2, 3, 9, 6\]"):
        source(images.mT)
    with pytest.raises(ConfigError, match=r"source\.image_size: expected \[10, 8\] as in tiny, got \[6, 9\]"):
        OnnxSource(written(tmp_path / "tiny.onnx"), image_size=(6, 9))


def test_an_answer_has_no_graph_and_the_source_stays_as_it_is(tmp_path: Path) -> None:
    source, images = OnnxSource(written(tmp_path / "tiny.onnx")), torch.rand(2, 3, *SIZE).requires_grad_()
    before = source(images)
    assert not before.requires_grad
    source.train()
    assert not source.training
    assert not list(source.parameters())
    assert not source.state_dict()
    assert torch.equal(source(images), before)


def test_it_is_asked_behind_a_black_box(tmp_path: Path) -> None:
    source, images = OnnxSource(written(tmp_path / "tiny.onnx", 3)), torch.rand(4, 3, *SIZE)
    hidden = BlackBox(source, Ledger(None, "run", budget=4))
    torch.testing.assert_close(hidden(images), source(images))
    with pytest.raises(QueryBudgetExceeded):
        hidden(torch.rand(1, 3, *SIZE))


def test_the_fingerprint_knows_the_file_and_the_facts(tmp_path: Path) -> None:
    path = written(tmp_path / "tiny.onnx")
    source = OnnxSource(path)
    assert source.fingerprint == OnnxSource(path, class_names=list("abcde")).fingerprint
    assert len(source.fingerprint) == 64
    others = [
        OnnxSource(path, mean=MEAN),
        OnnxSource(path, std=STD),
        OnnxSource(written(tmp_path / "any.onnx", size=("height", "width")), image_size=SIZE),
        OnnxSource(written(tmp_path / "softmax.onnx", outputs="probabilities")),
        OnnxSource(written(tmp_path / "softmax.onnx", outputs="probabilities"), "probabilities"),
    ]
    assert len({source.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_weights_in_a_file_of_their_own_count(tmp_path: Path) -> None:
    path, images = written(tmp_path / "tiny.onnx", external=True), torch.rand(2, 3, *SIZE)
    source, beside = OnnxSource(path, mean=MEAN, std=STD), tmp_path / "tiny.weights"
    torch.testing.assert_close(source(images), logits(normalised(images)).log_softmax(1), atol=1e-5, rtol=0)
    content = bytearray(beside.read_bytes())
    content[3] ^= 0x80  # the sign of one weight
    beside.write_bytes(content)
    assert OnnxSource(path, mean=MEAN, std=STD).fingerprint != source.fingerprint
    beside.unlink()
    with pytest.raises(SourceError, match=r"cannot read .*external data beside it"):
        OnnxSource(path)


@pytest.mark.parametrize(
    ("returns", "said"),
    [("logits", "probabilities"), ("logits", "log_probabilities"), ("probabilities", "log_probabilities")],
)
def test_outputs_that_are_said_wrongly_are_noticed(returns: str, said: str, tmp_path: Path) -> None:
    path = written(tmp_path / "tiny.onnx", outputs=returns)
    with pytest.raises(SourceError, match=rf"tiny: expected {said} of sum one, .*set source\.outputs"):
        OnnxSource(path, said)


def test_probabilities_that_are_taken_for_logits_are_remarked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        OnnxSource(written(tmp_path / "tiny.onnx"))
        assert not caplog.messages
        OnnxSource(written(tmp_path / "tiny.onnx", outputs="probabilities"))
    assert "its logits look like probabilities; if they are, set source.outputs" in caplog.text


@pytest.mark.parametrize("outputs", ["probabilities", "log_probabilities"])
def test_a_probability_of_zero_stays_finite(outputs: str, tmp_path: Path) -> None:
    source = OnnxSource(written(tmp_path / "tiny.onnx", outputs=outputs), outputs, std=[1e-3] * 3)
    log_probs = source(torch.rand(20, 3, *SIZE))
    assert log_probs.min() < -80
    assert log_probs.isfinite().all()
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(20))


def test_rounded_probabilities_are_renormalised_and_others_refused() -> None:
    rounded = torch.tensor([[0.6, 0.309, 0.1], [0.2, 0.5, 0.291]])
    expected = (rounded / rounded.sum(1, keepdim=True)).log()
    torch.testing.assert_close(log_probabilities(rounded, "probabilities", "file"), expected)
    torch.testing.assert_close(log_probabilities(rounded.log(), "log_probabilities", "file"), expected)
    for wrong in ([0.6, 0.3, 0.12], [0.6, 0.3, 0.08], [1.1, -0.1, 0.0], [float("nan"), 0.5, 0.5]):
        with pytest.raises(SourceError, match=r"file: expected probabilities of sum one"):
            log_probabilities(torch.tensor([wrong]), "probabilities", "file")


def test_one_of_several_outputs_is_chosen(tmp_path: Path) -> None:
    path, images = written(tmp_path / "tiny.onnx", auxiliary=True), torch.rand(2, 3, *SIZE)
    with pytest.raises(ConfigError, match=r"source\.output_name: tiny has several outputs; .* scores, features"):
        OnnxSource(path)
    with pytest.raises(ConfigError, match=r"expected one of scores, features, got 'logits'"):
        OnnxSource(path, output_name="logits")
    found = OnnxSource(path, output_name="scores", mean=MEAN, std=STD)(images)
    torch.testing.assert_close(found, logits(normalised(images)).log_softmax(1), atol=1e-5, rtol=0)
    assert OnnxSource(path, output_name="features").spec.num_classes == 4


def graph(path: Path, nodes: list[Any], shape: list[Any], result: Any, kind: int = onnx.TensorProto.FLOAT) -> str:
    inputs = [helper.make_tensor_value_info("images", kind, shape)]
    model = helper.make_graph(nodes, "odd", inputs, [result])
    onnx.save_model(helper.make_model(model, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


def test_what_is_no_classifier_of_images_is_refused(tmp_path: Path) -> None:
    info, kind = helper.make_tensor_value_info, onnx.TensorProto
    same = [helper.make_node("Identity", ["images"], ["scores"])]
    flat = graph(tmp_path / "flat.onnx", same, ["n", 3], info("scores", kind.FLOAT, ["n", 3]))
    with pytest.raises(SourceError, match=r"flat: expected one input of floating images .* tensor\(float\) \['n', 3\]"):
        OnnxSource(flat)
    whole = graph(tmp_path / "bytes.onnx", same, [1, 3, 8, 8], info("scores", kind.UINT8, [1, 3, 8, 8]), kind.UINT8)
    with pytest.raises(SourceError, match=r"bytes: expected one input of floating images .* tensor\(uint8\)"):
        OnnxSource(whole)
    with pytest.raises(SourceError, match=r"expected one input .*, got images .*, unused"):
        OnnxSource(written(tmp_path / "two.onnx", extra_input=True))
    maps = graph(tmp_path / "maps.onnx", same, [1, 3, 8, 8], info("scores", kind.FLOAT, [1, 3, 8, 8]))
    with pytest.raises(
        SourceError, match=r"expected floating scores \[1, K\] in the output 'scores', got float32 \[1, 3"
    ):
        OnnxSource(maps)
    best = [helper.make_node("Flatten", ["images"], ["f"]), helper.make_node("ArgMax", ["f"], ["scores"], axis=1)]
    label = graph(tmp_path / "label.onnx", best, [1, 3, 8, 8], info("scores", kind.INT64, [1, 1]))
    with pytest.raises(SourceError, match=r"expected floating scores \[1, K\] .*, got int64 \[1, 1\]"):
        OnnxSource(label)


def test_a_wrong_number_of_class_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"expected 2 outputs, one for each class name, got 5; set source\.class_names"
    ):
        OnnxSource(written(tmp_path / "tiny.onnx"), class_names=["a", "b"])


def test_wrong_choices_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "tiny.onnx")
    with pytest.raises(ConfigError, match=r"source\.outputs: expected one of logits, .*, got 'scores'"):
        OnnxSource(path, "scores")
    with pytest.raises(ConfigError, match=r"source\.input_layout: expected one of nchw, nhwc, got 'chw'"):
        OnnxSource(path, input_layout="chw")
    for mean, std in (([0, 0], [1, 1, 1]), ([0, 0, 0], [1, 0, 1])):
        with pytest.raises(ConfigError, match=r"expected three means \(source\.mean\)"):
            OnnxSource(path, mean=mean, std=std)


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"source\.path: expected an ONNX file at nowhere\.onnx, found none"):
        OnnxSource("nowhere.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(SourceError, match=r"source\.path: cannot read .*text\.onnx .* is it a complete ONNX file"):
        OnnxSource(str(tmp_path / "text.onnx"))


def test_a_run_that_fails_says_what_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = OnnxSource(written(tmp_path / "tiny.onnx"))

    class Broken:
        def run(self, *_: Any) -> None:
            raise RuntimeError("out of memory")

    monkeypatch.setattr(source, "_session", Broken())
    with pytest.raises(SourceError, match=r"tiny: cannot score 2 images \[3, 10, 8\] \(out of memory\)"):
        source(torch.rand(2, 3, *SIZE))


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "tiny.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'reprogram\[onnx\]'"):
        OnnxSource(path)
