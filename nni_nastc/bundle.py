"""The checkpoint of a trained network: one safetensors file that tells all that a prediction needs.

The weights are the tensors; everything else is JSON under one key of the file's metadata. Reading it runs no code from
the file (no pickle), is strict about every tensor, and needs nothing else: no configuration, no store, no annotations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nni_nastc.errors import CheckpointError, NastcError
from nni_nastc.evaluation.scoring import METRIC_NAMES
from nni_nastc.features.store import StoreSettings
from nni_nastc.files import atomic_path, typed_fields
from nni_nastc.models import NetworkSpec, build_model, check_model_timesteps

MODEL_FILE = "model.safetensors"
"""The checkpoint in the folder of a training."""

TEST_DRAWS = 10
"""Random draws whose scores are averaged at test time (Timeception's protocol)."""

_KEY = "nni_nastc"
_FORMAT = "nni_nastc.checkpoint"
_VERSION = 1
_MOST = 2**16


@dataclass(frozen=True)
class Bundle:
    """What a checkpoint says of its network.

    Parameters
    ----------
    spec : NetworkSpec
        How the network is built.
    classes : tuple of str
        Class names, in the order of the logits.
    task : str
        "single-label" (softmax) or "multi-label" (sigmoid).
    timesteps : int
        T, the superframes of a draw.
    backbone : StoreSettings
        How the features are made of a video.
    feature_shape : tuple of int
        (C, H, W) of a superframe.
    draws : int
        Random draws that are averaged for a prediction.
    training : mapping
        How it was trained: configuration, versions, seed, metrics. JSON values, for the reader only.

    Raises
    ------
    CheckpointError
        If these do not fit together.
    """

    spec: NetworkSpec
    classes: tuple[str, ...]
    task: str
    timesteps: int
    backbone: StoreSettings
    feature_shape: tuple[int, int, int]
    draws: int = TEST_DRAWS
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "feature_shape", tuple(self.feature_shape))
        if problems := self._problems():
            raise CheckpointError(f"a checkpoint must agree with itself: {'; '.join(problems)}")
        check_model_timesteps(self.spec, self.timesteps)

    def _problems(self) -> list[str]:
        rules = {
            f"the network has {self.spec.num_classes} classes, {len(self.classes)} are named": (
                len(self.classes) == self.spec.num_classes
            ),
            f"class names must be distinct, got {', '.join(self.classes)}": len(set(self.classes)) == len(self.classes),
            f"the task is {' or '.join(METRIC_NAMES)}, got {self.task!r}": self.task in METRIC_NAMES,
            f"features are (C, H, W) with C = {self.spec.in_channels}, got {self.feature_shape}": (
                len(self.feature_shape) == 3 and self.feature_shape[0] == self.spec.in_channels
            ),
            f"timesteps and draws must be from 1 to {_MOST}, got {self.timesteps} and {self.draws}": (
                1 <= min(self.timesteps, self.draws) <= max(self.timesteps, self.draws) <= _MOST
            ),
        }
        return [problem for problem, kept in rules.items() if not kept]

    def to_dict(self) -> dict[str, Any]:
        """Return the bundle as JSON values."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "spec": self.spec.to_dict(),
            "classes": list(self.classes),
            "task": self.task,
            "timesteps": self.timesteps,
            "backbone": asdict(self.backbone),
            "feature_shape": list(self.feature_shape),
            "draws": self.draws,
            "training": dict(self.training),
        }

    @classmethod
    def from_dict(cls, value: Any) -> Bundle:
        """Read what :meth:`to_dict` writes.

        Raises
        ------
        CheckpointError
            If it is of another format or version, or its entries are not those of a bundle.
        NastcError
            If the network that it describes is impossible.
        """
        if not isinstance(value, Mapping) or value.get("format") != _FORMAT:
            raise CheckpointError(f'its "format" must be "{_FORMAT}", got {str(value)[:80]!r}')
        if value.get("version") != _VERSION:
            raise CheckpointError(
                f"its version is {value.get('version')!r}, this release reads {_VERSION}; update nni_nastc"
            )
        entries = {key: entry for key, entry in value.items() if key not in ("format", "version")}
        try:
            entries["spec"] = NetworkSpec.from_dict(entries["spec"])
            entries["backbone"] = StoreSettings.from_dict(entries["backbone"])
            return cls(**typed_fields(cls, entries))
        except (KeyError, TypeError) as problem:
            raise CheckpointError(f"its entries are not those of a checkpoint ({problem}); train it anew") from problem


def find_checkpoint(path: Path | str) -> Path:
    """Return the checkpoint file that a path means: itself, or the one in the folder of a training.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / MODEL_FILE).is_file():
            raise CheckpointError(f"{path} holds no {MODEL_FILE}: no training has ended there; give a checkpoint file")
        return path / MODEL_FILE
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {path}; give a folder of nastc train, or its {MODEL_FILE}")
    return path


