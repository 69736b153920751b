"""What the server would put on the bill."""

import os

from reprogram.errors import ConfigError

REMEMBERED = 10_000  # keys


class Charges:
    """One line for each request that reaches the model: how many images it has, written before the model is asked.

    A line is with the operating system before anything else is done, so it outlives this process. A request that comes
    twice under one ``Idempotency-Key`` is charged once.

    Args:
        path: The file, which is appended to; ``None``: nothing is charged.

    Raises:
        ConfigError: If it cannot be written.
    """

    def __init__(self, path: str | None) -> None:
        self._file: int | None = None
        self._seen = dict[str, None]()  # keys, the oldest first
        if path is not None:
            try:
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            except OSError as error:
                raise ConfigError(f"charges: cannot write {path}: {error.strerror}; choose another file") from error

    def charge(self, images: int, key: str | None = None) -> None:
        """Appends one line, unless this key has one."""
        if self._file is None or key in self._seen:
            return
        if key is not None:
            self._seen[key] = None
            if len(self._seen) > REMEMBERED:
                del self._seen[next(iter(self._seen))]
        os.write(self._file, b"%d\n" % images)
