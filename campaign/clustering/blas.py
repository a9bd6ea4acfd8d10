"""A hint for OpenBLAS, which has to come before NumPy is first imported."""

from __future__ import annotations

import os
from pathlib import Path

NEEDED = {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"}


def prefer_wide_kernels(cpuinfo: str | os.PathLike[str] = "/proc/cpuinfo") -> bool:
    """Have OpenBLAS use its AVX-512 kernels where the processor has them; whether the hint was set.

    OpenBLAS up to 0.3.29 takes AMD's Zen 5 for a processor without AVX-512 and then multiplies at half the speed.
    Does nothing where OPENBLAS_CORETYPE is set, on other processors, or off Linux. Costs a millisecond.
    """
    if "OPENBLAS_CORETYPE" in os.environ:
        return False
    try:
        first = Path(cpuinfo).read_text().partition("\n\n")[0]
    except OSError:
        return False
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.split("\n"))}
    if facts.get("vendor_id") != "AuthenticAMD" or not set(facts.get("flags", "").split()) >= NEEDED:
        return False
    os.environ["OPENBLAS_CORETYPE"] = "SkylakeX"
    return True
