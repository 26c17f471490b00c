"""Choose a fifth of a corpus and train a small network on it: python examples/02_choose_and_train.py CORPUS OUT."""

import sys
from pathlib import Path

from distill import SelectConfig, select
from restoration import TrainConfig, fit


def main(corpus: Path, out: Path, steps: int = 20) -> None:
    # `handcrafted` needs no weights; real work uses the default, vit_s14 (`curate fetch-weights vit_s14`)
    chosen = select(SelectConfig(corpus=corpus, out=out / "subset", budget="20%", encoder="handcrafted"))
    print(f"{chosen.num_selected} of {chosen.num_available} patches: {dict(chosen.stages)}")

    result = fit(TrainConfig(data=out / "subset", out=out / "run", model="dynet-tiny", steps=steps))
    print(f"{result.model}: {result.num_parameters} parameters, {result.steps} steps, loss {result.loss:.4f}")
    print(f"weights: {result.weights}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
