"""Logging, progress and exit codes. Called by the four `main()`s only; libraries log and raise.

Exit codes: 0 done, 1 verify or check found something, 2 bad input or config, 130 interrupted.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import packages_distributions
from types import TracebackType
from typing import Any, TextIO

from .disk import explain
from .errors import InstallError, ToolkitError

DISTRIBUTION = "irdistill"
EXIT_DIFFERENT, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130
_CONTROLS = {code: "?" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""Names of files, and URLs of strangers, must not steer the terminal."""


def run(app: Callable[..., Any], packages: Iterable[str]) -> None:
    """Run a typer app as a program: our errors become one line and exit code 2, Ctrl-C becomes 130."""
    setup()
    # torch's threads spin while they wait; beside one busy neighbour that made a training step 12 times slower (docs/log.md)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        check_install(packages)
        app()
    except ToolkitError as error:
        fail(str(error))
    except OSError as error:  # a file or folder of the user's that cannot be read or written
        fail(explain(error) or f"{error.filename or 'input/output'}: {error.strerror or error}")
    except (KeyboardInterrupt, SystemExit) as error:
        # typer's own main() takes Ctrl-C for itself and exits 130 without a word; no command of ours exits so by choice
        if isinstance(error, SystemExit) and error.code != EXIT_INTERRUPTED:
            raise
        note("interrupted; the same command resumes")
        raise SystemExit(EXIT_INTERRUPTED) from None


def fail(message: str, code: int = EXIT_BAD_INPUT) -> None:
    """Print one line on stderr and exit."""
    note(f"error: {' '.join(message.split())}")
    raise SystemExit(code)


def setup() -> None:
    """Send warnings and above of every library to stderr, one line each."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # a hub out of reach is told by our own error


def say(line: str = "") -> None:
    """Print a result line on stdout."""
    print(_printable(line, sys.stdout))  # noqa: T201 - the console itself


def note(line: str) -> None:
    """Print a remark on stderr, so that stdout holds results only."""
    print(_printable(line, sys.stderr), file=sys.stderr, flush=True)  # noqa: T201 - the console itself


def _printable(line: str, stream: TextIO) -> str:
    """Escape what steers a terminal or cannot be encoded, such as a file's name that is not UTF-8."""
    encoding = stream.encoding or "utf-8"
    return line.translate(_CONTROLS).encode(encoding, "backslashreplace").decode(encoding)


def check_install(packages: Iterable[str]) -> None:
    """Make sure that no other distribution shadows our import packages (PyPI has `curate`, `pipelines`, `restoration`).

    Raises:
        InstallError: names the intruding file and whose it is.
    """
    for name in packages:
        module = importlib.import_module(name)
        if getattr(module, "__distribution__", None) != DISTRIBUTION:
            owners = [o for o in packages_distributions().get(name, []) if o != DISTRIBUTION]
            owner = f" of {', '.join(owners)}" if owners else ""
            raise InstallError(
                f"the package {name!r} is shadowed by {module.__file__}{owner}; "
                f"install {DISTRIBUTION} in a virtual environment of its own"
            )


def human_bytes(num_bytes: float) -> str:
    """Write a byte count for people: `human_bytes(1536)` is '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def human_seconds(seconds: float) -> str:
    """Write a duration for people: `human_seconds(75)` is '1:15'."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


class Progress:
    """A bar on a terminal, else a line with rate and time left; always on stderr. Use as a context manager.

    `total` is None where nobody knows it before the end.
    """

    def __init__(self, label: str, total: int | None, *, done: int = 0, unit: str = "shards") -> None:
        self._label, self._total, self._done, self._unit = label, total, done, unit
        self._start, self._first, self._last_line = time.monotonic(), done, 0.0
        self._remark = self._shown = ""
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn(self._label, markup=False), BarColumn(), TextColumn("{task.description}", markup=False),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task(self._numbers(), total=self._total, completed=self._done)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None and self._done != self._first and self._counts() != self._shown:
            self._line()

    def step(self, remark: str = "", *, num: int = 1) -> None:
        """Count `num` units done; a line is printed at most once a second, and always for the last unit."""
        self._done, self._remark = self._done + num, remark
        self._show(time.monotonic() - self._last_line >= 1.0 or self._done == self._total)

    def at(self, done: int, remark: str = "", *, first: int = 0) -> None:
        """Say how far it is, also where nothing has changed: a line at most once a second, every 10 s if it would be the same.

        Args:
            done: units done by now.
            remark: goes to the end of the line.
            first: of them, done by an earlier run; they say nothing of the rate.
        """
        self._done, self._first, self._remark = done, first, remark
        if done == first == self._total:
            return  # an earlier run did it all
        age = time.monotonic() - self._last_line
        self._show(age >= 10.0 or (age >= 1.0 and self._counts() != self._shown))

    def _show(self, line_is_due: bool) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=self._numbers())
        elif line_is_due:
            self._line()

    def _line(self) -> None:
        self._last_line, self._shown = time.monotonic(), self._counts()
        note(f"{self._label} {self._numbers()}")

    def _counts(self) -> str:
        return f"{self._done} {self._remark}"

    def _numbers(self) -> str:
        """Write what both the bar and the line say: `1234/5000 rows, 85/s, 0:44 left (812 pictures)`."""
        rate = (self._done - self._first) / max(time.monotonic() - self._start, 1e-9)
        speed = f"{rate:.0f}/s" if rate >= 10 else f"{rate:.2f}/s"
        if self._total is None:
            return f"{self._done} {self._unit}, {speed} {self._remark}".rstrip()
        left = human_seconds(max(0, self._total - self._done) / rate) if rate > 0 else "?"
        return f"{self._done}/{self._total} {self._unit}, {speed}, {left} left {self._remark}".rstrip()
