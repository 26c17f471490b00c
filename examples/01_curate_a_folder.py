"""Turn a folder of pictures into a corpus, from Python: python examples/01_curate_a_folder.py PHOTOS OUT."""

import sys
from pathlib import Path

from curate import BuildShardsConfig, build_shards, open_dataset, verify_corpus
from curate.core.images import decode_patch
from curate.recipes import load_recipe


def main(photos: Path, out: Path) -> None:
    result = build_shards(
        BuildShardsConfig(
            source=photos, out=out, recipe=load_recipe("everything", patch_size_px=128), patch_size_px=128, workers=1
        )
    )
    print(f"{result.num_patches_kept} patches; inputs: {dict(result.counts)}; why not: {dict(result.reasons)}")

    corpus = open_dataset(out)
    sample = next(corpus.samples())
    extension, data = sample.image()
    print(f"first patch {sample.key}: {extension}, {decode_patch(data).shape}")

    sharpest = max(corpus.rows().to_pylist(), key=lambda row: row["sharpness"])
    print(f"sharpest patch: {sharpest['source']} at y={sharpest['y']}, x={sharpest['x']}")
    print(f"differences from the manifest: {len(verify_corpus(out).differences)}")


if __name__ == "__main__":  # workers are processes: a script that starts them needs this line
    main(Path(sys.argv[1]), Path(sys.argv[2]))
