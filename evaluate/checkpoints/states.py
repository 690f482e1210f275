"""The state dicts in a file, wherever they stand, and the encoders in them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from evaluate.checkpoints.containers import Content
from evaluate.checkpoints.families.timm_table import signature, timm_models
from evaluate.checkpoints.inert import Global, Record
from evaluate.checkpoints.layouts import Layout, prefixes
from evaluate.checkpoints.layouts.others import WHOLE
from evaluate.checkpoints.limits import ENCODERS, NAME_CHARACTERS, TENSORS, readable
from evaluate.checkpoints.rebuild import ArrayShell
from evaluate.checkpoints.tensors import Storage, StoredTensor
from pretrain.runtime.errors import InputError

# Segments that wrappers put between names: DataParallel's and torch.compile's.
WRAPPERS = ("module", "_orig_mod")
# What an optimizer or a trainer keeps is no network, though it may hold tensors under the network's names.
NOT_NETWORKS = (
    "optimizer", "optimizers", "optimizer_states", "optim", "opt_state", "scaler", "fp16_scaler", "amp", "scheduler",
    "lr_schedulers", "callbacks", "loops", "args", "opt", "hyper_parameters", "config", "contrast", "dino_loss",
    "message_hub", "param_schedulers",
)  # fmt: skip
DEPTH = 12


@dataclass(frozen=True, eq=False)
class StateDict:
    """One mapping of names to tensors.

    Attributes:
        path: the keys that lead to it, joined by "/"; "" for the file's top level.
        tensors: clean name (wrappers left out) -> tensor.
        originals: clean name -> the name as the file has it.
    """

    path: str
    tensors: dict[str, StoredTensor]
    originals: dict[str, str]


@dataclass(frozen=True, eq=False)
class Encoder:
    """An encoder found in a state dict: a prefix under which a known spelling stands."""

    state: StateDict
    clean_prefix: str
    layout: Layout

    @property
    def label(self) -> str:
        """Path and clean prefix: what the formats' tables speak of."""
        return f"{self.state.path}/{self.clean_prefix}" if self.state.path else self.clean_prefix

    @cached_property
    def prefix(self) -> str:
        """The prefix as the file has it, wrappers included."""
        if not self.layout.anchors:
            return ""
        anchor = self.layout.anchors[0]
        return self.state.originals[self.clean_prefix + anchor].removesuffix(anchor)

    @property
    def full_prefix(self) -> str:
        """Path and prefix as the file has them: what a row says of where its weights stood."""
        return "/".join(part for part in (self.state.path, self.prefix) if part)

    def tensors(self) -> dict[str, StoredTensor]:
        """Our name -> tensor, for all that the layout counts to the trunk.

        Raises:
            InputError: two names of the file stand for the same tensor, or tensors that make one do not fit together.
        """
        return dict(self._tensors)

    def inside(self) -> dict[str, StoredTensor]:
        """Clean name after the prefix -> tensor, for everything under the prefix."""
        at = self.clean_prefix
        return {name[len(at) :]: tensor for name, tensor in self.state.tensors.items() if name.startswith(at)}

    @cached_property
    def _tensors(self) -> dict[str, StoredTensor]:
        found: dict[str, StoredTensor] = {}
        for name, tensor in self.state.tensors.items():
            if not name.startswith(self.clean_prefix):
                continue
            renamed = self.layout.rename(name[len(self.clean_prefix) :])
            if renamed is None:
                continue
            if renamed in found:
                raise InputError(f"two tensors of the file stand for {renamed}, one of them {name}")
            found[renamed] = _from_haiku(tensor) if self.layout.transposed else tensor
        return self.layout.assemble(found) if self.layout.assemble else found

    def owns(self, name: str) -> bool:
        """Whether the tensor of this clean name is part of the trunk."""
        return name.startswith(self.clean_prefix) and self.layout.rename(name[len(self.clean_prefix) :]) is not None


def find_states(content: Content) -> list[StateDict]:
    """Every mapping in the file that holds tensors, those of optimizers and trainers aside.

    Raises:
        InputError: more tensors than a network has, names beyond any measure, or two tensors of one name.
    """
    raw: dict[str, dict[str, StoredTensor]] = {}
    _walk(content.root, (), raw, set())
    if sum(map(len, raw.values())) > TENSORS:
        raise InputError(f"it holds more than {TENSORS} tensors")
    return [_clean(path, tensors) for path, tensors in _haiku_pairs(raw).items()]


