"""What a YAML file of a user can do wrong: told in one sentence with its line, within bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pretrain.runtime.errors import InputError
from pretrain.runtime.settings import Settings, load_yaml, validate

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: &a\n  b: *a\n", "nested deeper than 50 levels; does an alias hold itself?"),
        ("&a [*a]", "does an alias hold itself?"),
        (BOMB, "more than 200000 values once its aliases are followed"),
        ("[" * 5000 + "]" * 5000, "nested deeper than 50 levels"),
        ("a: 2026-02-30\n", "not valid YAML: day is out of range for month"),
        ("a: [1\nb: 2\n", ":2: not valid YAML: expected ',' or ']'"),
        ("a: \x07\n", "not valid YAML"),
        ("a: !!python/object/apply:os.system [echo]\n", "not valid YAML: could not determine a constructor"),
        ("a: 1\na: 2\n", ":2: key 'a' stands twice"),
        ("? [1, 2]\n: 3\n", "not valid YAML: found unhashable key"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        load_yaml(path)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_a_directory_and_other_encodings_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a directory, expected a YAML file$"):
        load_yaml(tmp_path)
    (tmp_path / "wide.yaml").write_text("a: 1\n", encoding="utf-16")
    with pytest.raises(InputError, match=r"wide.yaml is not a text file in UTF-8$"):
        load_yaml(tmp_path / "wide.yaml")
    (tmp_path / "marked.yaml").write_text("a: 1\n", encoding="utf-8-sig")  # with a byte order mark, as Windows writes
    assert load_yaml(tmp_path / "marked.yaml")[0] == {"a": 1}


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_content_or_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    try:
        load_yaml(path)
        told = ""
    except InputError as error:
        told = str(error)
    assert "\n" not in told


class Example(Settings):
    seeds: tuple[int, ...] = (0,)
    size: int = 1
    lr: float = 0.1
    resume: bool = True
    names: dict[str, int] = {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seeds: 3", "f.yaml:1: seeds is 3, expected a list"),
        ("size: big", "f.yaml:1: size is 'big', expected a whole number"),
        ("size: 1.5", "f.yaml:1: size is 1.5, expected a whole number"),
        ("lr: [1]", "f.yaml:1: lr is [1], expected a number"),
        ("resume: perhaps", "f.yaml:1: resume is 'perhaps', expected true or false"),
        ("names: 3", "f.yaml:1: names is 3, expected a mapping"),
        ("\nnames: {7: 1}", "f.yaml:2: the name 7 in names: expected text"),
        ("sise: 3", "f.yaml:1: unknown key 'sise'"),
        ("3", "f.yaml:1: value is 3, expected a mapping"),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(text)
    content, lines = load_yaml(path)
    with pytest.raises(InputError) as error:
        validate(Example, content, path=path, lines=lines)
    assert str(error.value).endswith(told)
