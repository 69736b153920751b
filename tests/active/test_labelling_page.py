import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reprogram.active.page import write_page
from reprogram.active.sheet import read_sheet, write_sheet
from reprogram.errors import ConfigError, DataError, ShapeError

IDS = ["b.png", "</script><b>bold</b>", 'say "x", y', "two\nlines", "=1+1", "0012", "ärztin <!-- ", "{{ 7 * 7 }}\u2028"]
CLASSES = ["benign", 'say "no"', "</script><i>late</i>", "x, y", "grün", "&amp;"]


class Reader(HTMLParser):
    """What a browser would see: tags, text by id, addresses; refuses tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.names: list[str] = []
        self.scripts: dict[str, str] = {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if not self.open:
            return
        tag, attributes = self.tags[-1]
        if self.open[-1] == "script":
            name = attributes["id"]
            self.scripts[name] = self.scripts.get(name, "") + data
        elif tag == "span" and attributes.get("class") == "id" and self.open[-1] == "span" and "id" not in attributes:
            self.names.append(data)

    def having(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag and wanted.items() <= found.items()]


def written(folder: Path, ids=IDS, classes=CLASSES, images=None, name="page.html", **more) -> tuple[str, Reader]:
    if images is None:
        images = torch.randint(0, 256, (len(ids), 3, 5, 7), dtype=torch.uint8)
    path = folder / name
    write_page(path, ids, images, classes, "Round 1 & <more>", {"Task": "a < b", "Licence": "CC0"}, **more)
    text = path.read_text(encoding="utf-8")
    return text, Reader(text)


def evaluated(reader: Reader, expression: str):
    """What an expression over the page's pure functions gives; ``data`` is the page's own."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("the page's script: put node on the path")
    code = f"{reader.scripts['functions']}\nconst data = {reader.scripts['data']};\n"
    code += f"process.stdout.write(JSON.stringify({expression}));"
    done = subprocess.run([node, "-"], input=code, capture_output=True, encoding="utf-8", check=True, timeout=60)
    return json.loads(done.stdout)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_pictures_are_the_very_pixels_in_the_order_of_the_ids(tmp_path, channels) -> None:
    images = torch.randint(0, 256, (4, channels, 9, 6), dtype=torch.uint8)
    _, reader = written(tmp_path, ["d", "c", "b", "a"], images=images)
    pictures = [image["src"] for image in reader.having("img", loading="lazy")]
    assert reader.names == ["d", "c", "b", "a"]
    for picture, image in zip(pictures, images, strict=True):
        head, _, content = picture.partition(",")
        assert head == "data:image/png;base64"
        opened = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
        assert opened.format == "PNG"
        expected = image[0] if channels == 1 else image.permute(1, 2, 0)
        np.testing.assert_array_equal(np.asarray(opened), expected.numpy())


def test_the_page_needs_nothing_beside_it(tmp_path) -> None:
    text, reader = written(tmp_path)
    own = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    assert re.findall(r"http\S*", own) == ['http-equiv="Content-Security-Policy"']
    assert not re.search(r"url\(|@import|\bfetch\b|XMLHttpRequest|WebSocket|sendBeacon|import\(|//\w", own)
    addresses = [value for _, found in reader.tags for name, value in found.items() if name in ("src", "href")]
    assert len(addresses) == len(IDS)
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert {tag for tag, _ in reader.tags}.isdisjoint({"link", "iframe", "object", "form", "base", "b>"})
    (policy,) = reader.having("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'; img-src data:;")


def test_names_with_any_letters_stay_text(tmp_path) -> None:
    text, reader = written(tmp_path, groups=["<u>", *"1234567"])
    assert reader.names == IDS
    assert list(reader.scripts) == ["data", "functions", "page"]
    data = json.loads(reader.scripts["data"])
    assert (data["ids"], data["classes"], data["skip"]) == (IDS, CLASSES, "skip")
    assert data["groups"] == ["<u>", *"1234567"]
    assert not re.search(r"<b>bold|<i>|<u>", text)
    assert text.count("</script>") == 3
    assert "<title>Round 1 &amp; &lt;more&gt;</title>" in text
    assert "<dt>Task</dt><dd>a &lt; b</dd>" in text


