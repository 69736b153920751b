import csv
import os

import pytest

from reprogram.active.sheet import Filled, check_ids, read_sheet, skip_word, write_sheet
from reprogram.errors import DataError

IDS = ["b.png", "0012", "c, d.png", 'say "x"', "=1+1"]
CLASSES = ["benign", "malignant", "Malignant, late"]


def read(tmp_path, content, ids=IDS, classes=CLASSES) -> Filled:
    path = tmp_path / "sheet.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = path.read_bytes(), os.stat(path).st_mtime_ns
    try:
        return read_sheet(path, ids, classes)
    finally:
        assert (path.read_bytes(), os.stat(path).st_mtime_ns) == before


def refusal(tmp_path, content, ids=IDS, classes=CLASSES) -> str:
    with pytest.raises(DataError) as caught:
        read(tmp_path, content, ids, classes)
    return str(caught.value)


def test_a_new_sheet_holds_every_id_and_no_label(tmp_path) -> None:
    ids = [*IDS, "two\nlines", "a\rb", "</script>"]
    write_sheet(tmp_path / "new" / "sheet.csv", ids)
    with (tmp_path / "new" / "sheet.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["id", "label"], *([name, ""] for name in ids)]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sheet.csv"]
    assert read_sheet(tmp_path / "new" / "sheet.csv", ids, CLASSES) == Filled({}, (), tuple(ids))


def test_only_a_sheet_beyond_ascii_bears_the_mark_of_its_encoding(tmp_path) -> None:
    write_sheet(tmp_path / "a.csv", ["a"])
    write_sheet(tmp_path / "b.csv", ["ä"])
    assert (tmp_path / "a.csv").read_bytes() == b"id,label\r\na,\r\n"
    assert (tmp_path / "b.csv").read_bytes() == b"\xef\xbb\xbfid,label\r\n\xc3\xa4,\r\n"
    assert read_sheet(tmp_path / "b.csv", ["ä"], CLASSES).empty == ("ä",)


def test_a_sheet_that_is_there_is_never_replaced(tmp_path) -> None:
    path = tmp_path / "sheet.csv"
    path.write_text("a person's work")
    with pytest.raises(DataError, match=r"sheet\.csv: expected nothing of that name yet"):
        write_sheet(path, IDS)
    assert path.read_text() == "a person's work"
    assert [entry.name for entry in tmp_path.iterdir()] == ["sheet.csv"]
    with pytest.raises(DataError, match="choose a folder to write to"):
        write_sheet(path / "below" / "sheet.csv", IDS)


@pytest.mark.parametrize("ids", [["a", "a"], ["a", " a"], [""], ["a", " "], ["\udcff"]])
def test_ids_that_a_sheet_cannot_hold_are_refused(tmp_path, ids) -> None:
    with pytest.raises(DataError, match="rename"):
        check_ids(ids)
    with pytest.raises(DataError, match="rename"):
        write_sheet(tmp_path / "sheet.csv", ids)
    assert list(tmp_path.iterdir()) == []


def test_labels_skips_and_what_is_empty_are_told_apart(tmp_path) -> None:
    found = read(tmp_path, 'id,label\n0012,skip\nb.png,malignant\n"c, d.png",\n"say ""x""",benign\n')
    assert found == Filled({"b.png": "malignant", 'say "x"': "benign"}, ("0012",), ("c, d.png", "=1+1"))
    assert list(found.labels) == ["b.png", 'say "x"']


@pytest.mark.parametrize(
    "content",
    [
        "id,label\r\na,One\r\nb,two\r\nc,skip\r\n",
        "\ufeffid,label\na,One\nb,two\nc,skip",
        "id;label\na;One\nb;two\nc;skip\n",
        "id\tlabel\na\tOne\nb\ttwo\nc\tskip\n",
        "id,label\ra,One\rb,two\rc,skip\r",
        '\n , \nid , label\n\n b , two \n ,\n a,"One"\n\nc, skip\n\n',
        "when,Label,ID,\n1,skip,c,\n2,One,a,\n,,,\nnote,,\n3,TWO,b,,,\n",
        "id,label\na,ONE\nb,Two\nc,SKIP\n",
        "id,label\na,One\nb,two\nc,skip\n".encode("utf-16"),
    ],
    ids=["crlf", "mark", "semicolon", "tab", "cr", "spaces", "columns", "case", "utf-16"],
)
def test_what_does_no_harm_is_accepted(tmp_path, content) -> None:
    assert read(tmp_path, content, ["a", "b", "c"], ["One", "two"]) == Filled({"a": "One", "b": "two"}, ("c",), ())


def test_a_file_of_a_windows_program_is_read_where_its_names_are_known(tmp_path) -> None:
    content = "id;label\nMüller;gutartig\n".encode("cp1252")
    assert read(tmp_path, content, ["Müller"], ["gutartig", "bösartig"]).labels == {"Müller": "gutartig"}
    message = refusal(tmp_path, "id;label\nMüller;gutartig\n".encode("mac-roman"), ["Müller"], ["gutartig", "b"])
    assert "line 2, id 'MŸller'; was it 'Müller'?" in message
    assert "not in UTF-8" in message
    assert "save the sheet as CSV in UTF-8" in refusal(tmp_path, b"id,label\na,\x81\n", ["a"])


