"""``nastc export``: write a trained network as ONNX."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "export",
        help="write a trained network as ONNX",
        description="Write the network of a checkpoint as ONNX. The file appears only after ONNX Runtime has given the "
        "same logits as PyTorch.",
    )
    parser.add_argument("checkpoint", help="a folder of nastc train, or its model.safetensors")
    parser.add_argument("--out", metavar="FILE.onnx", help="where to write; beside the checkpoint by default")
    parser.add_argument("--opset", type=int, help="version of the ONNX operators")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Export, and say how near the two are."""
    from nni_nastc.export import CHECKED_BATCHES, export_onnx

    report = export_onnx(arguments.checkpoint, arguments.out, opset=arguments.opset)
    print(
        f"wrote {report.path} (opset {report.opset}); largest difference to PyTorch at batches of "
        f"{' and '.join(map(str, CHECKED_BATCHES))}: {report.max_relative_difference:.1e} of the largest logit"
    )
    return 0
