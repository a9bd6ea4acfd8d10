"""What near duplicates among images cost: `python -m tests.benchmarks.near --images N [N ...] --json`.

Pictures of blocks that have nothing in common, of which one in fifty is another with noise (`planted`), and with --hard
nothing but a few forms with noise, all alike. Prints for each N, with --json as one object, the processor's `seconds`,
the `pairs` found and the `images` in them, how many of the `planted` ones are among them, and `peak_rss_gib`, in which
what the system keeps of the file of pictures is counted too. Each N is worked on in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from campaign.dataset.near import near_pairs
from campaign.dataset.pictures import SIDE

BLOCKS = 8  # in each direction, of which a picture is made
EACH = 50  # one picture of so many is planted
FORMS = 3
NOISE = 5.0  # grey levels
PORTION = 1 << 14
GIB = 2**30


def fill(small: np.ndarray, hard: bool) -> None:
    """Draws the pictures (n, SIDE, SIDE)."""
    rng, side = np.random.default_rng(5), SIDE // BLOCKS
    forms = rng.integers(0, 256, (FORMS, BLOCKS, BLOCKS), np.uint8)
    for low in range(0, len(small), PORTION):
        part = small[low : low + PORTION]
        blocks = rng.integers(0, 256, (len(part), BLOCKS, BLOCKS), np.uint8)
        if hard:
            blocks = forms[rng.integers(0, FORMS, len(part))]
        part[:] = blocks.repeat(side, 1).repeat(side, 2)
        again = np.arange(0 if hard else EACH - 1, len(part), 1 if hard else EACH)
        source = part[again if hard else again - 1]
        part[again] = (source + rng.normal(0, NOISE, source.shape)).clip(0, 255).astype(np.uint8)


def measure(count: int, hard: bool) -> dict[str, float]:
    """What so many pictures take."""
    near_pairs(
        np.random.default_rng(0).integers(0, 256, (100, SIDE, SIDE), np.uint8)
    )  # compiled or read from the cache
    with tempfile.TemporaryDirectory() as folder:
        small = np.memmap(Path(folder) / "small", np.uint8, "w+", shape=(count, SIDE, SIDE))
        fill(small, hard)
        start, began = time.process_time(), time.perf_counter()
        pairs = near_pairs(small)
        seconds, clock = time.process_time() - start, time.perf_counter() - began
    found = {
        "seconds": round(seconds, 1), "clock": round(clock, 1), "pairs": len(pairs),
        "images": len(np.unique(pairs)),
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB, 2),
    }  # fmt: skip
    if not hard:
        at = np.arange(count)
        planted = at[at % PORTION % EACH == EACH - 1]
        both = (pairs[:, 1] - pairs[:, 0] == 1) & np.isin(pairs[:, 1], planted)
        found |= {"planted": len(planted), "planted_found": int(both.sum())}
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[31_250, 125_000])
    parser.add_argument("--hard", action="store_true", help="pictures that are all alike")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = {}
    for count in options.images:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            figures[count] = pool.submit(measure, count, options.hard).result()
        if not options.json:
            print(count, figures[count], flush=True)
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
