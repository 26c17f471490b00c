"""How the downloader behaves: limits, manners, deadlines. Read from `--fetch FILE.toml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..core import config
from ..core.errors import ConfigError

GROUP_ROWS = 64
"""Rows of a list that are fetched, decoded and resumed together."""
OPT_OUT_DIRECTIVES = ("noai", "noimageai", "noindex", "noimageindex", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchConfig:
    """Every number the downloader goes by; the sources are next to each.

    The fields up to `max_redirects` decide what is fetched and belong to the config hash; the others only decide how fast.
    """

    robots: bool = True  # obey robots.txt (RFC 9309)
    opt_out: tuple[str, ...] = OPT_OUT_DIRECTIVES  # X-Robots-Tag directives obeyed; img2dataset's four, and `none`
    probe_bytes: int = 65_536  # asked for first, to judge the header before paying for the body; 0 = do not
    max_bytes: int = 128 << 20  # of one body, counted while reading
    max_redirects: int = 10  # browsers stop at 20
    contact: str = ""  # where a webmaster can reach you; in the user agent
    allow_private: tuple[str, ...] = ()  # HOST:PORT that may lie in a private network
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 20.0  # between two reads
    deadline_s: float = 180.0  # of one URL: all tries, redirects and waits, from the first request on
    max_attempts: int = 4  # of one URL, the first included
    backoff_s: float = 1.0  # before the second try; doubles; the wait is a random share of it, at least half
    max_in_flight: int = 256  # URLs at a time; lists are full of hosts that only time out
    max_per_host: int = 6  # connections, as browsers do
    max_rate_per_host_hz: float = 50.0  # requests a second
    park_after: int = 10  # failures of a host in a row until it is left alone
    park_s: float = 300.0  # for this long; doubles each time
    breathers_s: tuple[float, ...] = (
        10.0,
        60.0,
    )  # a host that has answered is first only given time: its rows wait so long
    rows_ahead: int = 8192  # of the list, waiting for their host
    max_waiting_bytes: int = 2 << 30  # fetched and not decoded yet

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("max_bytes", "max_attempts", "max_in_flight", "max_per_host", "park_after", "rows_ahead"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"fetch.{name} must be >= 1, got {getattr(self, name)}")
        for name in ("connect_timeout_s", "read_timeout_s", "deadline_s", "max_rate_per_host_hz", "park_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"fetch.{name} must be > 0, got {getattr(self, name)}")
        for name in ("probe_bytes", "max_redirects", "backoff_s", "max_waiting_bytes"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"fetch.{name} must be >= 0, got {getattr(self, name)}")
        if not all(seconds > 0 for seconds in self.breathers_s):
            raise ConfigError(f"fetch.breathers_s must be > 0, got {self.breathers_s}")
        for place in self.allow_private:
            _check_place(place)
        if any(not 32 <= ord(letter) < 127 for letter in self.contact):
            raise ConfigError(f"contact must be printable ASCII (it goes into a header), got {self.contact!r}")


def _check_place(place: str) -> None:
    host, _, port = place.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65_535:
        raise ConfigError(f"allow_private must be HOST:PORT, got {place!r}")


_DECIDES = ("robots", "opt_out", "probe_bytes", "max_bytes", "max_redirects")


def content(cfg: FetchConfig) -> dict[str, object]:
    """Return the fields that decide what is fetched, for the config hash."""
    plain = config.to_plain(cfg)
    return {name: plain[name] for name in _DECIDES}


def load_fetch_config(path: Path | None, *, contact: str = "", allow_private: tuple[str, ...] = ()) -> FetchConfig:
    """Read a TOML file of FetchConfig fields (None: the defaults); flags win over it.

    Raises:
        ConfigError: unreadable file, unknown key, value out of range.
    """
    values = config.read_toml(path) if path is not None else {}
    if contact:
        values["contact"] = contact
    if allow_private:
        values["allow_private"] = [*values.get("allow_private", []), *allow_private]
    return config.build(FetchConfig, values, where=str(path or "fetch"))
