"""A run that is asked to end in one phase after the other ends as if nobody had asked."""

import subprocess
import sys

import pytest
from oracle_process import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["white_box", "black_box", pytest.param("two_processes", marks=pytest.mark.ddp)])
def test_sigterm_in_each_phase(kind: str) -> None:
    command = [sys.executable, "-m", "scripts.check_preemption", "--chain", "--kinds", kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("exit code 75") == 4
