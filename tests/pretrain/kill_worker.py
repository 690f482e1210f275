"""Kills a pretraining again and again and lets it go on; run by test_train.py as a process of its own.

Forks from a process that has imported torch already, so that a life costs milliseconds, not the seconds of an import.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import cv2
import torch
from torch.utils.tensorboard import SummaryWriter  # noqa: F401 - imported here so that no life spends seconds on it

from pretrain.data.images import ImageSet
from pretrain.recipe import Recipe
from pretrain.train import train


def live(images: ImageSet, recipe: Recipe, out: Path) -> None:
    """One life of the run, in a child process."""
    train(recipe, images, seed=5, out=out, device=torch.device("cpu"))


def main(images: ImageSet, recipe: Recipe, out: Path, *, kills: int, signum: int, seed: int) -> None:
    """Kill `kills` lives at random moments, then let one end. Prints how many were killed and where they stood."""
    # Pools of threads do not survive a fork: neither library may have one here.
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    chance = random.Random(seed)
    killed = {"before": 0, "saving": 0, "between": 0}
    lives = 0
    while True:
        lives += 1
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                live(images, recipe, out)
                status = 0
            except BaseException as error:  # the child must not unwind into the parent's loop
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                status = 75
            finally:
                os._exit(status)
        if sum(killed.values()) < kills:
            # Half of the kills wait for a save to be under way: the moment that is hardest to survive.
            target = chance.random() < 0.5
            deadline = time.monotonic() + chance.uniform(0.05, 1.0)
            while time.monotonic() < deadline and not (target and list((out / "state").glob(".*.partial"))):
                time.sleep(0.0005)
            saving = bool(list((out / "state").glob(".*.partial")))
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                os.kill(pid, signum)
                _, status = os.waitpid(pid, 0)
                states = list((out / "state").glob("step_*.pt"))
                killed["saving" if saving else "between" if states else "before"] += 1
                if signum != signal.SIGKILL:
                    assert os.WEXITSTATUS(status) in (0, 75), status
                if not (out / "backbone.safetensors").exists():
                    continue
        else:
            _, status = os.waitpid(pid, 0)
            assert status == 0, status
        if (out / "backbone.safetensors").exists():
            break
    print(f"{lives} lives, killed {killed}")
