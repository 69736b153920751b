"""The Open Inference Protocol against a reading of its own of what it says."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scoring_stub import Says, Sent, serving
from torchvision.io import decode_image

from reprogram.errors import ConfigError
from reprogram.sources.http.adapter import Facts, Images, Reply, Request, UnusableReply
from reprogram.sources.http.open_inference import OpenInference
from reprogram.sources.http.source import HttpSource

LENGTH = "Inference-Header-Content-Length"
NUMPY = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "UINT8": "|u1"}
LEVELS = torch.randint(0, 256, (2, 3, 6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
IMAGES = Images(LEVELS / 255, "png")
SCORES = np.array([[0.5, -1.25, 3.0], [2.0, 0.0, -0.5]])
MEAN, STD = (0.5, 0.25, 0.0), (0.25, 0.5, 1.0)


def parts(content: bytes, headers: Mapping[str, str]) -> tuple[Any, bytes]:
    """JSON of a request and the bytes behind it, as a server splits them."""
    length = {key.lower(): value for key, value in headers.items()}.get(LENGTH.lower())
    end = len(content) if length is None else int(length)
    return json.loads(content[:end]), content[end:]


def tensor(request: Request | Sent) -> np.ndarray[Any, Any]:
    """What a server makes of the one input."""
    said, rest = parts(request.content, request.headers)
    (given,) = said["inputs"]
    kind = NUMPY[given["datatype"]]
    if "data" in given:
        return np.array(given["data"]).astype(kind).reshape(given["shape"])
    assert len(rest) == given["parameters"]["binary_data_size"]
    return np.frombuffer(rest, kind).reshape(given["shape"])


def files(request: Request) -> list[bytes]:
    """The elements of the one input, a BYTES tensor."""
    said, rest = parts(request.content, request.headers)
    (given,) = said["inputs"]
    assert given["datatype"] == "BYTES"
    if "data" in given:
        assert given["parameters"] == {"content_type": "base64"}
        return [base64.b64decode(text, validate=True) for text in given["data"]]
    assert len(rest) == given["parameters"]["binary_data_size"]
    found = []
    while rest:
        size = int.from_bytes(rest[:4], "little")
        found.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    return found


def in_json(values: Any = SCORES, name: str = "output", datatype: str = "FP32", **changes: Any) -> dict[str, Any]:
    shape = list(np.shape(values))
    return {"name": name, "datatype": datatype, "shape": shape, "data": np.ravel(values).tolist()} | changes


def said(*outputs: Any) -> Reply:
    return Reply(json.dumps({"model_name": "m", "outputs": list(outputs)}).encode(), {})


def in_bytes(*outputs: tuple[dict[str, Any], bytes]) -> Reply:
    """A binary reply: outputs without data, each with the bytes behind the JSON."""
    for output, data in outputs:
        output.pop("data", None)
        output["parameters"] = {"binary_data_size": len(data)}
    head = json.dumps({"outputs": [output for output, _ in outputs]}).encode()
    return Reply(head + b"".join(data for _, data in outputs), {LENGTH.lower(): str(len(head))})


def metadata(**changes: Any) -> Reply:
    about: dict[str, Any] = {
        "name": "m",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 3, 224, 224]}],
        "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1, 1000]}],
    }
    return Reply(json.dumps(about | changes).encode(), {})


def tensors(name: str, datatype: str, *shape: int) -> list[dict[str, Any]]:
    return [{"name": name, "datatype": datatype, "shape": list(shape)}]


# ---------------------------------------------------------------------------------------------------------- requests


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_tensor_arrives_as_it_is(layout: str, binary: bool) -> None:
    images = Images(torch.rand(2, 3, 6, 5), "float")
    request = OpenInference("m", layout=layout, binary=binary).request(images)
    expected = images.tensor if layout == "nchw" else images.tensor.permute(0, 2, 3, 1)
    assert np.array_equal(tensor(request), expected.numpy())


@pytest.mark.parametrize("binary", [True, False])
def test_a_tensor_is_normalised_on_request(binary: bool) -> None:
    request = OpenInference("m", mean=MEAN, std=STD, binary=binary).request(IMAGES)
    expected = (IMAGES.tensor - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert np.array_equal(tensor(request), expected.numpy())


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_levels_arrive_as_they_are(layout: str, binary: bool) -> None:
    found = tensor(OpenInference("m", datatype="UINT8", layout=layout, binary=binary).request(IMAGES))
    assert found.dtype == np.uint8
    assert np.array_equal(found, (LEVELS if layout == "nchw" else LEVELS.permute(0, 2, 3, 1)).numpy())


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_files_arrive_as_they_are(encoding: str, binary: bool) -> None:
    images = Images(IMAGES.tensor, encoding)
    found = files(OpenInference("m", content="files", binary=binary).request(images))
    assert found == images.files
    if encoding == "png":
        decoded = [decode_image(torch.frombuffer(bytearray(file), dtype=torch.uint8)) for file in found]
        assert torch.equal(torch.stack(decoded), LEVELS)


def test_requests_follow_the_protocol() -> None:
    adapter = OpenInference("my model", "2/b", input_name="data", output_name="prob")
    request = adapter.request(IMAGES)
    assert (request.method, request.path) == ("POST", "v2/models/my%20model/versions/2%2Fb/infer")
    assert request.headers["Content-Type"] == "application/octet-stream"
    body, _ = parts(request.content, request.headers)
    assert body["inputs"][0]["name"] == "data"
    assert (body["outputs"], body["parameters"]) == ([{"name": "prob"}], {"binary_data_output": True})
    plain = OpenInference("m", binary=False).request(IMAGES)
    assert (plain.path, plain.headers) == ("v2/models/m/infer", {"Content-Type": "application/json"})
    assert json.loads(plain.content).keys() == {"inputs", "outputs"}
    asked = adapter.question()
    assert (asked.method, asked.path, asked.content) == ("GET", "v2/models/my%20model/versions/2%2Fb", b"")
    assert OpenInference("m", 3).question().path == "v2/models/m/versions/3"


# ----------------------------------------------------------------------------------------------------------- replies


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_scores_in_json_are_read(datatype: str, nested: bool) -> None:
    output = in_json(datatype=datatype) | ({"data": SCORES.tolist()} if nested else {})
    found = OpenInference("m").read(said(in_json(name="other"), output), 2)
    assert torch.equal(torch.stack(list(found)), torch.tensor(SCORES).float())  # type: ignore[arg-type]


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
def test_scores_in_bytes_are_read(datatype: str) -> None:
    if datatype == "BF16":  # the upper half of a float32
        data = (SCORES.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    else:
        data = SCORES.astype(NUMPY[datatype]).tobytes()
    others = (in_json(name="a"), b"12345678"), (in_json(name="b"), b"")
    reply = in_bytes(*others, (in_json(datatype=datatype), data), (in_json(name="c"), b"9"))
    found = OpenInference("m").read(reply, 2)
    assert torch.equal(torch.stack(list(found)), torch.tensor(SCORES).float())  # type: ignore[arg-type]
    assert all(isinstance(row, torch.Tensor) and row.dtype == torch.float32 for row in found)


def test_a_server_may_answer_bytes_with_json_and_one_image_without_an_axis() -> None:
    (found,) = OpenInference("m").read(said(in_json(SCORES[0])), 1)
    assert torch.equal(found, torch.tensor(SCORES[0]).float())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(b'{"error": "unexpected shape"}', {}), r"expected an object with outputs, got .*unexpected shape"),
        (Reply(b"[]", {}), r"expected an object with outputs"),
        (Reply(b"<html>", {}), r"expected JSON"),
        (said(1), r"expected an object with outputs"),
        (said(), r"expected the output 'output', got none; see source\.adapter\.output_name"),
        (said(in_json(name="logits")), r"expected the output 'output', got \"logits\""),
        (said(in_json(SCORES[:1])), r"expected 'output' of shape \[2, K\], got \[1, 3\]"),
        (said(in_json(SCORES[0])), r"of shape \[2, K\], got \[3\]"),
        (said(in_json(SCORES[None])), r"of shape \[2, K\], got \[1, 2, 3\]"),
        (said(in_json(shape=[2, -3])), r"of shape \[2, K\], got \[2, -3\]"),
        (said(in_json(shape=None)), r"of shape \[2, K\], got null"),
        (said(in_json(datatype="INT64")), r"expected 'output' of FP16, BF16, FP32, FP64, got \"INT64\""),
        (said(in_json(data=[1.0] * 5)), r"expected 6 numbers in 'output', got 5"),
        (said(in_json(data=[1.0] * 5 + [None])), r"expected a list of numbers at 'output'"),
        (said(in_json(data=None)), r"expected a list of numbers at 'output', got null"),
        (said(in_json(parameters={"binary_data_size": "24"})), r"number of bytes as binary_data_size, got \"24\""),
        (said(in_json(parameters={"binary_data_size": 24})), r"expected 24 bytes of 'output', got 0"),
        (in_bytes((in_json(), b"\0" * 23)), r"expected 24 bytes of 'output', got 23"),
        (Reply(in_bytes((in_json(), b"\0" * 24)).content, {}), r"expected JSON"),
        (Reply(b"{}", {LENGTH.lower(): "3"}), r"expected JSON of the length in inference-header.*got 3 of 2 bytes"),
        (Reply(b"{}", {LENGTH.lower(): "-1"}), r"got -1 of 2 bytes"),
    ],
)
def test_other_replies_are_refused(reply: Reply, message: str) -> None:
    with pytest.raises(UnusableReply, match=message):
        OpenInference("m").read(reply, 2)


# ---------------------------------------------------------------------------------------------------------- metadata


def test_facts_come_from_the_metadata() -> None:
    assert OpenInference("m").facts(metadata()) == Facts(1000, (224, 224), "1")
    assert OpenInference("m", "2").facts(metadata(versions=["1", "2"])) == Facts(1000, (224, 224), "2")
    assert OpenInference("m").facts(metadata(versions=["1", "2"])).version == "1, 2"
    assert OpenInference("m", "2").facts(metadata(versions=None)).version == "2"
    nhwc = metadata(inputs=tensors("input", "FP32", -1, 240, 320, 3))
    assert OpenInference("m", layout="nhwc").facts(nhwc).image_size == (240, 320)
    single = metadata(inputs=tensors("input", "FP32", 1, 3, 8, 8), outputs=tensors("output", "FP16", 7))
    assert OpenInference("m", images_per_request=1).facts(single) == Facts(7, (8, 8), "1")


def test_what_the_metadata_leave_open_stays_open() -> None:
    free = metadata(inputs=tensors("input", "FP32", -1, -1, -1, -1), outputs=tensors("output", "FP32", -1, -1))
    assert OpenInference("m").facts(free) == Facts(None, None, "1")
    for nothing in ([], None):  # MLServer and KServe's own servers, unless the model says more
        assert OpenInference("m").facts(metadata(inputs=nothing, outputs=nothing)) == Facts(None, None, "1")


@pytest.mark.parametrize(("shape", "expected"), [([-1], [2]), ([-1, 1], [2, 1]), ([-1, -1], [2, 1])])
def test_files_have_the_axes_of_the_metadata(shape: list[int], expected: list[int]) -> None:
    adapter = OpenInference("m", content="files")
    assert adapter.facts(metadata(inputs=tensors("input", "BYTES", *shape))).image_size is None
    request = adapter.request(IMAGES)
    assert parts(request.content, request.headers)[0]["inputs"][0]["shape"] == expected
    assert files(request) == IMAGES.files


def test_a_server_may_take_more_than_its_metadata_list() -> None:
    files_too = metadata(platform="OpenVINO", inputs=tensors("input", "FP32", -1, 240, 320, 3))
    adapter = OpenInference("m", content="files", layout="nhwc")
    assert adapter.facts(files_too).image_size == (240, 320)
    request = adapter.request(IMAGES)
    assert parts(request.content, request.headers)[0]["inputs"][0]["shape"] == [2]
    with pytest.raises(ConfigError, match=r"source\.adapter\.datatype: expected FP32, got UINT8"):
        OpenInference("m", datatype="UINT8", layout="nhwc").facts(files_too)
    ours = metadata(platform="reprogram")
    for choices in ({}, {"datatype": "UINT8"}, {"content": "files"}):
        assert OpenInference("m", **choices).facts(ours) == Facts(1000, (224, 224), "1")


@pytest.mark.parametrize(
    ("choices", "changes", "message"),
    [
        ({"input_name": "x"}, {}, r"input_name: expected one of input, got 'x'"),
        ({"output_name": "x"}, {}, r"output_name: expected one of output, got 'x'"),
        ({"version": "3"}, {"versions": ["1", "2"]}, r"version: expected one of 1, 2, got '3'"),
        ({"datatype": "UINT8"}, {}, r"datatype: expected FP32, got UINT8"),
        ({"content": "files"}, {}, r"content: expected tensor, for FP32, got files"),
        ({}, {"inputs": tensors("input", "BYTES", -1)}, r"content: expected files, for BYTES, got tensor"),
        ({"layout": "nhwc"}, {}, r"layout: expected 3 channels, got \[-1, 3, 224, 224\] as nhwc"),
        ({}, {"inputs": tensors("input", "FP32", 1, 3, 8, 8)}, r"images_per_request: expected 1, .*, got 8"),
        ({"content": "files"}, {"inputs": tensors("input", "BYTES", 1)}, r"images_per_request: expected 1, .*, got 8"),
    ],
)
def test_arguments_that_do_not_fit_the_model_are_named(
    choices: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=r"source\.adapter\." + message):
        OpenInference("m", **choices).facts(metadata(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": tensors("input", "FP16", -1, 3, 8, 8)}, r"expected an input of FP32, UINT8 or BYTES, got FP16"),
        ({"inputs": tensors("input", "FP32", 3, 8, 8)}, r"expected an input \[B, 3, H, W\] or .*, got \[3, 8, 8\]"),
        ({"inputs": tensors("input", "FP32", 4, 3, 8, 8)}, r"any number of images, or of one, got \[4, 3, 8, 8\]"),
        ({"outputs": tensors("output", "FP32")}, r"of shape \[B, K\], got \[\]"),
        ({"outputs": tensors("output", "INT64", -1, 1)}, r"expected 'output' of FP16, .*, got INT64"),
        ({"outputs": tensors("output", "FP32", -1, 8, 7, 7)}, r"of shape \[B, K\], got \[-1, 8, 7, 7\]"),
        ({"outputs": tensors("output", "FP32", 10)}, r"of shape \[B, K\], got \[10\]"),
        ({"inputs": [{"name": "input"}]}, r"expected inputs with name, datatype and shape"),
        ({"inputs": 3}, r"expected inputs with name, datatype and shape, got 3"),
    ],
)
def test_models_that_cannot_be_used_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnusableReply, match=message):
        OpenInference("m").facts(metadata(**changes))


def test_files_of_other_axes_are_refused() -> None:
    with pytest.raises(UnusableReply, match=r"expected an input \[B\] or \[B, 1\] of files, got \[-1, 1, 1\]"):
        OpenInference("m", content="files").facts(metadata(inputs=tensors("input", "BYTES", -1, 1, 1)))


@pytest.mark.parametrize("content", [b'{"error": "unknown model"}', b"[]", b"ok"])
def test_what_are_no_metadata_is_refused(content: bytes) -> None:
    with pytest.raises(UnusableReply, match=r"expected (the metadata of m|JSON), got"):
        OpenInference("m").facts(Reply(content, {}))


# ----------------------------------------------------------------------------------------------------------- choices


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"outputs": "scores"}, r"outputs: expected one of logits, probabilities, log_probabilities, got 'scores'"),
        ({"content": "file"}, r"content: expected one of tensor, files, got 'file'"),
        ({"datatype": "FP16"}, r"datatype: expected one of FP32, UINT8, got 'FP16'"),
        ({"layout": "chw"}, r"layout: expected one of nchw, nhwc, got 'chw'"),
        ({"mean": [0.5]}, r"mean and source\.adapter\.std: expected three means and three positive"),
        ({"std": [1.0, 0.0, 1.0]}, r"mean and source\.adapter\.std: expected three"),
        ({"std": STD, "datatype": "UINT8"}, r"mean and source\.adapter\.std: expected \[0,0,0\] and \[1,1,1\]"),
        ({"mean": MEAN, "content": "files"}, r"mean and source\.adapter\.std: expected \[0,0,0\] and \[1,1,1\]"),
        ({"images_per_request": 0}, r"images_per_request: expected a whole number >= 1, or null, got 0"),
    ],
)
def test_wrong_choices_are_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=r"source\.adapter\." + message):
        OpenInference("m", **choices)


def test_the_interface_knows_what_it_is() -> None:
    made = OpenInference("m", outputs="probabilities")
    assert (made.most, made.says_labels, made.has_scores, made.outputs) == (8, False, True, "probabilities")
    assert made.encodings == ("float", "png")
    assert OpenInference("m", datatype="UINT8").encodings == ("png",)
    assert OpenInference("m", content="files").encodings == ("png", "jpeg")


def test_what_changes_answers_changes_the_identity() -> None:
    choices: list[dict[str, Any]] = [
        *({}, {"version": "1"}, {"input_name": "a"}, {"output_name": "a"}, {"outputs": "probabilities"}),
        *({"content": "files"}, {"datatype": "UINT8"}, {"layout": "nhwc"}, {"mean": MEAN}, {"std": STD}),
    ]
    assert len({OpenInference("m", **one).identity for one in choices}) == len(choices)
    assert OpenInference("m", binary=False, images_per_request=3).identity == OpenInference("m").identity


@pytest.mark.parametrize("binary", [True, False])
def test_a_server_of_the_protocol_is_a_source(binary: bool) -> None:
    def server(sent: Sent, before: int) -> Says:
        if sent.path == "/v2/models/means":
            shapes = {"inputs": tensors("input", "FP32", -1, 3, 6, 5), "outputs": tensors("output", "FP32", -1, 3)}
            return Says({"name": "means", "versions": ["1"]} | shapes)
        assert sent.path == "/v2/models/means/infer"
        means = 10 * tensor(sent).mean((2, 3))
        reply = in_bytes((in_json(means), means.astype("<f4").tobytes())) if binary else said(in_json(means))
        return Says(reply.content, headers=dict(reply.headers))

    images = torch.rand(5, 3, 6, 5)
    with serving(server) as stub:
        adapter = OpenInference("means", binary=binary, images_per_request=2)
        source = HttpSource(stub.url, adapter, encoding="float", image_size=(6, 5))
        assert source.spec.class_names == ("class 0", "class 1", "class 2")
        torch.testing.assert_close(source(images), (10 * images.mean((2, 3))).log_softmax(1), atol=1e-5, rtol=0)
        assert len(stub.got) == 4
