"""The command `fastmoco`: thin; each command imports its room when it is called, so that help is quick."""

from __future__ import annotations

import errno
import importlib.metadata
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli import campaign, collect, data, lists, runs, schema
from benchmarks.cli.options import CatalogOption, remember_catalog
from pretrain.runtime.errors import InputError, Interrupted, RunFailedError

app = typer.Typer(
    name="fastmoco",
    help="Pretrain Fast-MoCo, and learn what any self-supervised checkpoint is worth downstream.",
    epilog="When a command stops with a sentence, docs/troubleshooting.md says what to do (make docs builds the site).",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
runs.add_to(app)
app.add_typer(campaign.app, name="campaign")
collect.add_to(app)
app.add_typer(data.app, name="data")
lists.add_to(app)
schema.add_to(app)


START = """\
fastmoco {version}: pretrain Fast-MoCo, and measure what any self-supervised checkpoint is worth downstream.

  fastmoco doctor                       what works on this machine
  fastmoco inspect FILE                 what a checkpoint file holds
  fastmoco evaluate knn --checkpoint FILE --data NAME --catalog CATALOG.yaml --out DIR
  fastmoco pretrain --recipe NAME --data NAME --catalog CATALOG.yaml --out DIR
  fastmoco campaign plan SPEC.yaml      a whole graph of runs, here or on SLURM

Try it without any data of yours: fastmoco evaluate knn --checkpoint random:resnet18 --data shapes --out runs/try
All commands: fastmoco --help"""


def _show_version(asked: bool) -> None:
    if asked:
        print(importlib.metadata.version("fastmoco"))
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _before_every_command(
    context: typer.Context,
    catalog: CatalogOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show debug messages and tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(START.format(version=importlib.metadata.version("fastmoco")))
        raise typer.Exit
    remember_catalog(catalog)
    if verbose:
        os.environ["FASTMOCO_VERBOSE"] = "1"
        logging.getLogger("fastmoco").setLevel(logging.DEBUG)


# The disk's fault, not the command's: full, over the quota, read-only or failing.
_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 the work failed, 2 the input is wrong, 128 + signal when stopped."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    sys.argv[1:] = [_home_written_out(word) for word in sys.argv[1:]]
    try:
        _refuse_hugging_face_evaluate()
        app()
    except InputError as error:
        _leave(error, 2)
    except OSError as error:
        # A path the user named that is missing, a folder where a file should be, a place that may not be written.
        where = f"{Path(os.fsdecode(error.filename))}: " if isinstance(error.filename, str | bytes) else ""
        if error.errno in _STORAGE:
            _leave(OSError(f"{where}{error.strerror}; what was written before is intact"), 1)
        if not where:
            raise
        _leave(OSError(f"{where}{error.strerror}"), 2)
    except RunFailedError as error:
        _leave(error, 1)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        # torch's own words for a loader process that the system has killed.
        told = str(error).partition("\n")[0].rstrip(".")
        _leave(
            RunFailedError(
                f"a process that reads images was killed ({told}): this machine ran out of memory or of /dev/shm; give "
                "the job more of either (docker: --shm-size), or start fewer processes on it"
            ),
            1,
        )
    except Interrupted as stop:
        _leave(stop, 128 + stop.signum)
    except KeyboardInterrupt:
        _leave(KeyboardInterrupt("stopped"), 130)


def _home_written_out(word: str) -> str:
    """`~` and `--option=~/path` with the home folder: in the latter, in quotes and in scripts no shell does it."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + equals + os.path.expanduser(value) if value.startswith("~") else word  # noqa: PTH111 - a `~` alone


def _leave(error: BaseException, code: int) -> None:
    if os.environ.get("FASTMOCO_VERBOSE"):
        logging.getLogger("fastmoco").debug("traceback", exc_info=error)
    print(f"fastmoco: {error}", file=sys.stderr)
    sys.exit(code)


def _refuse_hugging_face_evaluate() -> None:
    """Both packages are imported as `evaluate`; which one wins would depend on the folder one stands in."""
    try:
        version = importlib.metadata.version("evaluate")
    except importlib.metadata.PackageNotFoundError:
        return
    raise InputError(
        f"this environment also holds Hugging Face's package 'evaluate' ({version}), whose import name is ours: "
        "give fastmoco an environment of its own (make venv)"
    )
