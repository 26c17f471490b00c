"""Kill dask workers while they build a corpus, and compare every byte with `--engine process --workers 1`.

    python benchmarks/kill_dask_workers.py PHOTOS OUT [build-shards options]

Three runs: one process; a LocalCluster of 3 workers, one of which is killed (SIGKILL) every 5 s; a scheduler with two
`dask worker` processes joined by address, one of which is killed every 5 s. Exit 1 if any file outside ledger/ differs or a
temporary file is left.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "servers"))
from dask_programs import BIN, kill_while_running, scheduler, wait_until, worker, workers_under

KILL_EVERY_S = 5.0
WORKERS = 3


def main() -> int:
    photos, folder, options = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or ["--patch-format", "png"]
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "process, 1 worker": build(photos, folder / "process", ["--engine", "process", "--workers", "1", *options])
    }
    found[f"dask, {WORKERS} workers of this machine"] = build(
        photos, folder / "dask", ["--engine", "dask", "--workers", str(WORKERS), *options], kill=True
    )
    with ExitStack() as stack:
        for name in ("scheduler", "a", "b"):
            shutil.rmtree(folder / "cluster" / name, ignore_errors=True)
        (folder / "cluster" / "scheduler").mkdir(parents=True)
        address, _ = stack.enter_context(scheduler(folder / "cluster" / "scheduler"))
        owners = [stack.enter_context(worker(address, folder / "cluster" / name)).pid for name in ("a", "b")]
        wait_until(lambda: all(map(workers_under, owners)))
        found["2 dask workers by address"] = build(
            photos, folder / "address", ["--engine", address, *options], kill=True, owners=owners
        )
    first = next(iter(found.values()))
    for name, digest in found.items():
        print(f"{digest}  {name}{'' if digest == first else '  DIFFERS'}")
    return int(len(set(found.values())) != 1)


def build(photos: Path, out: Path, options: list[str], *, kill: bool = False, owners: list[int] | None = None) -> str:
    """Build a corpus; return the sha256 over names and bytes of all its files outside `ledger/`."""
    shutil.rmtree(out, ignore_errors=True)
    begin, killed = time.monotonic(), 0
    with (out.parent / f"{out.name}.log").open("w") as log:
        command = [str(BIN / "curate"), "build-shards", str(photos), str(out), *options]
        process = subprocess.Popen(command, stdout=log, stderr=log, text=True)
        if kill:
            ready = (out / "ledger" / "scan").is_dir
            killed = kill_while_running(process, owners or [process.pid], every_s=KILL_EVERY_S, ready=ready)
        process.wait()
    seconds = time.monotonic() - begin
    if process.returncode:
        raise SystemExit(f"{' '.join(options)}: exit {process.returncode}; see {out.parent / out.name}.log")
    left = list(out.rglob(".tmp-*"))
    digest, num, num_bytes = hashlib.sha256(), 0, 0
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.relative_to(out).parts[0] != "ledger":
            data = path.read_bytes()
            digest.update(f"{path.relative_to(out)}\0{hashlib.sha256(data).hexdigest()}\n".encode())
            num, num_bytes = num + 1, num_bytes + len(data)
    print(
        f"{' '.join(options)}: {seconds:.0f} s, {killed} workers killed, {num} files, {num_bytes} bytes, "
        f"{len(left)} temporary files left",
        flush=True,
    )
    return digest.hexdigest() if not left else f"{len(left)} temporary files"


if __name__ == "__main__":
    sys.exit(main())
