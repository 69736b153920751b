"""Addresses that a user gives: what stands where in them."""

from urllib.parse import urlsplit

from reprogram.errors import ConfigError


def joined(url: str, path: str) -> str:
    """The address of a path behind an address, before its query if it has one."""
    place, mark, query = url.partition("?")
    return f"{place.rstrip('/')}/{path}{mark}{query}" if path else url


def check_proxy(proxy: str | None) -> None:
    """Refuses what is no address of a proxy, without showing it: it may hold a password.

    Raises:
        ConfigError: If it is none.
    """
    try:
        parts = urlsplit("http://none" if proxy is None else proxy)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # also a port that is no number
        right = False
    if not right:
        raise ConfigError("source.proxy: expected http://host:port, or null, got something else")
