"""Fetch a list of URLs and turn it into a corpus, from Python: python examples/03_curate_a_list_of_urls.py PHOTOS OUT.

The web server is a folder of pictures on this machine; its private address must be allowed by name.
"""

import functools
import http.server
import sys
import threading
from pathlib import Path
from urllib.parse import quote

from curate import BuildShardsConfig, build_shards, verify_corpus
from curate.fetch.config import FetchConfig
from curate.recipes import load_recipe


def main(photos: Path, out: Path) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(photos))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"127.0.0.1:{server.server_address[1]}"

    names = [path.relative_to(photos).as_posix() for path in sorted(photos.rglob("*")) if path.is_file()]
    urls = [f"http://{place}/{quote(name)}" for name in [*names, "missing.jpg"]]
    path = out.with_suffix(".txt")
    path.write_text("\n".join(urls) + "\n")

    result = build_shards(
        BuildShardsConfig(
            source=path, out=out, recipe=load_recipe("everything", patch_size_px=128), patch_size_px=128, workers=1,
            fetch=FetchConfig(contact="you@example.org", allow_private=(place,)),
        )
    )  # fmt: skip
    server.shutdown()
    print(f"{len(urls)} URLs: {dict(result.counts)}; why not: {dict(result.reasons)}")
    print(f"{result.num_patches_kept} patches; differences from the manifest: {len(verify_corpus(out).differences)}")


if __name__ == "__main__":  # workers are processes: a script that starts them needs this line
    main(Path(sys.argv[1]), Path(sys.argv[2]))
