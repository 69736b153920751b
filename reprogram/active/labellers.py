"""Who gives the labels: the data set, in a simulation, or a person with a sheet to fill."""

from collections.abc import Mapping
from typing import NamedTuple

from reprogram.active.page import write_page
from reprogram.active.round_files import Round
from reprogram.active.sheet import read_sheet, write_sheet
from reprogram.data.pool import Pool
from reprogram.errors import DataError


class Given(NamedTuple):
    """Class names by id, and the ids that cannot be labelled."""

    labels: Mapping[str, str]
    skipped: tuple[str, ...] = ()


class Waiting(Exception):  # noqa: N818 - nothing is wrong
    """A person has not filled a sheet yet; the message says where it lies."""


def from_data(this: Round, pool: Pool, row_of: Mapping[str, int]) -> Given:
    """The labels that come with the data.

    Raises:
        DataError: If some have none.
    """
    ids = this.chosen() or []
    unknown = [name for name in ids if pool.known[row_of[name]] < 0]
    if unknown:
        raise DataError(
            f"{pool.spec.name}: expected the labels of all examples, got none of {len(unknown)} that were chosen "
            f"({', '.join(unknown[:5])}); set active.labels=person"
        )
    return Given({name: pool.spec.class_names[pool.known[row_of[name]]] for name in ids})


def from_person(this: Round, pool: Pool, row_of: Mapping[str, int], partial: bool) -> Given:
    """What a person has written into the sheet of the round, which is made, with its page, where there is none.

    Raises:
        Waiting: If nothing is filled in yet.
        DataError: If something is wrong with the sheet, or only a part of it is filled and that will not do.
    """
    ids = this.chosen() or []
    sheet, page = this.path / "sheet.csv", this.path / "page.html"
    if not page.is_file():
        examples = pool.examples.subset([row_of[name] for name in ids])
        title, facts = f"{pool.spec.name}, round {this.number}", {"licence": pool.spec.licence}
        write_page(page, ids, examples.images[:], pool.spec.class_names, title, facts, examples.groups)
    where = f"fill {sheet} (the images are in {page}), then the same command goes on"
    if not sheet.is_file():
        write_sheet(sheet, ids)
        raise Waiting(f"{len(ids)} examples to label: {where}")
    filled = read_sheet(sheet, ids, pool.spec.class_names)
    done = len(filled.labels) + len(filled.skipped)
    if not done:
        raise Waiting(f"{len(ids)} examples to label: {where}")
    if filled.empty and not partial:
        raise DataError(
            f"{sheet}: {done} of {len(ids)} rows are filled, expected all; first without a label: "
            f"{', '.join(filled.empty[:5])}; fill them (or write skip), or set active.partial=true to go on with these"
        )
    return Given(filled.labels, filled.skipped)
