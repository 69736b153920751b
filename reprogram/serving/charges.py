"""What the server would put on the bill."""

import os

from reprogram.errors import ConfigError


class Charges:
    """One line for each request that reaches the model: how many images it has, written before the model is asked.

    A line is with the operating system before anything else is done, so it outlives this process.

    Args:
        path: The file, which is appended to; ``None``: nothing is charged.

    Raises:
        ConfigError: If it cannot be written.
    """

    def __init__(self, path: str | None) -> None:
        self._file: int | None = None
        if path is not None:
            try:
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            except OSError as error:
                raise ConfigError(f"charges: cannot write {path}: {error.strerror}; choose another file") from error

    def charge(self, images: int) -> None:
        """Appends one line."""
        if self._file is not None:
            os.write(self._file, b"%d\n" % images)
