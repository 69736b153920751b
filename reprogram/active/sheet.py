"""The sheet that a person fills: a CSV file with one row for each image that needs a label."""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from io import StringIO
from pathlib import Path

from reprogram.errors import DataError

COLUMNS = ("id", "label")
_SKIP = "skip"
_DELIMITERS = ",;\t"
_SHOWN = 5  # mistakes of each kind
_FEW_CLASSES = 12  # that a message names all of


@dataclass(frozen=True)
class Filled:
    """What a person has written into a sheet; everything in the order in which the ids were asked.

    Args:
        labels: Class name by id.
        skipped: Ids marked ``skip``: they cannot be labelled.
        empty: Ids without a label so far, or whose row is gone.
    """

    labels: dict[str, str]
    skipped: tuple[str, ...]
    empty: tuple[str, ...]


def skip_word(class_names: Sequence[str]) -> str | None:
    """What a label cell says of an image that cannot be labelled; ``None``: a class has that name."""
    return None if any(_folded(name) == _SKIP for name in class_names) else _SKIP


def check_ids(ids: Sequence[str]) -> None:
    """Refuses ids that a sheet cannot tell apart or hold.

    Raises:
        DataError: If an id is empty, is no text in Unicode, or equals another but for the spaces around them.
    """
    seen: dict[str, str] = {}
    for name in ids:
        key = name.strip()
        if not key or key in seen:
            problem = f"{name!r} beside {seen[key]!r}" if key else f"{name!r}"
            raise DataError(f"sheet: expected ids that differ in more than spaces, got {problem}; rename one")
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise DataError(f"sheet: expected ids that UTF-8 can hold, got {name!r}; rename the file")
        seen[key] = name


