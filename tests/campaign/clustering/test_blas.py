import os

import pytest

from campaign.clustering.blas import NEEDED, prefer_wide_kernels

WIDE = " ".join(sorted(NEEDED))


@pytest.mark.parametrize(
    "vendor, flags, given, expected",
    [
        ("AuthenticAMD", f"fpu {WIDE} sse", None, "SkylakeX"),
        ("AuthenticAMD", "fpu avx2", None, None),
        ("GenuineIntel", WIDE, None, None),
        ("AuthenticAMD", WIDE, "Zen", "Zen"),
    ],
)
def test_hint_only_where_it_helps(tmp_path, monkeypatch, vendor, flags, given, expected):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    if given:
        os.environ["OPENBLAS_CORETYPE"] = given
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert prefer_wide_kernels(info) == (expected == "SkylakeX")
    assert os.environ.get("OPENBLAS_CORETYPE") == expected


def test_no_processor_file_no_hint(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    assert not prefer_wide_kernels(tmp_path / "none")
