"""How much of the photographs of IRDISTILL_DATA each recipe keeps: pictures and patches. Retention, not speed.

python benchmarks/bench_recipes.py
"""

import shutil
import tempfile
from pathlib import Path

from common import DATA, write_result

from curate import BuildShardsConfig, build_shards
from curate.core.errors import MissingDependencyError
from curate.lossless import require_libturbojpeg
from curate.recipes import load_recipe, preset_names


def main() -> None:
    work = Path(tempfile.mkdtemp())
    try:
        require_libturbojpeg()
        patch_format = "source"
    except MissingDependencyError:
        patch_format = "webp"
    values: dict[str, int | float | str] = {}
    for name in preset_names():
        recipe = load_recipe(name, patch_size_px=512)
        result = build_shards(
            BuildShardsConfig(source=DATA / "photos", out=work / name, recipe=recipe, patch_format=patch_format)
        )
        cut = result.num_patches_kept + sum(result.patch_reasons.values())
        values[f"{name}: pictures kept"] = result.counts["kept"]
        values[f"{name}: patches kept"] = result.num_patches_kept
        values[f"{name}: share of the patches cut"] = result.num_patches_kept / cut
        for reason, count in (result.reasons | result.patch_reasons).items():
            values[f"{name}: {reason}"] = count
        shutil.rmtree(work / name)
    write_result("recipes", f"what each recipe keeps of the 90 photographs, patches of 512 px, {patch_format}", values)


if __name__ == "__main__":
    main()
