"""A PostgreSQL server of its own, for as long as a test or a check needs one."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER, PASSWORD = "sweeper", "not-to-be-written-anywhere"


def find(program: str) -> str | None:
    """A program of the server; Debian keeps them out of the way."""
    beside = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    return shutil.which(program) or (str(beside[-1]) if beside else None)


def missing() -> str | None:
    """Why there can be no server here; ``None`` if there can."""
    if find("initdb") is None or find("pg_ctl") is None:
        return "PostgreSQL: initdb and pg_ctl are not installed (apt install postgresql)"
    if os.geteuid() == 0 and (shutil.which("runuser") is None or not _has_account()):
        return "PostgreSQL: does not run as root, and there is no account postgres"
    return None


@contextmanager
def running() -> Iterator[str]:
    """A server for the block, whose ``PGPASSWORD`` is set; gives its URL."""
    folder = Path(tempfile.mkdtemp(prefix="reprogram-postgres-"))
    as_whom = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        as_whom = ["runuser", "-u", "postgres", "--"]
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(program: str, *arguments: str) -> None:
        command = [*as_whom, str(find(program)), "-D", str(folder / "data"), *arguments]
        # not captured through pipes: the server would keep them open
        with (folder / f"{program}.log").open("ab") as log:
            subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)

    try:
        call("initdb", "-U", USER, "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync", "--locale=C")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        call("pg_ctl", "-w", "-o", options, "start")
        before = os.environ.get("PGPASSWORD")
        os.environ["PGPASSWORD"] = PASSWORD
        try:
            yield f"postgresql://{USER}@127.0.0.1:{port}/postgres"
        finally:
            os.environ.pop("PGPASSWORD")
            if before is not None:
                os.environ["PGPASSWORD"] = before
            call("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _has_account() -> bool:
    return any(entry.pw_name == "postgres" for entry in pwd.getpwall())