def save_bundle(path: Path | str, module: nn.Module, bundle: Bundle) -> None:
    """Write a network with its bundle, whole or not at all.

    Parameters
    ----------
    path : Path or str
        The ``.safetensors`` file.
    module : nn.Module
        What ``build_model(bundle.spec)`` builds, trained; on any device.
    bundle : Bundle
        All that belongs to it.

    Raises
    ------
    CheckpointError
        If the weights are not those of the bundle's network, or are not finite: nothing is written.
    DiskError
        If the disk fills up.
    """
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
    _check_tensors(path, state, _expected(bundle.spec))
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={_KEY: json.dumps(bundle.to_dict())})


def load_bundle(path: Path | str) -> tuple[Bundle, nn.Module]:
    """Read a checkpoint.

    Parameters
    ----------
    path : Path or str
        The file, or the folder of a training.

    Returns
    -------
    bundle : Bundle
        What the checkpoint says of the network.
    module : nn.Module
        The network (B, C, T, H, W) -> logits (B, K), on the CPU, in evaluation mode.

    Raises
    ------
    CheckpointError
        If the file is missing, is not a checkpoint of this package, is of another version, is damaged, or holds other
        tensors than its network has.
    """
    path = find_checkpoint(path)
    metadata, state = _read(path)
    if _KEY not in metadata:
        raise CheckpointError(f"{path} holds tensors but not what network they are; give a file of nastc train")
    try:
        bundle = Bundle.from_dict(json.loads(metadata[_KEY]))
        module = build_model(bundle.spec)
    except (NastcError, ValueError, RecursionError) as problem:
        raise CheckpointError(f"{path} cannot be used as a checkpoint: {problem}") from problem
    _check_tensors(path, state, module.state_dict())
    module.load_state_dict(state, strict=True)
    return bundle, module.eval()


def require_classes(bundle: Bundle, classes: Sequence[str]) -> None:
    """Refuse a checkpoint that was trained for another class list.

    Parameters
    ----------
    bundle : Bundle
        Of the checkpoint.
    classes : sequence of str
        The class names that are wanted, in order.

    Raises
    ------
    CheckpointError
        If names or order differ; says how.
    """
    if bundle.classes == tuple(classes):
        return
    missing = [name for name in classes if name not in bundle.classes]
    extra = [name for name in bundle.classes if name not in classes]
    ways = [f"{what} {_some(names)}" for what, names in (("it lacks", missing), ("it alone has", extra)) if names]
    raise CheckpointError(
        f"the checkpoint is of another class list ({len(bundle.classes)} classes, wanted {len(classes)}): "
        f"{'; '.join(ways) or 'the same names in another order'}; train with these annotations, or give its own"
    )


def _some(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + rest


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read the metadata and the tensors of a safetensors file."""
    with open(path, "rb") as stream:
        start = stream.read(9)
    # A safetensors file begins with the length of its header, whose bytes may be any, and then the header, in JSON.
    if start[8:] != b"{" and start.startswith((b"PK", b"\x80")):
        raise CheckpointError(
            f"{path} is a pickled checkpoint of PyTorch or Lightning, which can run code when it is read; "
            f"give the {MODEL_FILE} that nastc train writes beside it"
        )
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as problem:
        raise CheckpointError(f"{path} is no safetensors file, or is damaged ({problem}); copy it anew") from None


def _expected(spec: NetworkSpec) -> dict[str, Tensor]:
    """Return the tensors of a network without their memory."""
    with torch.device("meta"):
        return build_model(spec).state_dict()


def _check_tensors(path: Path | str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Name the tensors that are missing, unknown, of another shape, or not finite."""
    shapes = [
        f"{name} {tuple(state[name].shape)} in place of {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    problems = {
        "missing tensors": [name for name in expected if name not in state],
        "unknown tensors": [name for name in state if name not in expected],
        "other shapes": shapes,
        "values that are not finite": [name for name, tensor in state.items() if not tensor.isfinite().all()],
    }
    found = [f"{what}: {_some(names)}" for what, names in problems.items() if names]
    if found:
        raise CheckpointError(f"{path} does not hold the weights of its network ({'; '.join(found)}); train it anew")
