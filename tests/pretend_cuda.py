"""A CUDA device that is only pretended, so that code for one can be run where none is.

Its tensors are computed on the processor, and behave as on the device in what goes wrong there: they mix with no tensor of the
processor (single numbers and indexes may), draw from no generator of it, and are no NumPy arrays. It says nothing of speed or precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
_aten = torch.ops.aten
_COPIES = (_aten.copy_.default, _aten._to_copy.default)
_INDEXES = (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default, _aten._index_put_impl_.default)


@contextmanager
def pretended_cuda() -> Iterator[None]:
    """Inside of it torch says that it has one CUDA device, and makes tensors there."""
    with pytest.MonkeyPatch.context() as patch, _NamedDevice(), _Factories():
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "get_rng_state", lambda *_: torch.get_rng_state())
        patch.setattr(torch.cuda, "set_rng_state", lambda *_: None)
        # what is grouped by torch's own code is grouped as of the device that it sees
        patch.setattr("torch.utils._foreach_utils._get_foreach_kernels_supported_devices", lambda: ["cuda", "meta"])
        # tensors of inference mode cannot be wrapped
        patch.setattr(torch.inference_mode, "__enter__", _enter_no_grad)
        patch.setattr(torch.inference_mode, "__exit__", lambda self, *_: torch.set_grad_enabled(self.before))
        yield


def _enter_no_grad(self: torch.inference_mode) -> None:
    self.before = torch.is_grad_enabled()
    if self.mode:
        torch.set_grad_enabled(False)


class FarTensor(Tensor):
    """Of the pretended device. To torch's own code it is a tensor without data, so that everything comes to `_run`."""

    near: Tensor
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    @staticmethod
    def __new__(cls, near: Tensor) -> FarTensor:
        far: FarTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device="meta",
        )
        far.near = near
        return far

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"FarTensor({self.near})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        # a file of it is read as one of the processor's, as by map_location
        return self.near.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Tensors that are made on the device, or brought there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _NamedDevice(TorchFunctionMode):
    """What torch would ask the driver: which device "cuda" is (the first), and to take numbers from Python and give them back."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.device:
            return func(*args, **kwargs)
        args, kwargs = tree_map(_numbered, args), tree_map(_numbered, kwargs)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == CUDA:
            return func(*args, **{**kwargs, "device": torch.device("cpu")}).to(CUDA)
        if func is Tensor.tolist:
            return args[0].cpu().tolist()
        return func(*args, **kwargs)


def _numbered(value: Any) -> Any:
    return CUDA if isinstance(value, str | torch.device) and str(value) == "cuda" else value


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    far = [value for value in tensors if isinstance(value, FarTensor)]
    near = [value for value in tensors if not isinstance(value, FarTensor) and value.dim() > 0]
    if func in _INDEXES and isinstance(args[0], FarTensor):
        near = [value for value in near if value is args[0] or any(value is part for part in args[2:])]
    if far and near and func not in _COPIES:
        raise RuntimeError(f"{func}: expected all tensors on one device, got cuda:0 and cpu")
    asked = kwargs.get("device")
    if asked is None:
        is_far = isinstance(args[0], FarTensor) if func in _COPIES else bool(far)
    else:
        is_far = torch.device(asked).type != "cpu"
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if is_far and kwargs.get("generator") is not None:
        raise RuntimeError(f"{func}: expected a generator of cuda, got one of cpu")
    # what is written in place is the tensor that was given, not another of the same numbers
    given = {id(value.near): value for value in far}
    result = func(*tree_map(_near, args), **tree_map(_near, kwargs))
    if is_far and torch.Tag.inplace_view in func.tags:
        with no_dispatch():
            func(*args, **kwargs)
    if not is_far:
        return result
    return tree_map(lambda value: _far(value, given), result)


def _near(value: Any) -> Any:
    return value.near if isinstance(value, FarTensor) else value


def _far(value: Any, given: dict[int, FarTensor]) -> Any:
    if not isinstance(value, Tensor):
        return value
    return given[id(value)] if id(value) in given else FarTensor(value)
