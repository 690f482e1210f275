"""What can be known to be wrong with a campaign's weights before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.campaign.plan import PlannedRun
from benchmarks.campaign.spec import SpecFile
from benchmarks.run.request import RANDOM
from evaluate.checkpoints.analyse import analyse
from pretrain.runtime.errors import InputError, unknown
from pretrain.runtime.progress import progress


def check_weights(file: SpecFile, runs: Sequence[PlannedRun]) -> None:
    """Find out now what a run would find out after hours in a queue; this takes torch's import.

    Raises:
        InputError: a backbone that does not exist, or what `check_files` raises.
    """
    _check_backbones(runs)
    check_files(file, runs)


def check_files(file: SpecFile, runs: Sequence[PlannedRun]) -> None:
    """Open each checkpoint file once and judge it as the evaluations will; nothing in it is run. Imports no torch.

    Raises:
        InputError: a file that cannot be loaded, with the spec's line and the reason, and the names of all others.
    """
    checkpoints = (run.request.checkpoint for run in runs)
    files = {one.label: one for one in checkpoints if one is not None and one.sha256 is not None}
    wrong: dict[str, str] = {}
    with progress("look into checkpoints", len(files), unit="files") as bar:
        for label, one in files.items():
            try:
                # The plan's digest: a folder of checkpoints is not read once more for it.
                found = analyse(
                    one.ref, select=one.select, normalization=one.normalization, sha256=one.sha256, arch=one.arch
                )
                found.demand()
            except InputError as error:
                wrong[label] = str(error)  # the error itself would keep its file open
            bar.advance()
    if not wrong:
        return
    first, *others = wrong
    # A pattern makes `LABEL/FILE` of each file that it matches.
    entry = first if first in file.spec.checkpoints else first.rpartition("/")[0]
    more = f"; nor do {len(others)} more: {', '.join(others)}" if others else ""
    with file.at("checkpoints", entry, "file"):
        raise InputError(f"checkpoint '{first}' does not load: {wrong[first]}{more}")


def _check_backbones(runs: Sequence[PlannedRun]) -> None:
    from pretrain.backbones.registry import names

    for run in runs:
        checkpoint = run.request.checkpoint
        name = run.request.settings["backbone"] if run.request.kind == "pretrain" else None
        if checkpoint is not None and checkpoint.ref.startswith(RANDOM):
            name = checkpoint.ref.removeprefix(RANDOM)
        if name is not None and not name.startswith("timm:") and name not in names():
            raise InputError(f"{run.label}: {unknown('backbone', name, [*names(), 'timm:MODEL'])}")
