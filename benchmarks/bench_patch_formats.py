"""Which lossless format should patches have by default? Encode and decode time and size on real 512-px patches."""

import statistics

from common import DATA, summarise, time_in_turn, write_result

from curate.core.images import decode_image, decode_patch, encode_image

PHOTOS = (
    "budgie-backgrounds/tea-gardens.jpg",
    "lomiri-wallpapers-16.04/life_by_Aitzol_Berasategi.jpg",
    "pop-os-wallpapers/nasa-53884.jpg",
)


def main() -> None:
    patches = []
    for name in PHOTOS:
        image = decode_image((DATA / "photos" / name).read_bytes())
        patches += [image[y : y + 512, x : x + 512].copy() for y in (512, 1024) for x in (512, 1024, 1536)]
    encoded = {e: [encode_image(p, e) for p in patches] for e in ("webp", "png")}
    ways = {f"{e} encode": lambda e=e: [encode_image(p, e) for p in patches] for e in encoded}
    ways |= {f"{e} decode": lambda e=e: [decode_patch(d) for d in encoded[e]] for e in encoded}
    seconds = time_in_turn(ways)
    values: dict[str, float] = {}
    for extension, data in encoded.items():
        values[f"{extension}, KiB a patch"] = statistics.mean(len(d) for d in data) / 1024
        for step in ("encode", "decode"):
            values[f"{extension} {step}, ms a patch"] = (
                1000 * summarise(seconds[f"{extension} {step}"])["median"] / len(patches)
            )
    values["webp / png, bytes"] = values["webp, KiB a patch"] / values["png, KiB a patch"]
    for step in ("encode", "decode"):
        pairs = zip(seconds[f"webp {step}"], seconds[f"png {step}"], strict=True)
        values[f"webp / png, {step} time"] = statistics.median(w / p for w, p in pairs)
    write_result(
        "patch-formats", f"{len(patches)} patches of 512 px from {len(PHOTOS)} photographs, one thread, in turn", values
    )


if __name__ == "__main__":
    main()
