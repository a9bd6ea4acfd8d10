"""Holds the pinned versions against known vulnerabilities, where the network has a list of them.

`python .ci/audit.py UV CONSTRAINTS...`: exit status 1 for a vulnerable version; 0 with one line where nothing could be
looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys

SECONDS = 180


def audit(uv: str, constraints: str) -> list[dict] | str:
    """What pip-audit found of each version of a file; or in a line why it could not look."""
    command = [uv, "tool", "run", "--quiet", "pip-audit", "--requirement", constraints]
    command += ["--disable-pip", "--no-deps", "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        versions = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return f"no answer in {SECONDS} s"
    except (OSError, ValueError, KeyError) as error:
        return f"no list of vulnerabilities here ({type(error).__name__})"
    looked = [version for version in versions if "vulns" in version]
    return looked or "the package index here knows of no vulnerabilities at all"


def main() -> int:
    """Audits each file; returns the exit status."""
    status = 0
    for constraints in sys.argv[2:]:
        looked = audit(sys.argv[1], constraints)
        if isinstance(looked, str):
            print(f"pip-audit of {constraints} skipped: {looked}")
            continue
        bad = [version for version in looked if version["vulns"]]
        for version in bad:
            for each in version["vulns"]:
                mended = ", ".join(each["fix_versions"]) or "no version yet"
                print(f"{constraints}: {version['name']} {version['version']}: {each['id']}, mended in {mended}")
        print(f"pip-audit of {constraints}: {len(looked)} versions, {len(bad)} vulnerable")
        status |= bool(bad)
    return status


if __name__ == "__main__":
    sys.exit(main())