def find_encoders(states: list[StateDict]) -> list[Encoder]:
    """Every encoder of every state dict. Raises InputError for more than any file has."""
    found = [Encoder(state, prefix, layout) for state in states for prefix, layout in prefixes(state.tensors)]
    if len(found) > ENCODERS:
        raise InputError(f"it holds {len(found)} encoders, more than {ENCODERS}")
    if found or len(states) != 1:
        return found
    # Of a file that holds one network in no known spelling, timm's table may know the shapes.
    return [Encoder(states[0], "", WHOLE)] if len(states[0].tensors) > 3 and _may_be_timm(states[0]) else []


def _may_be_timm(state: StateDict) -> bool:
    whole = Encoder(state, "", WHOLE).tensors()
    return signature({name: tensor.shape for name, tensor in whole.items()}) in timm_models()


def records(root: Any) -> list[str]:
    """The dotted names, at most a hundred, of everything that the file wanted made and that was left inert."""
    found: dict[str, None] = {}
    seen: set[int] = set()
    pending = [root]
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Record):
            found[value.type_name] = None
            pending += [value.args, value.state, value.items, value.pairs]
        elif isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            pending += value
    return sorted(found)[:100]


def subclass_of_tensor(root: Any) -> str | None:
    """The dotted class of a tensor that is none of torch's plain ones (DTensor, quantised ...), if the file holds any.

    `_rebuild_wrapper_subclass` makes such tensors, its first argument being the class; they are left inert.
    """
    tables = [root, *root.values()] if isinstance(root, dict) else []
    for table in tables:
        for value in (as_mapping(table) or {}).values():
            wraps = isinstance(value, Record) and value.type_name == "torch._utils._rebuild_wrapper_subclass"
            if wraps and isinstance(value.args, tuple) and value.args and isinstance(value.args[0], Global):
                return readable(str(value.args[0]))
    return None


def _walk(value: Any, path: tuple[str, ...], found: dict[str, dict[str, StoredTensor]], seen: set[int]) -> None:
    if len(path) > DEPTH or id(value) in seen:
        return
    table = as_mapping(value)
    if table is None:
        return
    seen.add(id(value))
    tensors: dict[str, StoredTensor] = {}
    for key, item in table.items():
        if (tensor := _tensor(item)) is not None:
            name = _name(key)
            if name in tensors:
                raise InputError(f"two tensors of the file are called {name}")
            tensors[name] = tensor
    if max(len(tensors), len(found)) > TENSORS:
        raise InputError(f"it holds more than {TENSORS} tensors")
    if module := _module_tensors(value):
        found["/".join(path)] = module
        return
    if tensors:
        found["/".join(path)] = tensors
    for key, item in table.items():
        if _tensor(item) is None and isinstance(item, dict | Record) and (name := _name(key)) not in NOT_NETWORKS:
            _walk(item, (*path, name), found, seen)


def _name(key: Any) -> str:
    """A key as a name: printable, and no longer than any name is."""
    name = key if isinstance(key, str) else str(key)
    if len(name) > NAME_CHARACTERS:
        raise InputError(f"a name in the file has {len(name)} characters: {readable(name, 60)}")
    return readable(name)


