"""A card pretended on a CPU: real numbers in tensors whose device reads `cuda`, to test CUDA's rules without one.

`pretended_card()` makes every tensor made on, or moved to, `cuda` a `CardTensor`: it lies in ordinary memory and
computes on the CPU, forward and backward, but an operation that mixes it with a CPU tensor fails as on a card, a
generator must be of its device, numpy refuses it, and all that would make the program wait for the card is counted.
Why not torch's FakeTensorMode: it has no numbers, so loops that read one, generators and backward passes do not run
under it. What this cannot show: kernels, their arithmetic, and memory.
Private interfaces of torch it stands on (2.15): `Tensor._make_subclass`, `_DisableTorchDispatch`, `nn._parse_to`, the
optimizers' grouping by device, and the names of the operations in WAITS; `test_pretended_card.py` fails where they
change.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_any, tree_flatten, tree_map_only

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
aten = torch.ops.aten

WAITS = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default,
    aten._linalg_check_errors.default, aten._unique2.default, aten.unique_consecutive.default,
}  # fmt: skip
"""Operations whose result the program waits for."""
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""Operations that take index tensors of the CPU, and copy them."""


class MixedDevices(RuntimeError):
    """An operation got tensors of the card and of the CPU."""


class Card:
    """What is counted on a pretended card."""

    def __init__(self) -> None:
        self.waits: list[str] = []

    def wait(self, what: str) -> None:
        """Count a wait, with the line of this project's code it comes from."""
        lines = [f for f in traceback.extract_stack() if "/fulora/" in f.filename and "/tests/" not in f.filename]
        where = f"{lines[-1].filename.rpartition('/')[2]}:{lines[-1].lineno}" if lines else "elsewhere"
        self.waits.append(f"{what} at {where}")


_card: Card | None = None


class CardTensor(torch.Tensor):
    """A CPU tensor whose device reads `cuda:0`."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
        if func is aten.copy_.default:
            crosses = isinstance(args[0], CardTensor) != isinstance(args[1], CardTensor)
            if crosses and not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False)):
                _counted("copy_ between devices")
        else:
            _check(func, tensors, args)
        if func in WAITS:
            _counted(func.name())
        with torch._C._DisableTorchDispatch():
            result = func(*args, **kwargs)
        inputs = {id(one) for one in tensors}
        return tree_map_only(torch.Tensor, lambda one: one if id(one) in inputs else on_card(one), result)


def on_card(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same memory as a tensor of the card."""
    if isinstance(tensor, CardTensor):
        return tensor
    return torch.Tensor._make_subclass(CardTensor, tensor.detach(), tensor.requires_grad)


def on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same memory as a plain tensor."""
    with torch._C._DisableTorchDispatch():
        return torch.Tensor._make_subclass(torch.Tensor, tensor.detach())


def _check(func: Any, tensors: list[torch.Tensor], args: Any) -> None:
    plain = [one for one in tensors if not isinstance(one, CardTensor)]
    if not plain:
        return
    if func in INDEXING and isinstance(args[0], CardTensor):
        indices = [one for one in args[1] if one is not None]
        if all(one.ndim == 0 for one in plain if not any(one is index for index in indices)):
            _counted(f"{func} with indices of the CPU")
            return
    if torch.Tag.pointwise in func.tags and all(one.ndim == 0 for one in plain):
        return  # a number, handed over with the kernel's launch
    raise MixedDevices(f"{func} got tensors of cuda:0 and cpu {[tuple(one.shape) for one in plain]}")


def _counted(what: str) -> None:
    assert _card is not None, "a tensor of the card outlived it"
    _card.wait(what)


class _Generator(torch.Generator):
    """In the place of torch.Generator: one of the card where the card is named."""

    def __new__(cls, device: Any = "cpu") -> torch.Generator:
        kind = CardGenerator if torch.device(device).type == "cuda" else _Generator
        return super().__new__(kind, "cpu")


class CardGenerator(_Generator):
    """A generator of the card."""

    @property
    def device(self) -> torch.device:
        return CUDA


class _Functions(TorchFunctionMode):
    """Sends what names the device `cuda` to the CPU, and marks what comes of it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        own = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if own is not None and func in (torch.Tensor.numpy, torch.Tensor.__array__) and isinstance(own, CardTensor):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        if own is not None and func is torch.Tensor.tolist and isinstance(own, CardTensor):
            _counted("tolist")
            return on_cpu(own).tolist()
        if own is not None and func in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda):
            if torch.device("meta") not in (own.device, *args[1:], _device_of(args, kwargs)):
                return _moved(func, own, args[1:], kwargs)
            return func(*args, **kwargs)
        generator = kwargs.get("generator")
        to = _device_of(args, kwargs)
        if to is None:
            there = tree_any(lambda one: isinstance(one, CardTensor), args)
            if generator is not None and isinstance(generator, CardGenerator) != there:
                raise RuntimeError("Expected the device type of the tensor for generator")
            return func(*args, **kwargs)
        if generator is not None and (to.type == "cuda") != isinstance(generator, CardGenerator):
            raise RuntimeError(f"Expected a '{to.type}' device type for generator")
        if to.type != "cuda" or func is torch._C._nn._parse_to:
            return func(*args, **kwargs)
        kwargs["device"] = CPU
        if tree_any(lambda one: isinstance(one, CardTensor), (args, kwargs)):
            return func(*args, **kwargs)
        if func in (torch.tensor, torch.as_tensor):
            _counted("a tensor of Python's numbers")
        return on_card(func(*args, **kwargs))


