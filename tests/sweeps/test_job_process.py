"""What a job says to its worker, and how both notice that the other is gone."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from reprogram.sweeps.job import last_words, run

SPEAKS = "import sys; from reprogram.channel import open_channel; channel = open_channel(); "


def job(folder: Path, program: str, report=lambda curve: False, beat=lambda: None, every=0.1) -> int:
    return run([sys.executable, "-c", program], folder, {"TEST_WORD": "heard"}, report, beat, every)


def test_a_curve_is_heard_and_the_answer_too(tmp_path):
    heard = []

    def report(curve):
        heard.append(curve)
        return len(heard) == 2

    program = SPEAKS + "sys.exit(10 + [channel.is_over([[n, n / 2]]) for n in range(3)].index(True))"
    assert job(tmp_path, program, report) == 11
    assert heard == [[[0, 0.0]], [[1, 0.5]], [[2, 1.0]]]


def test_an_undefined_value_arrives(tmp_path):
    heard = []
    assert job(tmp_path, SPEAKS + "channel.is_over([[1, float('nan')]])", lambda curve: bool(heard.extend(curve))) == 0
    assert heard[0][1] != heard[0][1]


def test_exit_codes_signals_and_last_words(tmp_path):
    program = "import os; print('task  x'); print('error: ' + os.environ['TEST_WORD']); print('and more'); os._exit(2)"
    assert job(tmp_path, program) == 2
    assert last_words(tmp_path) == "heard"
    assert job(tmp_path / "other", "import os; print('here'); os.kill(os.getpid(), 9)") == -9
    assert last_words(tmp_path / "nowhere") == "it said nothing"


def test_the_worker_shows_signs_of_life_all_the_while(tmp_path):
    beats = []
    assert job(tmp_path, "import time; time.sleep(0.6)", beat=lambda: beats.append(1), every=0.05) == 0
    assert len(beats) >= 5


def test_a_job_that_is_no_longer_ours_is_ended(tmp_path):
    def beat():
        if (tmp_path / "here").exists():
            raise KeyboardInterrupt

    program = f"open({str(tmp_path / 'here')!r}, 'w').close(); import time; time.sleep(60)"
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        job(tmp_path, program, beat=beat)
    assert time.monotonic() - began < 30


def test_a_job_ends_when_its_worker_is_killed(tmp_path):
    """The job writes its number, and would sleep for a minute."""
    inner = SPEAKS + f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    outer = (
        "import sys; from pathlib import Path; from reprogram.sweeps.job import run; "
        f"run([sys.executable, '-c', {inner!r}], Path({str(tmp_path)!r}), {{}}, lambda curve: False, lambda: None, 1)"
    )
    worker = subprocess.Popen([sys.executable, "-c", outer])
    pid = tmp_path / "pid"
    while not pid.is_file() or not pid.read_text():
        assert worker.poll() is None
        time.sleep(0.02)
    worker.kill()
    worker.wait()
    process = Path("/proc") / pid.read_text()
    for _ in range(1000):
        if not process.exists() or "Z" in (process / "stat").read_text().rpartition(")")[2].split()[0]:
            return
        time.sleep(0.02)
    pytest.fail("the job goes on without its worker")