def test_there_is_a_button_for_each_class_and_for_skip(tmp_path) -> None:
    _, reader = written(tmp_path, classes=[f"class {number}" for number in range(12)])
    buttons = reader.having("button", **{"class": "class"})
    assert [button["data-choice"] for button in buttons] == [*map(str, range(12)), "-1"]
    assert all(button["type"] == "button" for button in reader.having("button"))
    _, reader = written(tmp_path, classes=["Skip", "other"])
    assert [button["data-choice"] for button in reader.having("button", **{"class": "class"})] == ["0", "1"]
    assert json.loads(reader.scripts["data"])["skip"] is None


@pytest.mark.parametrize(
    ("classes", "keys", "skip_key"),
    [
        (["benign", "malignant"], ["1", "2"], "0"),
        (["0", "1", "2"], ["0", "1", "2"], "s"),  # 1 means class 1, not the first
        ([" 1 mild", "00 none", "12", "9-a"], ["1", "0", "", "9"], "s"),
        (["1", "2", "other"], ["1", "2", "3"], "0"),
        (["1a", "1b"], ["1", "2"], "0"),
        ([f"c{number}" for number in range(11)], [*"123456789", "", ""], "0"),
        (["Skip", "b"], ["1", "2"], None),
    ],
)
def test_keys_do_not_contradict_the_numbers_of_grades(tmp_path, classes, keys, skip_key) -> None:
    text, reader = written(tmp_path, classes=classes)
    data = json.loads(reader.scripts["data"])
    assert (data["keys"], data["skipKey"]) == (keys, skip_key)
    moves = ["&larr;", "&rarr;", "n", "Del"]
    shown = [key for key in [*keys, skip_key] if key]
    assert re.findall(r"<kbd>(.*?)</kbd>", text) == shown + moves


def test_every_part_that_the_script_uses_is_there_once(tmp_path) -> None:
    _, reader = written(tmp_path)
    named = [found["id"] for _, found in reader.tags if "id" in found]
    assert len(set(named)) == len(named)
    used = set(re.findall(r"(?:part|able)\(\"(\w+)\"", reader.scripts["page"]))
    assert {"picture", "classes", "message"} & used == {"picture", "message"}
    assert used <= set(named)
    assert "document" not in reader.scripts["functions"].replace("No document in here", "")
    assert "localStorage" not in reader.scripts["functions"]


def test_pages_do_not_share_their_choices(tmp_path) -> None:
    images = torch.zeros(len(IDS), 3, 5, 7, dtype=torch.uint8)

    def key(**changed) -> str:
        _, reader = written(**{"folder": tmp_path, "images": images} | changed)
        return json.loads(reader.scripts["data"])["key"]

    first = key()
    assert key() == first  # written again, it goes on with the choices
    others = [key(name="beside.html"), key(ids=IDS[::-1]), key(classes=CLASSES[::-1]), key(images=images + 1)]
    assert len({first, *others}) == 5
    assert str(tmp_path) not in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("size", "stage", "thumb", "pixels"),
    [((28, 28), (308, 308), (84, 84), 3), ((5, 7), (315, 225), (91, 65), 3), ((128, 64), (128, 256), (48, 96), 2),
     ((640, 320), (160, 320), (48, 96), 0), ((1, 900), (320, 1), (96, 1), 0)],
)  # fmt: skip
def test_small_images_are_enlarged_in_whole_steps(tmp_path, size, stage, thumb, pixels) -> None:
    _, reader = written(tmp_path, ["a"], images=torch.zeros(1, 1, *size, dtype=torch.uint8))
    (large,), (small,) = reader.having("img", id="picture"), reader.having("img", loading="lazy")
    assert (large["width"], large["height"]) == tuple(map(str, stage))
    assert (small["width"], small["height"]) == tuple(map(str, thumb))
    assert len(reader.having("img", **{"class": "pixels"})) == pixels


def test_what_cannot_be_a_page_is_refused(tmp_path) -> None:
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    for wrong in (images.float(), images[:, :2], images[0], images[:0]):
        with pytest.raises(ShapeError, match="expected uint8 images"):
            written(tmp_path, ["a", "b"], images=wrong)
    with pytest.raises(ShapeError, match="got 2 images, 1 ids"):
        written(tmp_path, ["a"], images=images)
    with pytest.raises(ShapeError, match="2 ids, 1 groups"):
        written(tmp_path, ["a", "b"], images=images, groups=["1"])
    with pytest.raises(ConfigError, match="at least one class"):
        written(tmp_path, ["a", "b"], [], images)
    with pytest.raises(DataError, match="rename"):
        written(tmp_path, ["a", "a"], images=images)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write the page"):
        written(tmp_path / "file", ["a", "b"], images=images)


