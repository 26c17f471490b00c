"""An S3 server on the loopback (moto), with one bucket, for tests."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """Run the server; gives the environment in which fsspec finds it."""
    log = folder / "moto.log"
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        end = time.monotonic() + 60
        while not (found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text())):
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield os.environ | {
            "AWS_ENDPOINT_URL": found[1], "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }  # fmt: skip
    finally:
        process.kill()
        process.wait()


PROGRAM = """
import json, sys, fsspec
fs = fsspec.filesystem("s3")
for line in sys.stdin:
    verb, *names = json.loads(line)
    fs.invalidate_cache()
    value = getattr(fs, verb)(*names)
    print(json.dumps(value.hex() if isinstance(value, bytes) else value, default=str), flush=True)
"""


class Bucket:
    """What lies in the server, asked for by a process of its own: s3fs leaves threads and sockets behind."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAM], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def __enter__(self) -> "Bucket":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, verb: str, *names: str) -> object:
        """Call a method of the file system; bytes come as hex."""
        import json

        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([verb, *names]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"{verb} {names} failed"
        return json.loads(line)
