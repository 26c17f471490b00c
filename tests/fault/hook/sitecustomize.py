"""Faults on order, inside any Python process of a command under test; the product knows nothing of it.

`kills.py` puts this folder on PYTHONPATH, so that the command and the workers it spawns load this file at start-up. It wraps
`os.replace`, `os.unlink`, `os.fsync` (which `pathlib` and `curate.core.artifacts` call) and `fcntl.flock`, writes every such
call below a folder to a trace, and at the n-th call that matches, counted over all processes, kills or fills the disk.
"""

import fcntl
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

ORDER = "IRDISTILL_FAULT"


def install(order):
    root, point = os.path.realpath(order["root"]) + os.sep, order.get("point")
    trace = os.open(order["trace"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    counter = os.open(order["trace"] + ".count", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def is_the_one(call, when, name):
        if not point or (call, when) != (point["call"], point["when"]) or not re.fullmatch(point["name"], name):
            return False
        os.write(counter, b".")
        return os.lseek(counter, 0, os.SEEK_CUR) == point["nth"]  # atomic: an append moves to its own end

    def event(call, when, path):
        if not path.startswith(root):
            return
        name = path[len(root) :]
        hit = is_the_one(call, when, name)
        os.write(trace, f"{time.time():.6f}\t{os.getpid()}\t{call}\t{when}\t{name}\t{'HIT' if hit else ''}\n".encode())
        if hit and point["action"] == "kill":
            kill(point["who"])
        elif hit:
            fill(point["action"])

    def wrap(module, call, path_of):
        original = getattr(module, call)

        def wrapped(*arguments, **options):
            path = path_of(*arguments)
            event(call, "before", path)
            result = original(*arguments, **options)
            event(call, "after", path)
            return result

        setattr(module, call, wrapped)

    wrap(os, "replace", lambda _, target, *rest: name_of(target))
    wrap(os, "unlink", lambda path, *rest: name_of(path))
    wrap(os, "fsync", open_file)
    wrap(fcntl, "flock", lambda file, _: open_file(file))


def name_of(path):
    return str(Path(path).absolute()) if isinstance(path, (str, os.PathLike)) else ""


def open_file(file):
    return str(Path(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}").readlink())


def kill(who):
    if who == "group":
        os.killpg(0, signal.SIGKILL)
    is_worker = any("spawn_main" in argument for argument in sys.orig_argv)
    os.kill(os.getppid() if who == "parent" and is_worker else os.getpid(), signal.SIGKILL)
    time.sleep(60)  # a worker that killed its parent: the product's own watch has to end it


def fill(path):
    """Take all room that is left on the disk of `path`."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for num_bytes in (1 << 20, 4096, 1):
        try:
            while os.write(file, b"\1" * num_bytes):
                pass
        except OSError:
            continue
    os.close(file)


if ORDER in os.environ:
    install(json.loads(os.environ[ORDER]))
