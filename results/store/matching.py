"""Which rows of a frame hold wanted values: the one filter of the store, the published numbers and the tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pretrain.runtime.errors import unknown


def matches(frame: pd.DataFrame, wanted: Mapping[str, Any]) -> pd.Series:
    """A mask of the rows that hold the wanted values (a list: any of them; None: the column is empty).

    Raises:
        InputError: a name that is no column.
    """
    mask = pd.Series(True, index=frame.index)
    for column, value in wanted.items():
        if column not in frame.columns:
            raise unknown("column", column, frame.columns)
        if value is None:
            mask &= frame[column].isna()
        elif isinstance(value, list):
            mask &= frame[column].isin(value)
        else:
            mask &= (frame[column] == value).fillna(False).astype(bool)
    return mask
