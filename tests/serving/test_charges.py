"""The bill: what is on it, and what is on it once."""

from pathlib import Path

import pytest

from reprogram.errors import ConfigError
from reprogram.serving.charges import Charges


def test_a_line_a_request_and_one_for_a_key(tmp_path: Path) -> None:
    file = tmp_path / "charges"
    bill = Charges(str(file))
    for images, key in ((3, None), (3, None), (2, "a"), (2, "a"), (5, "b"), (2, "a")):
        bill.charge(images, key)
    assert file.read_text() == "3\n3\n2\n5\n"
    Charges(str(file)).charge(7)  # after a restart
    assert file.read_text().splitlines()[-2:] == ["5", "7"]


def test_none_and_nowhere(tmp_path: Path) -> None:
    Charges(None).charge(3)
    with pytest.raises(ConfigError, match=r"charges: cannot write .*choose another file"):
        Charges(str(tmp_path / "no" / "folder"))
