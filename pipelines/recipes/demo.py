"""The whole way on pictures that scikit-image and scikit-learn ship: nothing to download, minutes on a laptop."""

from __future__ import annotations

from ..recipe import Bundled, Recipe

_SKIMAGE = (
    "astronaut.png", "brick.png", "camera.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png",
    "moon.png", "motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip


def recipe() -> Recipe:
    """Build the demo.

    Command: `pipelines run demo OUT` (or `make demo`).
    Cost: two to five minutes on two cores, nearly all of it training; 20 MB of disk.
    Expected: PSNR after > before for noise, JPEG and bicubic x2 on two pictures the corpus never saw.
    """
    return Recipe(
        name="demo",
        pictures=(
            *(Bundled(package="skimage", file=f"data/{name}") for name in _SKIMAGE),
            *(Bundled(package="sklearn", file=f"datasets/images/{name}") for name in ("china.jpg", "flower.jpg")),
        ),
        held_out=tuple(Bundled(package="skimage", file=f"data/{name}") for name in ("coffee.png", "chelsea.png")),
        remarks=(
            "This is a demonstration of the way, not a result: 15 small pictures that scikit-image and scikit-learn ship.",
            "Patches are 128 px and the budget is 20 %, because 2 % of so few patches would be a handful; "
            "real work uses 512 px and 2 %.",
        ),
        extra="demo",
        patch_size_px=128,
        budget="20%",
        steps=450,
    )
