"""How long the programs take to say --help: the first thing a user waits for."""

import subprocess
import sys
from pathlib import Path

from common import summarise, time_in_turn, write_result


def main() -> None:
    folder = Path(sys.executable).parent
    ways = {
        name: lambda name=name: subprocess.run([str(folder / name), "--help"], capture_output=True, check=True)
        for name in ("curate", "distill", "restoration", "pipelines")
    }
    seconds = {name: summarise(values) for name, values in time_in_turn(ways).items()}
    values = {f"{name} --help, s": summary["median"] for name, summary in seconds.items()}
    write_result("startup", "whole process, warm file cache, median of 7", values)


if __name__ == "__main__":
    main()