def test_a_name_in_the_wrong_case_needs_to_be_unambiguous(tmp_path) -> None:
    classes = ["a", "A", "bee", " cee"]
    rows = "id,label\n1,a\n2,A\n3,BEE\n4,cee\n"
    assert list(read(tmp_path, rows, list("1234"), classes).labels.values()) == ["a", "A", "bee", " cee"]
    assert "line 2, id '1': 'X'" in refusal(tmp_path, "id,label\n1,X\n", ["1"], ["x ", " x", "y"])


def test_a_class_may_be_called_skip(tmp_path) -> None:
    assert skip_word(["a", "b"]) == "skip"
    assert skip_word(["Skip", "b"]) is None
    assert read(tmp_path, "id,label\n1,skip\n", ["1"], ["Skip", "b"]) == Filled({"1": "Skip"}, (), ())


def test_all_mistakes_are_named_at_once(tmp_path) -> None:
    rows = ["0012,benin", "b.png,benign", "b.png,malignant", "12,benign", "zzz,", ",benign", "c, d.png,benign"]
    message = refusal(tmp_path, "\n".join(["id,label", *rows, "=1+1,?", "=1+1,?"]), [*IDS, "zzzz"])
    assert message.splitlines()[1:] == [
        "  no such class (2):",
        "    line 2, id '0012': 'benin'; near: 'benign'",
        "    line 9, id '=1+1': '?'",
        "  the same id twice (2):",
        "    line 4, id 'b.png': also in line 3 ('benign' there, 'malignant' here); keep one",
        "    line 10, id '=1+1': also in line 9 ('?' there, '?' here); keep one",
        "  no id (1):",
        "    line 7: label 'benign' of no image",
        "  more cells than columns (1):",
        "    line 8, id 'c': quote a cell that holds a delimiter",
        "  no such id (2):",
        "    line 5, id '12'; no image of this sheet",
        "    line 6, id 'zzz'; was it 'zzzz'?",
        "  classes: 'benign', 'malignant', 'Malignant, late'; 'skip' for an image that cannot be labelled",
        "Correct the sheet and start the same command again; nothing in it was changed.",
    ]


def test_an_id_that_a_spreadsheet_changed_is_recognised_but_not_changed_back(tmp_path) -> None:
    message = refusal(tmp_path, "id,label\nb.png,benign\n12,benign\n")
    assert "line 3, id '12'; was it '0012'? Spreadsheet programs turn 0012 into 12" in message
    assert "was it '1e3'? Spreadsheet" in refusal(tmp_path, "id,label\n1.00E+03,benign\n", ["1e3"])


def test_many_mistakes_of_a_kind_are_counted(tmp_path) -> None:
    ids = [f"image {number}" for number in range(30)]
    classes = [f"class {number}" for number in range(20)]
    message = refusal(tmp_path, "\n".join(["id,label", *(f"{name},klass 3" for name in ids)]), ids, classes)
    assert message.count("near: 'class 3'") == 5
    assert "no such class (30):" in message
    assert "and 25 more" in message
    assert "classes: 20 of them" in message


def test_a_line_break_within_a_cell_does_not_confuse_the_line_numbers(tmp_path) -> None:
    message = refusal(tmp_path, 'id,label\n"two\nlines",benign\nb.png,x\n', ["two\nlines", "b.png"])
    assert "line 4, id 'b.png': 'x'" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "an empty file"),
        (b"name,label\na,b\n", "'name,label'"),
        (b"id,label,label\na,b,c\n", "'id,label,label'"),
        (b"id label\n", "'id label'"),
        (b"PK\x03\x04...", "export the table as CSV"),
        (b'id,label\nb.png,"benign\n0012,benign\n', "in line 2"),
        (b"\x00\x01\x02", "expected the header id,label"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path, content, expected) -> None:
    assert expected in refusal(tmp_path, content)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: expected the filled sheet, got: No such file"):
        read_sheet(tmp_path / "none.csv", IDS, CLASSES)
    with pytest.raises(DataError, match="expected the filled sheet"):
        read_sheet(tmp_path, IDS, CLASSES)


def test_a_large_sheet_is_read_in_no_time(tmp_path) -> None:
    ids = [f"{number:06}.png" for number in range(5_000)]
    classes = [f"class {number}" for number in range(1_000)]
    rows = (f"{name},{classes[row % 1_000].upper()}" for row, name in enumerate(ids))
    assert len(read(tmp_path, "\n".join(["id,label", *rows]), ids, classes).labels) == 5_000
    assert "no such id (5000)" in refusal(tmp_path, "id,label\n" + "\n".join(f"x{name}," for name in ids), ids)
