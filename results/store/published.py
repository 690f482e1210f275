"""Numbers from papers and repositories, each with its source: `published.csv` and how to ask it.

To add a number, append a line to `results/published.csv`: one number of one source, in percent, the columns below in
their order. What the source does not say stays empty; nothing is computed or guessed, except that fractions are
multiplied by 100. Say where you read it (`source`, `source_location`, `reading`). `protocol_match` is "same" only if
every number of our protocol agrees with what the source states. Tables pick it up by the filters in their definitions;
`tests/results/store/test_published.py` holds the schema and the count of rows.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

import pandas as pd

from results.store.matching import matches

# Every column, in the file's order, with what it holds.
PUBLISHED_COLUMNS: dict[str, str] = {
    "method": "the method's usual name, without the variant",
    "variant": "what differs from the method as published: another reproduction, crops, batch size ...",
    "backbone": "architecture, as in ResNet-50 w2 for twice the width",
    "pretrain_dataset": "the set pretrained on",
    "pretrain_epochs": "pretraining epochs; empty where the source does not say",
    "task": "what was measured, in the sources' words",
    "protocol": "how, in the source's words",
    "metric": "top1, top5, mAP, AP, AP50, AP75, mIoU, pixel_acc, or score (each set's usual one)",
    "value": "percent",
    "std": "standard deviation, where the source gives one",
    "n_trials": "how many trials, where the source says so",
    "source": "where the number is printed",
    "source_location": "repository, commit and file, or arXiv number",
    "reading": "primary (read in the source), quotation (read elsewhere) or figure (read off a figure)",
    "confidence": "primary (published by those who produced it) or secondary",
    "our_task": "the task of this suite that measures the same thing; empty where there is none",
    "our_protocol": "the protocol of that task that comes nearest; empty where none is near",
    "protocol_match": "same (all numbers of the protocol agree), near (some differ or are not stated) or none",
    "our_metric": "the metric as this suite names it; empty where there is none",
}


@functools.lru_cache(maxsize=1)
def published() -> pd.DataFrame:
    """Every published number, columns `PUBLISHED_COLUMNS`. Read once; do not write into it."""
    path = resources.files("results") / "published.csv"
    integers = dict.fromkeys(("pretrain_epochs", "n_trials"), "Int64")
    numbers = dict.fromkeys(("value", "std"), "float64")
    texts = {name: "object" for name in PUBLISHED_COLUMNS if name not in integers and name not in numbers}
    with path.open(encoding="utf-8") as stream:
        return pd.read_csv(stream, dtype={**integers, **numbers, **texts}, na_values=[""], keep_default_na=False)


def find(wanted: dict[str, Any]) -> pd.DataFrame:
    """The rows that hold the wanted values (a list: any of them; None: empty)."""
    return published()[matches(published(), wanted)]
