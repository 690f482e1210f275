"""Settings: a field that was added later leaves the identity of what was done before alone."""

from __future__ import annotations

from typing import Annotated

from pretrain.runtime.settings import Later, Settings


class Inner(Settings):
    depth: int = 2
    wide: Annotated[bool, Later(before=False)] = False


class Outer(Settings):
    lr: float
    inner: Inner | None = None
    form: Annotated[str, Later(before="old")] = "new"


def identity(settings: Settings) -> dict[str, object]:
    return type(settings).identity_of(settings.model_dump(mode="json"))


def test_a_later_field_counts_only_where_it_says_something_new() -> None:
    assert identity(Outer(lr=1, form="old")) == {"lr": 1.0, "inner": None}
    assert identity(Outer(lr=1)) == {"lr": 1.0, "inner": None, "form": "new"}


def test_later_fields_of_settings_inside_settings() -> None:
    assert identity(Outer(lr=1, inner=Inner(), form="old")) == {"lr": 1.0, "inner": {"depth": 2}}
    assert identity(Outer(lr=1, inner=Inner(wide=True), form="old"))["inner"] == {"depth": 2, "wide": True}
