"""`fastmoco pretrain | evaluate | inspect | convert | predictions`: one run, one file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli import complete
from benchmarks.cli.options import CatalogOption, DeviceOption, SetOption, load_catalog

CHECKPOINT = "A file or folder of any known format, hf:ORG/NAME[@REVISION], timm:MODEL, or URL#sha256=HEX."
Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="A data set of the catalog, or one of the generated: shapes, scenes.",
        autocompletion=complete.data_sets,
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=2**32 - 1, help="Every random choice of the run derives from it.")
]
Select = Annotated[
    str | None,
    typer.Option("--select", help="Prefix of the encoder to take, where a file holds several.", show_default=False),
]
Normalization = Annotated[
    str | None,
    typer.Option(
        "--normalization", help="The input normalisation by name, where the file does not say.", show_default=False
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        help="What no shape tells of the architecture: num_heads=12, or a model of timm's, MODEL,KEY=VALUE.",
        show_default=False,
    ),
]


def add_to(app: typer.Typer) -> None:
    """Put this module's commands into `app`."""
    app.command()(pretrain)
    app.command()(evaluate)
    app.command()(inspect)
    app.command()(convert)
    app.command()(predictions)


def pretrain(
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            help="A recipe by name (see `fastmoco recipes`) or FILE.yaml.",
            autocompletion=complete.recipes,
        ),
    ],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The run's directory; run the same command again to resume.")],
    changes: SetOption = None,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Resume from a state in --out.")] = True,
    device: DeviceOption = "auto",
    catalog: CatalogOption = None,
) -> None:
    """Pretrain a backbone. It can be killed at any moment: run the same command to resume. torchrun and SLURM work.

    Example: fastmoco pretrain --recipe shapes_demo --data shapes --set epochs=2 --out runs/first
    """
    from benchmarks.run.execute import execute
    from benchmarks.run.single import pretrain_request
    from pretrain.runtime.settings import parse_sets

    request = pretrain_request(
        load_catalog(catalog), recipe=recipe, changes=parse_sets(changes or []), data=data, seed=seed, device=device
    )
    with _log_to(out):
        execute(request, out, resume=resume)
    _tell(out)


def evaluate(
    task: Annotated[
        str,
        typer.Argument(
            help="knn, linear, logreg, semi, svm, finetune, detection or segmentation.", autocompletion=complete.tasks
        ),
    ],
    checkpoint: Annotated[str, typer.Option("--checkpoint", help=f"{CHECKPOINT} Or random:BACKBONE.")],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The run's directory.")],
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            help="See `fastmoco protocols TASK`.",
            show_default=False,
            autocompletion=complete.protocols,
        ),
    ] = None,
    changes: SetOption = None,
    seed: Seed = 0,
    select: Select = None,
    normalization: Normalization = None,
    arch: Arch = None,
    label: Annotated[
        str | None, typer.Option("--label", help="What tables call the checkpoint.", show_default=False)
    ] = None,
    device: DeviceOption = "auto",
    catalog: CatalogOption = None,
) -> None:
    """Measure a checkpoint by a downstream task.

    Example: fastmoco evaluate knn --checkpoint random:resnet18 --data shapes --out runs/knn
    """
    from benchmarks.campaign.status import main_metric
    from benchmarks.run.execute import execute
    from benchmarks.run.single import evaluate_request
    from pretrain.runtime.settings import parse_sets

    request = evaluate_request(
        load_catalog(catalog),
        task=task,
        checkpoint=checkpoint,
        data=data,
        protocol=protocol,
        changes=parse_sets(changes or []),
        seed=seed,
        select=select,
        normalization=normalization,
        arch=arch,
        label=label,
        device=device,
    )
    with _log_to(out):
        result = execute(request, out)
    if result is not None:
        print(main_metric(result))
    _tell(out)


def inspect(
    file: Annotated[str, typer.Argument(help=CHECKPOINT, autocompletion=complete.paths)],
    select: Select = None,
    normalization: Normalization = None,
    arch: Arch = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what is in a checkpoint file, which encoder would be used and why. Exit code 1: it would be refused.

    Example: fastmoco inspect moco_v2_800ep_pretrain.pth.tar
    """
    import json

    from evaluate.checkpoints.inspect import inspect_file
    from evaluate.checkpoints.show import show

    report = inspect_file(file, select=select, normalization=normalization, arch=arch)
    if as_json:
        print(json.dumps(report.model_dump(mode="json"), indent=1))
    else:
        from rich.console import Console

        Console().print(show(report))
    if not report.loads:
        raise typer.Exit(1)


def convert(
    file: Annotated[str, typer.Argument(help=CHECKPOINT, autocompletion=complete.paths)],
    to: Annotated[str, typer.Option("--to", help="torchvision, timm, detectron2, mmseg, huggingface, or fastmoco.")],
    out: Annotated[Path, typer.Option("--out", help="The file (for huggingface: the folder) to write.")],
    select: Select = None,
    normalization: Normalization = None,
    arch: Arch = None,
) -> None:
    """Write the encoder of a checkpoint in another library's format.

    Example: fastmoco convert runs/first/backbone.safetensors --to detectron2 --out backbone.pkl
    """
    from evaluate.checkpoints.export import convert as export

    export(file, to, out, select=select, normalization=normalization, arch=arch)
    print(f"wrote {out}")


def predictions(
    run: Annotated[Path, typer.Argument(help="The directory of a finished detection or segmentation run.")],
    changes: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
    catalog: CatalogOption = None,
) -> None:
    """Score the predictions that a run kept: every class and size, with intervals, or by other settings (--set).

    No image is opened and no model built. `--set interpolation=voc10` and `--set main=AP50` are what scoring decides;
    another test size needs the detector: evaluate again beside the run, which takes its training over.

    Example: fastmoco predictions runs/voc --set interpolation=voc10
    """
    from evaluate import predictions as kept
    from pretrain.runtime.settings import parse_sets

    rows = kept.score(run, load_catalog(catalog), parse_sets(changes or []))
    print(kept.as_json(rows) if as_json else kept.text(rows))


@contextmanager
def _log_to(out: Path) -> Iterator[None]:
    """Copy the log into `OUT/log.txt`; opened with the first message, so that wrong input leaves nothing."""
    handler = logging.FileHandler(out / "log.txt", delay=True, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s"))
    handler.addFilter(lambda _: out.is_dir())
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _tell(out: Path) -> None:
    print(f"{out / 'result.json'}; curves: tensorboard --logdir {out}")
