"""`python -m benchmarks.perf`: every speed benchmark in turn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

APART = ("learning", "variants")  # the one takes long and a data set, the other a spec


def main() -> int:
    """Run each script of this folder in a process of its own; how many of them failed."""
    found = (path.stem for path in Path(__file__).parent.glob("*.py"))
    scripts = sorted(name for name in found if not name.startswith("_") and name not in APART)
    failed = 0
    for name in scripts:
        print(f"\n== {name}", flush=True)
        failed += subprocess.run([sys.executable, "-m", f"benchmarks.perf.{name}"], check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
