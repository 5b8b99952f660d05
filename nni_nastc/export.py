"""Export a trained network to ONNX, and check it against PyTorch before it is called done."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, RuntimeException
from torch import nn

from nni_nastc.bundle import Bundle, find_checkpoint, load_bundle
from nni_nastc.errors import ModelError, first_line
from nni_nastc.files import atomic_path
from nni_nastc.nn.folding import fold_batch_norms

TOLERANCE = 1e-4
"""Largest difference allowed, as a share of the largest logit of PyTorch."""

CHECKED_BATCHES = (1, 3)
"""Batch sizes at which the two are compared: the batch is free in the file."""


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Parameters
    ----------
    path : Path
        The file.
    opset : int
        Version of the ONNX operators in it.
    max_relative_difference : float
        Largest difference to PyTorch's logits on random features, as a share of the largest logit.
    """

    path: Path
    opset: int
    max_relative_difference: float


def export_onnx(checkpoint: Path | str, out: Path | str | None = None, *, opset: int | None = None) -> ExportReport:
    """Write the network of a checkpoint as ONNX: ``features`` (B, C, T, H, W) float32 -> ``logits`` (B, K).

    B is free; T, C, H and W are those of the checkpoint. Class names, task, sampling and how the features are made
    stand in the file's ``metadata_props`` as JSON. The file appears under its name only after ONNX Runtime has given
    PyTorch's logits.

    Parameters
    ----------
    checkpoint : Path or str
        A checkpoint, or the folder of a training.
    out : Path or str, optional
        The ``.onnx`` file; by default beside the checkpoint, with its name.
    opset : int, optional
        Version of the ONNX operators; by default what the exporter of this PyTorch prefers.

    Returns
    -------
    ExportReport
        Path, opset and the difference found.

    Raises
    ------
    CheckpointError
        If the checkpoint cannot be used.
    ModelError
        If the network cannot be written with this opset, or its logits differ; nothing is written.
    DiskError
        If the disk fills up.
    """
    path = find_checkpoint(checkpoint)
    bundle, module = load_bundle(path)
    out = path.with_suffix(".onnx") if out is None else Path(out)
    if out.suffix != ".onnx":
        raise ModelError(f"an export is an .onnx file, got {out.name!r}; give it this suffix")
    if not out.parent.is_dir():
        raise ModelError(f"no such folder: {out.parent}; make it, or export elsewhere")
    model = _convert(fold_batch_norms(module), _random_features(bundle, 2), opset)
    found = _opset(model)
    if opset not in (None, found):
        raise ModelError(f"the network cannot be written with ONNX opset {opset}, only with {found}; ask for that")
    difference = _difference(model, module, bundle)
    if not difference <= TOLERANCE:
        raise ModelError(
            f"the exported network differs from PyTorch by {difference:.1e} of the largest logit, allowed is "
            f"{TOLERANCE:.0e}; nothing was written: try another opset, or another version of PyTorch"
        )
    onnx.helper.set_model_props(model, _properties(bundle))
    with atomic_path(out) as temporary:
        onnx.save(model, temporary)
    return ExportReport(out, found, difference)


def _convert(module: nn.Module, features: torch.Tensor, opset: int | None) -> onnx.ModelProto:
    """Return the network as an ONNX model with a free batch."""
    arguments: dict[str, Any] = {"input_names": ["features"], "output_names": ["logits"], "opset_version": opset}
    with _quiet():
        try:
            if _torch_version() < (2, 6):
                return _convert_by_tracing(module, features, arguments)
            shapes = ({0: torch.export.Dim("batch")},)
            program = torch.onnx.export(module, (features,), dynamo=True, dynamic_shapes=shapes, **arguments)
            return program.model_proto  # type: ignore[union-attr]
        except (RuntimeError, ValueError) as problem:
            reason = (str(problem).splitlines() or ["no reason given"])[0]
            raise ModelError(f"PyTorch cannot export this network: {reason}; try another opset") from problem


def _convert_by_tracing(module: nn.Module, features: torch.Tensor, arguments: dict[str, Any]) -> onnx.ModelProto:
    """Convert as PyTorch before 2.6 does, whose newer exporter is not ready."""
    stream = io.BytesIO()
    axes = {"features": {0: "batch"}, "logits": {0: "batch"}}
    newer = {"dynamo": False} if _torch_version() >= (2, 5) else {}
    torch.onnx.export(module, (features,), stream, dynamic_axes=axes, **newer, **arguments)  # type: ignore[arg-type]
    return onnx.load_from_string(stream.getvalue())


def _torch_version() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def _opset(model: onnx.ModelProto) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _difference(model: onnx.ModelProto, module: nn.Module, bundle: Bundle) -> float:
    """Return the largest difference between the logits of ONNX Runtime and of PyTorch, relative to the largest."""
    try:
        onnx.checker.check_model(model)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        differences = []
        for batch in CHECKED_BATCHES:
            features = _random_features(bundle, batch)
            with torch.inference_mode():
                expected = module(features).numpy()
            (logits,) = session.run(["logits"], {"features": features.numpy()})
            differences.append(np.abs(logits - expected).max() / np.abs(expected).max())
    except (onnx.checker.ValidationError, Fail, InvalidArgument, InvalidGraph, RuntimeException) as problem:
        raise ModelError(
            f"ONNX Runtime cannot run the exported network ({first_line(problem)}); try another opset"
        ) from problem
    return float(max(differences))


def _random_features(bundle: Bundle, batch: int) -> torch.Tensor:
    """Return features as they leave a backbone's last ReLU: not negative, half of them zero."""
    channels, height, width = bundle.feature_shape
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, channels, bundle.timesteps, height, width, generator=generator).relu()


def _properties(bundle: Bundle) -> dict[str, str]:
    """Return what the user of the file must know, each value as JSON."""
    values = {
        "class_names": bundle.classes,
        "task": bundle.task,
        "timesteps": bundle.timesteps,
        "draws": bundle.draws,
        "feature_shape": bundle.feature_shape,
        "backbone": asdict(bundle.backbone),
        "network": bundle.spec.to_dict(),
    }
    return {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, advice and deprecations away from the user."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