def write_sheet(path: Path, ids: Sequence[str]) -> None:
    """Writes a sheet with empty labels, and its folder where there is none; it is whole or not there.

    Args:
        path: The CSV file; one that exists may hold a person's work and is never replaced.
        ids: One for each row.

    Raises:
        DataError: If the file exists or cannot be written, or for the reasons of ``check_ids``.
    """
    check_ids(ids)
    table = StringIO(newline="")
    csv.writer(table).writerows([COLUMNS, *((name, "") for name in ids)])
    # Spreadsheet programs take letters beyond ASCII for UTF-8 only if the file begins with its mark.
    encoding = "utf-8" if table.getvalue().isascii() else "utf-8-sig"
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(table.getvalue().encode(encoding))
        path.open("x").close()  # takes the name or fails: between a look and a rename somebody else could
        draft.replace(path)
    except FileExistsError as error:
        raise DataError(
            f"{error.filename}: expected nothing of that name yet, got a file, maybe a filled sheet; move it away"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot write the sheet: {error.strerror}; choose a folder to write to") from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def read_sheet(path: Path, ids: Sequence[str], class_names: Sequence[str]) -> Filled:
    """Reads what a person has filled in so far, and leaves the file as it is.

    It may be in UTF-8 or as Windows programs save it, have any line ends, commas, semicolons or tabs, rows in another
    order, further columns, blank lines, and spaces around cells. A class is taken by its name, or else by its name in
    upper or lower case if that is one class's alone.

    Args:
        path: The CSV file.
        ids: Those that were asked.
        class_names: The classes a label may name.

    Raises:
        DataError: If there is no such table; if a row has an id that was not asked, no id, a class that does not
            exist, or more cells than the header; if an id has two rows. One message for all mistakes.
    """
    check_ids(ids)
    text, guessed = _text(path)
    asked = {name.strip(): name for name in ids}
    skip = skip_word(class_names)
    named = cache(lambda cell: _class_named(cell, class_names))
    rows: dict[str, tuple[int, str]] = {}  # line and label by id as it stands there
    labels: dict[str, str] = {}
    skipped: set[str] = set()
    mistakes: dict[str, list[str]] = {}  # by kind
    strangers = []
    for line, name, label, too_long in _rows(path, text):
        where = f"line {line}, id {name!r}"
        if too_long:
            _note(mistakes, "more cells than columns", f"{where}: quote a cell that holds a delimiter")
        elif not name:
            _note(mistakes, "no id", f"line {line}: label {label!r} of no image")
        elif name in rows:
            other, before = rows[name]
            both = f"{before or 'empty'!r} there, {label or 'empty'!r} here"
            _note(mistakes, "the same id twice", f"{where}: also in line {other} ({both}); keep one")
        else:
            rows[name] = line, label
            if name not in asked:
                strangers.append((where, name))
            elif skip and _folded(label) == skip:
                skipped.add(asked[name])
            elif label and (found := named(label)) is None:
                _note(mistakes, "no such class", f"{where}: {label!r}{_near_classes(label, class_names)}")
            elif label:
                labels[asked[name]] = str(found)
    gone = [name for name in asked if name not in rows]
    for count, (where, name) in enumerate(strangers):
        _note(mistakes, "no such id", where + (_near_ids(name, gone) if count < _SHOWN else ""))
    if mistakes:
        raise DataError(_message(path, mistakes, class_names, guessed))
    return Filled(
        labels={name: labels[name] for name in ids if name in labels},
        skipped=tuple(name for name in ids if name in skipped),
        empty=tuple(name for name in ids if name not in labels and name not in skipped),
    )


def _text(path: Path) -> tuple[str, bool]:
    """What the file says, and whether its encoding was guessed."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected the filled sheet, got: {error.strerror}; save it there") from error
    if content.startswith(b"PK\x03\x04"):
        raise DataError(f"{path}: expected a CSV file, got a workbook or archive; export the table as CSV")
    marked = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    # The last is a guess; a wrong one makes ids or classes that do not exist, and these are refused.
    for encoding in ("utf-16",) if marked else ("utf-8-sig", "cp1252"):
        try:
            return content.decode(encoding), encoding == "cp1252"
        except UnicodeDecodeError:
            continue
    raise DataError(f"{path}: expected text in UTF-8, got other bytes; save the sheet as CSV in UTF-8")


def _rows(path: Path, text: str) -> Iterator[tuple[int, str, str, bool]]:
    """Line, id, label, and whether there are more cells than columns, of each row that says something.

    Raises:
        DataError: If it is not a table, or a column is missing or there twice.
    """
    lines = enumerate(StringIO(text, newline=""), 1)
    top, first = next(((number, line) for number, line in lines if line.strip(_DELIMITERS + " \r\n")), (0, ""))
    headers = {delimiter: _header(first, delimiter) for delimiter in _DELIMITERS}
    fits = [delimiter for delimiter, header in headers.items() if all(header.count(name) == 1 for name in COLUMNS)]
    if not fits:
        got = repr(first.strip()[:80]) if first else "an empty file"
        raise DataError(f"{path}: expected the header {','.join(COLUMNS)} (each once), got {got}; put it back")
    header = headers[fits[0]]
    places = [header.index(name) for name in COLUMNS]
    reader = csv.reader(StringIO(text, newline=""), delimiter=fits[0], skipinitialspace=True, strict=True)
    line = 1
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            name, label = (stripped[place] if place < len(stripped) else "" for place in places)
            if line > top and (name or label):
                yield line, name, label, any(stripped[len(header) :])
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}: expected a CSV file, got in line {line}: {error}; mend the quotes there") from error


def _header(line: str, delimiter: str) -> list[str]:
    return [_folded(cell) for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])]


def _folded(text: str) -> str:
    return text.strip().casefold()


def _class_named(cell: str, class_names: Sequence[str]) -> str | None:
    for form in (str, str.strip, _folded):
        same = [name for name in class_names if form(name) == form(cell)]
        if same:
            return same[0] if len(same) == 1 else None
    return None


def _near_classes(label: str, class_names: Sequence[str]) -> str:
    by_form = {_folded(name): name for name in class_names}
    near = [by_form[form] for form in get_close_matches(_folded(label), by_form, n=3)]
    return f"; near: {', '.join(map(repr, near))}" if near else ""


def _near_ids(name: str, gone: Sequence[str]) -> str:
    """Which of the ids without a row an unknown id may have been."""
    same = [other for other in gone if _is_number(other) and _is_number(name) and float(other) == float(name)]
    if same:
        return f"; was it {same[0]!r}? Spreadsheet programs turn 0012 into 12: open the sheet anew, with ids as text"
    near = get_close_matches(name, gone, n=1)
    return f"; was it {near[0]!r}?" if near else "; no image of this sheet"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _note(mistakes: dict[str, list[str]], kind: str, text: str) -> None:
    mistakes.setdefault(kind, []).append(text)


def _message(path: Path, mistakes: Mapping[str, Sequence[str]], class_names: Sequence[str], guessed: bool) -> str:
    """All kinds of mistakes, the first few of each, and what to do."""
    lines = [f"{path}: expected ids as they were written and labels among the classes, got:"]
    for kind, notes in mistakes.items():
        lines.append(f"  {kind} ({len(notes)}):")
        lines += [f"    {note}" for note in notes[:_SHOWN]]
        lines += [f"    and {len(notes) - _SHOWN} more"] if len(notes) > _SHOWN else []
    if "no such class" in mistakes:
        few = len(class_names) <= _FEW_CLASSES
        known = ", ".join(map(repr, class_names)) if few else f"{len(class_names)} of them"
        skip = skip_word(class_names)
        lines.append(f"  classes: {known}" + (f"; {skip!r} for an image that cannot be labelled" if skip else ""))
    if guessed:
        lines.append("  the file is not in UTF-8: if letters above are wrong, save it as CSV in UTF-8")
    lines.append("Correct the sheet and start the same command again; nothing in it was changed.")
    return "\n".join(lines)
