"""What a computation does: multiply-adds of its products and convolutions, and the bytes that all its kernels touch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_IN_PLACE = {torch.ops.aten.addmm_.default: torch.ops.aten.addmm}


class Counter(TorchDispatchMode):
    """Count while it is entered. Kernels of Triton are not seen.

    Attributes
    ----------
    operations : int
        Floating-point operations of matrix products and convolutions, forward and backward: two a multiply-add, as
        PyTorch counts them.
    bytes : int
        Of all tensors that kernels read and write. Views touch nothing; what the cache saves is not known here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """Run an operation and add it up."""
        result = func(*args, **(kwargs or {}))
        packet = _IN_PLACE.get(func, func.overloadpacket)
        if packet in flop_registry:
            self.operations += flop_registry[packet](*args, **(kwargs or {}), out_val=result)
        if not func.is_view:
            outs = {argument.name for argument in func._schema.arguments if argument.is_out}  # they are the result
            given = {name: value for name, value in (kwargs or {}).items() if name not in outs}
            self.bytes += sum(t.nbytes for t in tree_leaves((args, given, result)) if isinstance(t, Tensor))
        return result


def count(function: Callable[[], Any]) -> Counter:
    """Call a function; return what it did."""
    with Counter() as counter:
        function()
    return counter
