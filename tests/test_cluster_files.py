"""What is shipped for clusters: scripts that parse, and exit codes that agree with the package's."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from reprogram import exit_codes

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.mark.parametrize("name", ["torchrun.sh", "slurm/train.sbatch"])
def test_scripts_parse_and_know_the_exit_code(name: str) -> None:
    subprocess.run(["bash", "-n", str(SCRIPTS / name)], check=True)
    assert re.search(rf"code\b.*\b{exit_codes.PREEMPTED}\b", (SCRIPTS / name).read_text())


def test_the_job_starts_again_what_was_asked_to_end_and_nothing_that_is_wrong() -> None:
    volume, job = yaml.safe_load_all((SCRIPTS / "kubernetes/job.yaml").read_text())
    actions = {
        code: rule["action"]
        for rule in job["spec"]["podFailurePolicy"]["rules"]
        for code in rule.get("onExitCodes", {"values": []})["values"]
    }
    assert actions == {exit_codes.PREEMPTED: "Ignore", exit_codes.WRONG_USE: "FailJob"}
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # a failure policy needs it
    assert any(argument.startswith("run_dir=") for argument in pod["containers"][0]["args"])
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == volume["metadata"]["name"]
