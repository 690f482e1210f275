"""A CUDA device that is not there: tensors that say they are on it, computed by the CPU, held to the device's rules.

A tensor on the emulated device is an instance of `OnDevice`. What a real device refuses is refused: an operation on
tensors of both places (but for what CUDA allows: scalars of the CPU, indices, copies), and NumPy. What makes a real
device wait, reading a value on the host, is counted. Everything else is computed as on the CPU, so that a run on the
emulated device must end in the bits of the same run on the CPU.

What it cannot show: kernels, their rounding, streams and NCCL. For these a GPU is needed.
"""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map_only

DEVICE = torch.device("cuda", 0)


class OnDevice(Tensor):
    """A tensor on the emulated device."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copy = self.detach().clone()
            memo[id(self)] = nn.Parameter(copy, self.requires_grad) if isinstance(self, nn.Parameter) else copy
        return memo[id(self)]  # type: ignore[no-any-return]


class Waits(Counter[str]):
    """Where the host waited for the device: `file:line` of the project -> how often."""

    def note(self, func: Callable[..., Any]) -> None:
        for frame in reversed(traceback.extract_stack()):
            place = frame.filename
            if (
                any(f"/{room}/" in place for room in ("pretrain", "evaluate", "benchmarks"))
                and "site-packages" not in place
            ):
                where = f"{place.rpartition('/')[2]}:{frame.name}"
                self[f"{where}:{getattr(func, '__name__', func)}"] += 1
                return
        self[f"elsewhere:{getattr(func, '__name__', func)}"] += 1


_waits: Waits | None = None

# Reading a value on the host: the host waits until the device has computed it.
_READS = {
    Tensor.item,
    Tensor.tolist,
    Tensor.__bool__,
    Tensor.__int__,
    Tensor.__float__,
    Tensor.__index__,
    Tensor.cpu,
    torch.nonzero,
    Tensor.nonzero,
    torch.equal,
    Tensor.equal,
}
# What CUDA lets cross between places.
_CROSSING = {Tensor.copy_, Tensor.to, Tensor.__getitem__, Tensor.__setitem__, Tensor.index_put_, Tensor.type_as}
_CROSSING |= {torch._has_compatible_shallow_copy_type}
_OF_DEVICES = {torch.device, torch._C._nn._parse_to}  # they speak of a device and make nothing on it
_FACTS = {"__get__", "__set__"}  # properties: shape, grad, data, ...


def _is_device(value: Any) -> bool:
    return isinstance(value, torch.device | str | int) and not isinstance(value, bool) and _type(value) == "cuda"


def _type(value: Any) -> str:
    try:
        return torch.device(value).type if not isinstance(value, int) else ""
    except RuntimeError:
        return ""


def _plain(value: Any) -> Any:
    return tree_map_only(OnDevice, lambda tensor: tensor.as_subclass(Tensor), value)


def _wrapped(value: Any) -> Any:
    return tree_map_only(
        Tensor, lambda tensor: tensor if isinstance(tensor, OnDevice) else tensor.as_subclass(OnDevice), value
    )


def _run(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    name = getattr(func, "__name__", "")
    fact = getattr(func, "__self__", None)  # of a property's getter
    if fact is Tensor.device:
        return DEVICE
    if fact is Tensor.is_cuda or fact is Tensor.is_cpu:
        return fact is Tensor.is_cuda
    if func in (Tensor.numpy, Tensor.__array__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it first")
    tensors = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    here = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.dim() > 0]
    if there and here and func not in _CROSSING and name not in _FACTS:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {name} got cuda:0 and cpu "
            f"({', '.join(str(tuple(tensor.shape)) for tensor in here)})"
        )
    if _waits is not None and func in _READS and there:
        _waits.note(func)
    target = kwargs.get("device")
    if func is Tensor.cuda:
        args, goes = args[:1], True
        kwargs = {}
        func = Tensor.clone
    elif func is Tensor.cpu:
        with torch._C.DisableTorchFunctionSubclass():
            return _plain(args[0]).clone()
    elif func is Tensor.to:
        other = next((value for value in args[1:] if isinstance(value, torch.device | str) and _type(value)), target)
        like = next((value for value in args[1:] if isinstance(value, Tensor)), None)
        if like is not None:
            goes = isinstance(like, OnDevice)
        elif other is None:
            goes = isinstance(args[0], OnDevice)
        else:
            goes = _type(other) == "cuda"
        if isinstance(args[0], OnDevice) and not goes and _waits is not None:
            _waits.note(func)
    elif func in (Tensor.copy_, Tensor.__setitem__, Tensor.index_put_):
        goes = isinstance(args[0], OnDevice)
    elif target is not None:
        goes = _is_device(target)
    else:
        goes = bool(there)
    args, kwargs = _moved(args), _moved(kwargs)
    with torch._C.DisableTorchFunctionSubclass():
        out = func(*args, **kwargs)
    if func is Tensor.to and out is args[0] and goes != isinstance(out, OnDevice):
        out = out.clone()  # another place: another tensor
    if name == "__set__" or func in (Tensor.backward, torch.autograd.backward):
        return out
    return _wrapped(out) if goes else _plain(out)


def _moved(value: Any) -> Any:
    """The same arguments with the CPU where they name the emulated device."""
    if isinstance(value, dict):
        return {key: _moved(item) for key, item in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(_moved(item) for item in value) if not isinstance(value, torch.Size) else value
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    return "cpu" if isinstance(value, str) and value in ("cuda", "cuda:0") else value


class _Factories(TorchFunctionMode):
    """Everything that names the device makes a tensor on it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        named = _is_device(kwargs.get("device")) or any(
            _is_device(value) for value in args if not isinstance(value, Tensor)
        )
        if func not in _OF_DEVICES and (named or func is Tensor.cuda):
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