def _device_of(args: Any, kwargs: Any) -> torch.device | None:
    device = kwargs.get("device")
    return None if device is None else torch.device(device)


def _moved(func: Any, own: torch.Tensor, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    """Return what `to`, `cpu` or `cuda` gives; a copy between devices waits unless told not to."""
    device: Any = {torch.Tensor.cpu: CPU, torch.Tensor.cuda: CUDA}.get(func)
    rest = []
    for one in args if func is torch.Tensor.to else ():
        if isinstance(one, torch.device | str):
            device = torch.device(one)
        elif isinstance(one, torch.Tensor):
            device, kwargs["dtype"] = one.device, one.dtype
        elif isinstance(one, torch.dtype):
            kwargs["dtype"] = one
        elif isinstance(one, bool) and "non_blocking" not in kwargs:
            kwargs["non_blocking"] = one
        elif one is not None:
            rest.append(one)
    assert not rest, rest
    if "device" in kwargs:
        named = kwargs.pop("device")
        device = torch.device(named) if named is not None else device
    here = CUDA if isinstance(own, CardTensor) else CPU
    kind = here.type if device is None else torch.device(device).type
    if kind == here.type:
        with torch._C.DisableTorchFunctionSubclass():
            return torch.Tensor.to(own, **{k: v for k, v in kwargs.items() if k != "non_blocking"})
    if not kwargs.pop("non_blocking", False):
        _counted(f"a copy to {kind}")
    kwargs.pop("copy", None)
    moved = _Crossing.apply(own)
    return torch.Tensor.to(moved, **kwargs) if kwargs else moved


class _Crossing(torch.autograd.Function):
    """A copy to the other device, through which gradients go back."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor) -> torch.Tensor:
        return on_cpu(own).clone() if isinstance(own, CardTensor) else on_card(own.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return on_cpu(gradient).clone() if isinstance(gradient, CardTensor) else on_card(gradient.clone())


@contextmanager
def pretended_card() -> Iterator[Card]:
    """Run what is inside as on a machine with one card; yields what is counted."""
    global _card
    card = Card()
    autocast, scaler = torch.autocast, torch.amp.GradScaler
    names = {
        "is_available": lambda: True, "init": lambda: None, "synchronize": lambda *_: card.wait("synchronize"),
        "is_bf16_supported": lambda including_emulation=True: True, "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda *_: None, "max_memory_allocated": lambda *_: 1,
        "max_memory_reserved": lambda *_: 1, "memory_reserved": lambda *_: 1, "mem_get_info": lambda *_: (1, 2),
        "get_device_name": lambda *_: "a pretended card", "current_device": lambda: 0, "device_count": lambda: 1,
        "device": lambda *_: mock.MagicMock(),
    }  # fmt: skip
    group = torch.optim.Optimizer._group_tensors_by_device_and_dtype

    def grouped(lists: list[list[torch.Tensor]], with_indices: bool = False) -> Any:
        """Name the card where torch's own, below Python, sees the CPU."""
        return {
            (CUDA if isinstance(found[0][0][0], CardTensor) else device, dtype): found
            for (device, dtype), found in group(lists, with_indices).items()
        }

    stream = mock.MagicMock(is_capturing=lambda: False)
    swap = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    _card = card
    try:
        with ExitStack() as patches:
            for where, name, value in (
                *((torch.cuda, name, value) for name, value in names.items()),
                (torch.Tensor, "pin_memory", lambda own: own),  # called in a thread, which has no mode of this one's
                (torch, "Generator", _Generator),
                (torch, "autocast", lambda kind, *args, **kwargs: autocast("cpu", *args, **kwargs)),
                (torch.amp, "GradScaler", lambda kind, **kwargs: scaler("cpu", **kwargs)),
                (torch.accelerator, "current_stream", lambda *_: stream),
                (torch.optim.Optimizer, "_group_tensors_by_device_and_dtype", staticmethod(grouped)),
            ):
                patches.enter_context(mock.patch.object(where, name, value))
            patches.enter_context(_Functions())
            yield card
    finally:
        _card = None
        torch.__future__.set_swap_module_params_on_conversion(swap)