def as_mapping(value: Any, depth: int = 0) -> dict[Any, Any] | None:
    """A dict, or a record's named parts: an object's attributes, a dict subclass's items, a named tuple's fields."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, Record):
        return None
    if value.pairs:
        return value.pairs
    if isinstance(value.state, dict):
        return value.state
    args = value.args if isinstance(value.args, tuple) else ()
    if isinstance(value.what, Record) and value.what.type_name.endswith("_create_namedtuple"):
        # dill spells a named tuple's class as (name, fields, module).
        fields = value.what.args[1] if len(value.what.args) > 1 else ()
        named = isinstance(fields, list | tuple) and all(isinstance(field, str) for field in fields)
        return dict(zip(fields, args, strict=False)) if named else None
    if value.type_name.endswith("._ByolExperimentState"):
        # byol_experiment.py of deepmind-research: the fields of the named tuple, in order.
        return dict(zip(("online_params", "target_params", "online_state", "target_state"), args, strict=False))
    if len(args) == 1 and depth < DEPTH:
        return as_mapping(args[0], depth + 1)  # a mapping's wrapper, such as Haiku's FlatMapping
    return None


def _tensor(value: Any) -> StoredTensor | None:
    if isinstance(value, ArrayShell):
        return value.tensor
    return value if isinstance(value, StoredTensor) else None


def _module_tensors(value: Any) -> dict[str, StoredTensor]:
    """The state dict of a whole pickled torch module (`torch.save(model)`)."""
    found: dict[str, StoredTensor] = {}
    pending: list[tuple[str, Any, int]] = [("", value, 0)]
    while pending:
        prefix, module, depth = pending.pop()
        attributes = module.state if isinstance(module, Record) else None
        if not isinstance(attributes, dict) or "_modules" not in attributes or depth > 4 * DEPTH:
            continue
        for kind in ("_parameters", "_buffers"):
            for name, item in (as_mapping(attributes.get(kind)) or {}).items():
                if (tensor := _tensor(item)) is not None:
                    found[_name(f"{prefix}{name}")] = tensor
        children = list((as_mapping(attributes["_modules"]) or {}).items())
        pending += [(_name(f"{prefix}{name}."), child, depth + 1) for name, child in reversed(children)]
        if len(pending) + len(found) > TENSORS:
            raise InputError("the pickled module holds more parts than a network has")
    return found


def _haiku_pairs(raw: dict[str, dict[str, StoredTensor]]) -> dict[str, dict[str, StoredTensor]]:
    """Haiku keeps a table a module, and the statistics apart: join both under one path ("online", "target")."""
    joined: dict[str, dict[str, StoredTensor]] = {}
    for path, tensors in raw.items():
        above, parent, module = _split_haiku(path)
        if parent is None:
            joined[path] = tensors
            continue
        owner = parent.removesuffix("_params").removesuffix("_state")
        place = joined.setdefault("/".join((*above, owner)), {})
        place |= {f"{module}/{name}": tensor for name, tensor in tensors.items()}
    return joined


def _split_haiku(path: str) -> tuple[list[str], str | None, str]:
    # A module's own name holds "/~/": the first such marks where the path of keys ends and the module's name begins.
    before, found, after = path.partition("/~/")
    if not found:
        return [], None, ""
    *above, root = before.split("/")
    parent = above.pop() if above else ""
    return above, parent, f"{root}/~/{after}"


def _clean(path: str, tensors: dict[str, StoredTensor]) -> StateDict:
    clean: dict[str, StoredTensor] = {}
    originals: dict[str, str] = {}
    for name, tensor in tensors.items():
        short = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if short in clean:
            raise InputError(f"two tensors of the file are called {short} once wrappers are left out")
        clean[short], originals[short] = tensor, name
    return StateDict(path, clean, originals)


def _from_haiku(tensor: StoredTensor) -> StoredTensor:
    """HWIO kernels to OIHW, (1, 1, 1, C) parameters to (C,): the same numbers with other strides."""
    if len(tensor.shape) != 4:
        return tensor
    if tensor.shape[:3] == (1, 1, 1):
        return replace(tensor, shape=tensor.shape[3:], strides=tensor.strides[3:])
    order = (3, 2, 0, 1)
    shape, strides = (tuple(part[i] for i in order) for part in (tensor.shape, tensor.strides))
    return replace(tensor, shape=shape, strides=strides)


def equal_encoders(encoders: list[Encoder], size_bytes: int) -> list[list[Encoder]]:
    """The encoders, those with the same names and bits together.

    `size_bytes`: of the file; what declares more than that is not read to be compared.
    """
    groups: list[list[Encoder]] = []
    contents = {id(encoder): encoder.tensors() for encoder in encoders}
    for encoder in encoders:
        mine = contents[id(encoder)]
        honest = sum(tensor.nbytes for tensor in mine.values()) <= size_bytes
        for group in groups:
            if honest and _same(mine, contents[id(group[0])]):
                group.append(encoder)
                break
        else:
            groups.append([encoder])
    return groups


def _same(one: dict[str, StoredTensor], other: dict[str, StoredTensor]) -> bool:
    return one.keys() == other.keys() and all(tensor.same_bits(other[name]) for name, tensor in one.items())


def constant(width: int, value: float) -> StoredTensor:
    """A vector of one value, for statistics that a file has folded away."""
    array = np.full(width, value, "<f4")
    return StoredTensor(Storage("float32", width, array.tobytes()), "float32", (width,), (1,))
