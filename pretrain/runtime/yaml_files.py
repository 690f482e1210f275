"""YAML files of users: read safely, within bounds, and with the line of every key, so that a message can say where.

Aliases are expanded by whoever walks the content: nine lines of them can stand for a billion values, and one can hold
itself. So the values are counted, aliases included, before anything else looks at them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pretrain.runtime.errors import InputError

Path_ = tuple[str | int, ...]
MAX_VALUES = 200_000
MAX_DEPTH = 50


def load_yaml(path: Path) -> tuple[Any, dict[Path_, int]]:
    """The content of a YAML file and the line (from 1) of every key and list item.

    Raises:
        InputError: no such file, not UTF-8, not YAML, a key that stands twice, or more values than `MAX_VALUES` or
            deeper than `MAX_DEPTH` once its aliases are followed.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"no file at {path}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a directory, expected a YAML file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file in UTF-8") from None
    except PermissionError:
        raise InputError(f"{path} may not be read: permission denied") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[Path_, int] = {}
        if node is not None:
            _note_lines(node, (), lines, path)
        return yaml.safe_load(text), lines
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{path}: nested deeper than {MAX_DEPTH} levels") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}{_line(error)}: not valid YAML: {problem(error)}") from None
    except (ValueError, OverflowError) as error:  # a date such as 2026-02-30, or a number that no number type holds
        raise InputError(f"{path}: not valid YAML: {error}") from None


def yaml_value(text: str, what: str) -> Any:
    """One value as YAML reads it. Raises InputError, which begins with `what`, for text that is no YAML."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            _note_lines(node, (), {}, Path(what))
        return yaml.safe_load(text)
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{what}: nested deeper than {MAX_DEPTH} levels") from None
    except yaml.YAMLError as error:
        raise InputError(f"{what}: {text!r} is not valid YAML: {problem(error)}") from None
    except (ValueError, OverflowError) as error:
        raise InputError(f"{what}: {text!r} is not valid YAML: {error}") from None


def problem(error: yaml.YAMLError) -> str:
    """What YAML's parser found wrong, in one line."""
    told = error.problem if isinstance(error, yaml.MarkedYAMLError) and error.problem else str(error)
    return " ".join(told.split())


def _line(error: yaml.YAMLError) -> str:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    return f":{mark.line + 1}" if mark else ""


def _note_lines(node: yaml.Node, at: Path_, lines: dict[Path_, int], path: Path) -> None:
    line = node.start_mark.line + 1
    if len(at) > MAX_DEPTH:
        raise InputError(f"{path}:{line}: nested deeper than {MAX_DEPTH} levels; does an alias hold itself?")
    lines.setdefault(at, line)
    if len(lines) > MAX_VALUES:
        raise InputError(f"{path}:{line}: more than {MAX_VALUES} values once its aliases are followed")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else str(key.start_mark.line)
            place = (*at, name)
            if place in lines:
                raise InputError(f"{path}:{key.start_mark.line + 1}: key '{name}' stands twice")
            lines[place] = key.start_mark.line + 1
            _note_lines(value, place, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _note_lines(value, (*at, index), lines, path)
