"""Values and bytes as an attacker, or a broken program, writes them."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

NUMBERS = [
    0, 1, -1, 2, 0.5, -0.5, 1e9, -1e9, 1e18, 1e308, -1e308, 1e-308, float("nan"), float("inf"), float("-inf"),
    1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, -(1 << 63), 10**30, 10**400, True, False,
]  # fmt: skip
TEXTS = [
    "",
    "a",
    "0",
    "NaN",
    "é",
    "\x00",
    "\n",
    "\ud800",
    "../..",
    "[link=x]",
    "<b>",
    "%s",
    "1e9",
    "\u0663",
    "x" * 5000,
]


def junk(rng: random.Random, depth: int = 2) -> Any:
    """Any value that JSON can hold, often one that breaks something."""
    kind = rng.randrange(7 if depth else 4)
    if kind == 0:
        return None
    if kind in (1, 2):
        return rng.choice(NUMBERS)
    if kind == 3:
        return rng.choice(TEXTS)
    if kind == 4:
        return [junk(rng, depth - 1) for _ in range(rng.choice([0, 1, 2, 3, 6, 40]))]
    if kind == 5:
        return {rng.choice(TEXTS): junk(rng, depth - 1) for _ in range(rng.randrange(4))}
    value: Any = junk(rng, 0)
    for _ in range(rng.choice([1, 5, 200])):
        value = [value]
    return value


def mutated(rng: random.Random, value: Any, rate: float = 0.05) -> Any:
    """A copy of a JSON value in which some parts, at any depth, are others, twice there, or gone."""
    if rng.random() < rate:
        return junk(rng)
    if isinstance(value, dict):
        out = {k: mutated(rng, v, rate) for k, v in value.items() if rng.random() >= rate / 2}
        if rng.random() < rate:
            out[rng.choice([*TEXTS, *map(str, value)])] = junk(rng)
        return out
    if isinstance(value, list):
        rows = [mutated(rng, v, rate if len(value) < 50 else 1 / len(value)) for v in value]
        if rows and rng.random() < rate:
            rows.insert(rng.randrange(len(rows)), rng.choice(rows))
        if rows and rng.random() < rate:
            del rows[rng.randrange(len(rows))]
        return rows
    if isinstance(value, (int, float)) and rng.random() < rate:
        return rng.choice([-value, value + 1, value * 2, -value * 3, str(value), [value]])
    return value


def mutated_bytes(rng: random.Random, data: bytes, most: int = 8) -> bytes:
    """Bytes of which some, often near the beginning, are others, a stretch is twice there or gone, or the end is."""
    out = bytearray(data)
    for _ in range(rng.randrange(most + 1)):
        if not out:
            break
        at = rng.randrange(min(len(out), rng.choice([16, 64, 512, len(out)])))
        kind = rng.randrange(8)
        if kind < 4:
            out[at] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        elif kind == 4:
            pack = rng.choice([">I", "<I", ">H", "<H"])
            number = rng.choice([0, 1, 50_000, 65_535, 0x7FFFFFFF, 0xFFFFFFFF]) & (256 ** struct.calcsize(pack) - 1)
            out[at : at + struct.calcsize(pack)] = struct.pack(pack, number)
        elif kind == 5:
            del out[at : at + rng.randrange(1, 20)]
        elif kind == 6:
            out[at:at] = out[at : at + rng.randrange(1, 20)]
        else:
            del out[at:]
    return bytes(out)


def json_bytes(rng: random.Random, value: Any) -> bytes:
    """A JSON value as a file holds it, now and then broken."""
    data = json.dumps(value).encode("utf-8", "surrogatepass")
    return mutated_bytes(rng, data) if rng.random() < 0.1 else data
