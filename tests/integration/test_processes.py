"""One, two and four processes at the same global batch, by the script that compares them."""

import subprocess
import sys

import pytest
from oracle_process import ROOT

pytestmark = [pytest.mark.ddp, pytest.mark.slow]


def test_the_same_program_to_1e_5() -> None:
    command = [sys.executable, "-m", "scripts.check_processes", "--parts", "white"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("pixels differ by at most") == 2