_really_grouped = torch.utils._foreach_utils._group_tensors_by_device_and_dtype


def _grouped(lists: Any, with_indices: bool = False) -> Any:
    """torch groups tensors in C++, which sees where they really are."""
    found = _really_grouped(lists, with_indices)
    there = any(isinstance(tensor, OnDevice) for tensor in lists[0])
    return {(DEVICE if there else device, dtype): group for (device, dtype), group in found.items()}


@contextlib.contextmanager
def emulated_cuda(monkeypatch: Any) -> Iterator[Waits]:
    """Run the block on a machine that seems to have one CUDA device; yields where the host waited for it."""
    global _waits
    seems = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": "emulated",
        "set_device": None,
        "synchronize": None,
        "max_memory_allocated": 1 << 20,
        "reset_peak_memory_stats": None,
        "is_bf16_supported": True,
        "empty_cache": None,
        "is_current_stream_capturing": False,
    }
    for name, answer in seems.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    monkeypatch.setattr(torch.utils._foreach_utils, "_group_tensors_by_device_and_dtype", _grouped)
    monkeypatch.setattr(torch.nn.utils.clip_grad, "_group_tensors_by_device_and_dtype", _grouped)
    monkeypatch.setattr(torch.utils.data._utils.pin_memory, "pin_memory", lambda data, device=None: data)
    for check in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
        if hasattr(torch.optim.Optimizer, check):
            monkeypatch.setattr(torch.optim.Optimizer, check, lambda self: None)
    fork_rng = torch.random.fork_rng
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices=(), **given: fork_rng(devices=[], **given))
    plain_autocast = torch.autocast

    class Autocast(plain_autocast):  # type: ignore[misc,valid-type]
        def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
            super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    monkeypatch.setattr(torch, "autocast", Autocast)
    monkeypatch.setattr(torch.utils.data._utils.pin_memory, "pin_memory", lambda data, device=None: data)
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    _waits = waits = Waits()
    try:
        with _Factories():
            yield waits
    finally:
        _waits = None
        torch.__future__.set_overwrite_module_params_on_conversion(before)
