"""Python processes of ours, started so that a user's own `evaluate.py` or `results.py` cannot be taken for our rooms.

`python -P START MODULE ARGS...` runs a module as `python -m` would. `-P` keeps the working directory off the path, and
the rooms are loaded from beside this file before anything else asks for them, so that no PYTHONPATH can put another
package of the same name in front (an empty entry in it means the working directory).
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from importlib.machinery import PathFinder
from pathlib import Path

START = Path(__file__).resolve()
_ROOT = str(START.parents[1])
ROOMS = ("pretrain", "evaluate", "results")


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours in a process of its own."""
    return [sys.executable, "-P", "-u", str(START), module, *arguments]


def hold_rooms(*names: str) -> None:
    """Load the packages of these names from beside `benchmarks`, unless something of that name is loaded already."""
    for name in names:
        if name in sys.modules:
            continue
        spec = PathFinder.find_spec(name, [_ROOT])
        if spec is None or spec.loader is None:
            continue
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


if __name__ == "__main__":
    if _ROOT not in sys.path:
        sys.path.append(_ROOT)
    hold_rooms("benchmarks", *ROOMS)
    _, name, *arguments = sys.argv
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)
