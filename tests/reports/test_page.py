import html
import re
from html.parser import HTMLParser

import pytest
from fabricated import make_run, predictions, rows

from reprogram.errors import RunError
from reprogram.reports.page import report

PRIVATE = {
    "licence": "CC BY-NC 4.0", "citation": "", "private": True, "classes": ["benign", "malignant"], "groups": True,
    "sizes": {"train": 400, "val": 60, "test": 60},
}  # fmt: skip
PAPER = {"table": "BAR, Table 5", "metric": "accuracy", "value": 0.8205, "note": "from memory"}


class Reader(HTMLParser):
    """Collects what a page refers to and refuses tags that do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attributes) -> None:
        self.references += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        self.tags.append(tag)
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def read(folder) -> tuple[str, Reader]:
    text = (folder / "report.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return text, reader


def words(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def test_the_page_needs_nothing_beside_it(tmp_path):
    for seed in range(2):
        make_run(tmp_path / "runs" / str(seed), seed=seed)
    told = report(f"{tmp_path}/runs/*", tmp_path / "out")
    assert told[-3:] == [
        "runs     2, experiments 1",
        *(f"report   {tmp_path}/out/report.{end}" for end in ("html", "md")),
    ]
    text, reader = read(tmp_path / "out")
    assert len(reader.references) > 4
    assert all(reference.startswith(("data:", "#experiment-")) for reference in reader.references)
    assert not {"script", "link", "iframe"} & set(reader.tags)
    assert "http" not in text.replace("base64", "")
    assert "/home/somebody" not in text
    assert "reprogram-train -m seed=0,1 data.path=ham.npz" in words(text)


def test_values_baselines_and_the_published_one_stand_side_by_side(tmp_path):
    make_run(tmp_path / "run", skills={"reprogrammed": 2.0, "majority": -2.0}, paper=PAPER)
    report(tmp_path / "run", tmp_path)
    found = predictions(rows(0, 60), skill=2.0)
    accuracy = f"{(found.scores.argmax(axis=1) == found.targets).mean():.3f}"
    text = words(read(tmp_path)[0])
    assert re.search(rf"reprogrammed {accuracy} 0\.\d\d to [01]\.\d\d", text)
    assert f"Published: accuracy 0.8205 (BAR, Table 5; from memory). Measured: {accuracy} (" in text
    assert "no claim: baselines not computed: raw linear; mapping only" in text
    for heading in ("Read with care", "By site", "Label map", "Operating points", "Confusion", "Each class"):
        assert heading in text
    assert "source benign 4 0.40 , source benign 3 0.30 , source benign 2 0.20 malignant" in text
    assert "960 (train 900, test 60)" in text


def test_bold_is_for_success_alone(tmp_path):
    skills = {"reprogrammed": 4.0, "majority": 0.0, "raw_linear": 0.2, "mapping_only": 0.1, "linear_probe": 0.3}
    make_run(tmp_path / "good" / "0", rows(0, 200), skills=skills)
    make_run(tmp_path / "bad" / "0", rows(0, 200), skills={**skills, "linear_probe": 4.0})
    for name, bold in (("good", True), ("bad", False)):
        report(tmp_path / name / "0", tmp_path / name)
        overview = (tmp_path / name / "report.html").read_text().split("<section")[0]
        assert ("<b>" in overview) is bold
        assert ('class="good"' in overview) is bold


def test_whatever_a_run_holds_is_escaped(tmp_path):
    evil = ("<b>bold</b>", "<script>alert(1)</script>")
    paper = {**PAPER, "table": "<i>", "note": "a | b"}
    environment = {
        "date": "",
        "python": "",
        "packages": {},
        "reprogram": "",
        "commit": "",
        "device": "<u>",
        "command": "<s>",
    }
    make_run(tmp_path / "<em>", classes=evil, paper=paper, task="<h1>|", environment=environment)
    report(tmp_path / "<em>", tmp_path)
    text, reader = read(tmp_path)
    assert not {"script", "i", "u", "s", "em", "b"} & set(reader.tags)
    assert reader.tags.count("h1") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert lines[2].startswith(r"| &lt;h1&gt;\| · resnet50 · white box")
    assert lines[2].endswith(r"accuracy 0.8205 (&lt;i&gt;; a \| b) |")


def test_private_examples_never_leave_the_run(tmp_path):
    make_run(tmp_path / "public")
    make_run(tmp_path / "private", data=PRIVATE)
    for name, pictures in (("public", 5), ("private", 4)):
        report(tmp_path / name, tmp_path)
        text, reader = read(tmp_path)
        assert reader.tags.count("img") == pictures
        assert ("Examples as the source sees them" in text) is (name == "public")


def test_the_markdown_table_is_well_formed(tmp_path):
    for seed in range(2):
        make_run(tmp_path / "runs" / f"a{seed}", seed=seed)
    make_run(tmp_path / "runs" / "b", classes="abc", config={"program": {"size": 3}})
    report(f"{tmp_path}/runs/*", tmp_path)
    assert "Contents" not in read(tmp_path)[0]
    lines = (tmp_path / "report.md").read_text().splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert len(lines) == 2 + 3 + 3
    assert {len(row) for row in cells} == {len(cells[0])}
    assert set("".join(cells[1])) <= set(" -:")
    sensitivity = [cell.strip() for cell in cells[0]].index("sensitivity")
    assert [bool(row[sensitivity].strip()) for row in cells[2:]] == [True] * 3 + [False] * 3
    assert cells[2][1].strip() == "2 seeds"


def test_contents_come_with_many_experiments_and_the_page_stays_small(tmp_path):
    for number in range(4):
        make_run(tmp_path / "runs" / str(number), config={"program": {"size": number}})
    report(f"{tmp_path}/runs/*", tmp_path, 20)
    text, reader = read(tmp_path)
    assert "Contents" in text
    assert reader.references.count("#experiment-4") == 2
    assert len(text) < 4 * 150_000


def test_runs_left_out_are_listed_on_the_page(tmp_path):
    make_run(tmp_path / "runs" / "whole")
    (make_run(tmp_path / "runs" / "half") / "metrics.json").unlink()
    told = report(f"{tmp_path}/runs/*", tmp_path)
    assert told[0].startswith(f"skipped  {tmp_path}/runs/half: expected a finished run")
    assert "runs/half : expected a finished run, but it holds no metrics.json" in words(read(tmp_path)[0])


def test_without_one_whole_run_there_is_no_report(tmp_path):
    make_run(tmp_path / "old", schema_version=1)
    with pytest.raises(RunError, match=r"(?s)none of the runs can be reported.*old: made by an older version"):
        report(tmp_path / "old", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused(tmp_path):
    make_run(tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="choose another output"):
        report(tmp_path / "run", tmp_path / "file")