def test_the_page_saves_the_sheet_that_is_read(tmp_path) -> None:
    _, reader = written(tmp_path)
    choices = [0, 1, 2, 3, 4, 5, -1, None]
    saved = evaluated(reader, f"sheetText(data.ids, {json.dumps(choices)}, data.classes, data.skip)")
    (tmp_path / "sheet.csv").write_bytes(saved.encode())
    found = read_sheet(tmp_path / "sheet.csv", IDS, CLASSES)
    assert found.labels == dict(zip(IDS, CLASSES, strict=False))
    assert (found.skipped, found.empty) == ((IDS[6],), (IDS[7],))


@pytest.mark.parametrize("ids", [IDS, ["a", "b,c", "d\re"]])
def test_an_unfilled_sheet_of_the_page_is_the_one_written(tmp_path, ids) -> None:
    _, reader = written(tmp_path, ids)
    write_sheet(tmp_path / "sheet.csv", ids)
    saved = evaluated(reader, "sheetText(data.ids, data.ids.map(() => null), data.classes, data.skip)")
    assert saved.encode() == (tmp_path / "sheet.csv").read_bytes()


def test_the_page_reads_sheets_as_the_program_does(tmp_path) -> None:
    ids, classes = ["a", "b", "c, d", 'e "f"', "g\nh"], ["One", "two", "Two", "x"]
    _, reader = written(tmp_path, ids, classes)
    rows = ["ID ;when; label;", " b;;ONE", ' "c, d" ;"x;y"; two ', '"e ""f""";;Skip', '"g\nh";;x', ";;;", "a;;"]
    text = json.dumps("\ufeff" + "\r\n".join(rows))
    call = f"(({{found, ...rest}}) => [[...found], rest])(readSheet({text}, data.ids, data.classes, data.skip))"
    assert evaluated(reader, call) == [[[1, 0], [2, 1], [3, -1], [4, 3]], {"unknownIds": [], "unknownLabels": []}]
    (tmp_path / "sheet.csv").write_bytes(("\ufeff" + "\r\n".join(rows).replace('" ;', '";')).encode())
    assert read_sheet(tmp_path / "sheet.csv", ids, classes).labels == {"b": "One", "c, d": "two", "g\nh": "x"}
    call = "readSheet('id,label\\nz,One\\na,TWO\\nb,three', data.ids, data.classes, data.skip)"
    assert evaluated(reader, call) == {"found": {}, "unknownIds": ["z"], "unknownLabels": ["TWO", "three"]}
    broken = ["", "name,label\\na,b", 'id,label\\na,"One']
    wanted = ", ".join(f"readSheet('{text}', data.ids, data.classes, data.skip)" for text in broken)
    assert evaluated(reader, f"[{wanted}]") == [None, None, None]
    decoding = "[decoded(new Uint8Array([0xc3, 0xa4])), decoded(new Uint8Array([0xe4]))]"
    assert evaluated(reader, decoding) == ["ä", "ä"]


def test_keys_and_kept_choices_mean_what_they_say(tmp_path) -> None:
    _, reader = written(tmp_path)
    keys = ["1", "6", "7", "0", "ArrowLeft", "n", "Delete", "x", ""]
    assert evaluated(reader, f"{json.dumps(keys)}.map((key) => meaning(key, data.keys, data.skipKey))") == [
        ["choose", 0], ["choose", 5], None, ["choose", -1], ["move", -1], ["open", None], ["clear", None], None, None,
    ]  # fmt: skip
    kept = [None, "0", "5", "6", "-1", "-2", "x", "", "1.5"]
    assert evaluated(reader, f"{json.dumps(kept)}.map((text) => keptChoice(text, data.classes, data.skip))") == [
        None, 0, 5, None, -1, None, None, None, None,
    ]  # fmt: skip
    assert evaluated(reader, "[meaning('0', data.keys, null), keptChoice('-1', data.classes, null)]") == [None, None]
    calls = "[nextOpen([null, 1, null], 0), nextOpen([null, 1, 1], 0), nextOpen([1, -1], 0), nextOpen([null], 0)]"
    assert evaluated(reader, calls) == [2, 0, None, 0]
