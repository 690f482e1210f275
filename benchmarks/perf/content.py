"""What content identity costs: the walk, the look at every file's state, and the first reading, for each file.

python -m benchmarks.perf.content [--files 20000] [--folder DIR]

Files of 110 KB (ImageNet's average) are hard links of a few: the first reading measures hashing and headers from the
page cache, and a disk's or a network's time comes on top of it. Beside it: `sha256sum` over as many bytes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

IMAGENET = 1_281_167
_DISTINCT = 64


def main() -> None:
    """Print a table of seconds, microseconds a file, and what ImageNet's train split comes to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="where to make them; a temporary folder when not given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="fastmoco-content-") as temporary:
        os.environ["FASTMOCO_CACHE"] = f"{temporary}/cache"
        root, paths = Path(temporary) / "set", _make(Path(temporary), given.files)
        _measure(root, paths)


def _make(folder: Path, count: int) -> list[Path]:
    import simplejpeg

    rng = np.random.default_rng(0)
    distinct = []
    for number in range(_DISTINCT):
        pixels = rng.integers(0, 256, (200, 260, 3), dtype=np.uint8)
        path = folder / f"{number}.jpg"
        path.write_bytes(simplejpeg.encode_jpeg(pixels, 92))
        distinct.append(path)
    for number in range(count):
        path = folder / "set" / f"{number % 1000:04d}" / f"{number:07d}.jpg"
        if number < 1000:
            path.parent.mkdir(parents=True)
        path.hardlink_to(distinct[number % _DISTINCT])
    return distinct


def _measure(root: Path, distinct: list[Path]) -> None:
    from pretrain.data import content
    from pretrain.data.listing import list_files

    content._SETTLED_NS = 0  # the files have only just been made
    seconds: dict[str, float] = {}

    def timed(what: str, work):
        began = time.perf_counter()
        found = work()
        seconds[what] = time.perf_counter() - began
        return found

    names = timed("walk", lambda: list_files(root, (".jpg",)).names)
    timed("look at the state of each", lambda: content._states(root, names))
    timed("first: read, hash, header, keep", lambda: content.contents(root, names))
    timed("again: states, kept digests", lambda: content.contents(root, names).hash(names.tolist()))
    sizes = [path.stat().st_size for path in distinct]
    repeats = max(1, len(names) // len(distinct))
    command = ["sha256sum", *map(str, distinct)]
    timed(
        "sha256sum of as many bytes",
        lambda: [subprocess.run(command, capture_output=True, check=True) for _ in range(repeats)],
    )
    print(f"{len(names)} files of {np.mean(sizes) / 1000:.0f} KB, {len(os.sched_getaffinity(0))} cores\n")
    print("| what | s | µs a file | ImageNet train, s |\n|---|---|---|---|")
    for what, took in seconds.items():
        each = took / len(names)
        print(f"| {what} | {took:.2f} | {1e6 * each:.1f} | {each * IMAGENET:.0f} |")


if __name__ == "__main__":
    main()
