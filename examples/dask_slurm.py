"""Build a corpus on a SLURM cluster: this program asks for the jobs, `build_shards` runs its tasks in them.

    pip install 'irdistill[cluster]'   # dask-jobqueue
    python examples/dask_slurm.py /shared/photos /shared/corpus --jobs 8      # on a login node, in tmux or a job of its own
    python examples/dask_slurm.py photos corpus --jobs 2 --local              # the same on this machine, to try it

SOURCE, OUT and the Python environment must lie on a file system that login and compute nodes share.
"""

import argparse
from pathlib import Path
from typing import Any

from curate import BuildShardsConfig, build_shards
from curate.recipes import load_recipe

WAIT_S = 3600  # for the first job to start: queues may be long


def make_cluster(args: argparse.Namespace) -> Any:
    """Ask for jobs of one single-threaded worker each."""
    if args.local:
        from distributed import LocalCluster

        return LocalCluster(n_workers=args.jobs, threads_per_worker=1, dashboard_address="127.0.0.1:0")
    from dask_jobqueue import SLURMCluster

    cluster = SLURMCluster(
        cores=1, processes=1, memory="6GiB", walltime="04:00:00", queue=args.partition,
        job_extra_directives=["--requeue"], local_directory="/tmp",
    )  # fmt: skip
    cluster.adapt(minimum=args.jobs, maximum=args.jobs)  # keeps their number when the batch system takes some away
    return cluster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("source", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--patch-size", type=int, default=512)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--partition")
    parser.add_argument("--local", action="store_true")
    args = parser.parse_args()
    from distributed import Client

    with make_cluster(args) as cluster, Client(cluster) as client:
        client.wait_for_workers(1, timeout=WAIT_S)
        job = BuildShardsConfig(
            source=args.source, out=args.out, patch_size_px=args.patch_size,
            recipe=load_recipe("photographs", patch_size_px=args.patch_size), engine=client.scheduler.address,
        )  # fmt: skip
        result = build_shards(job)
    print(f"{result.num_patches_kept} patches in {result.num_shards} shards: {result.out}")


if __name__ == "__main__":
    main()
