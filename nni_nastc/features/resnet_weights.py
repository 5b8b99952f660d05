"""Weights of ResNet-152: torchvision's files, or random ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nni_nastc.errors import WeightsError
from nni_nastc.features.resnet import MIDDLE, ResNet152
from nni_nastc.features.weight_files import read_state_dict, state_digest

RESIDUAL_SCALE = 0.2
"""Of random blocks, so that fifty sums in a row stay within float16 (our choice)."""

_COUNTER = "num_batches_tracked"  # of torchvision's newer files; no weight


def load_resnet152(weights: str | Path | None, endpoint: str = MIDDLE) -> ResNet152:
    """Build ResNet-152 with weights, in evaluation mode.

    Parameters
    ----------
    weights : str, Path or None
        torchvision's state dictionary, such as ``resnet152-394f9c45.pth``; nothing in it is run. None for random
        weights, which are the same each time.
    endpoint : str
        One of :data:`nni_nastc.features.resnet.FRAME_ENDPOINTS`.

    Returns
    -------
    ResNet152
        With as many classes as the file has (random: 1000), and ``weights_name`` and ``weights_digest`` set.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, unsafe to read or of another architecture.
    """
    if weights is None:
        name, state = "random", _random_state()
    else:
        file = Path(weights)
        if not file.is_file():
            raise WeightsError(f"no such weights file: {file}; give torchvision's resnet152-*.pth")
        loaded = read_state_dict(file)
        name, state = file.stem, {key: value for key, value in loaded.items() if not key.endswith(_COUNTER)}
        _check(file, state)
    state = {key: value.float() for key, value in state.items()}
    model = ResNet152(num_classes=len(state["fc.bias"]), endpoint=endpoint)
    model.load_state_dict(state, strict=False)  # all but the counters, as was checked
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.weights_name = name
    model.weights_digest = state_digest(state)
    return model.eval()


def _shapes(num_classes: int) -> dict[str, torch.Size]:
    with torch.device("meta"):
        state = ResNet152(num_classes).state_dict()
    return {name: tensor.shape for name, tensor in state.items() if not name.endswith(_COUNTER)}


def _check(file: Path, state: Mapping[str, Tensor]) -> None:
    """Name the tensors that are missing, unknown or of another shape."""
    shapes = _shapes(len(state["fc.bias"]) if "fc.bias" in state and state["fc.bias"].ndim else 1000)
    found = {
        "missing": [name for name in shapes if name not in state],
        "unknown": [name for name in state if name not in shapes],
        "of another shape": [name for name in shapes if name in state and state[name].shape != shapes[name]],
    }
    if problems := [f"{len(names)} {what}, such as {names[0]}" for what, names in found.items() if names]:
        raise WeightsError(
            f"{file} does not hold the tensors of ResNet-152 ({'; '.join(problems)}); "
            "give torchvision's resnet152-*.pth"
        )


def _random_state() -> dict[str, Tensor]:
    """Return He's initialisation (ICCV 2015) and batch norms that only damp the blocks; alike on every CPU."""
    generator = np.random.default_rng(0)
    state = {}
    for name, shape in _shapes(num_classes=1000).items():
        if len(shape) > 1:
            values = generator.standard_normal(tuple(shape), dtype=np.float32)
            values *= np.float32(np.sqrt(2 / np.prod(shape[1:])))
        elif name.endswith("bn3.weight"):
            values = np.full(shape, RESIDUAL_SCALE, dtype=np.float32)
        else:
            values = np.full(shape, name.endswith(("weight", "running_var")), dtype=np.float32)
        state[name] = torch.from_numpy(values)
    return state
