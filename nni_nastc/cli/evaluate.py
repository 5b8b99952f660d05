"""``nastc evaluate``: score a trained network."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="score a trained network on the test part",
        description="Score a checkpoint on the test part of the videos that it was trained with, or on others: "
        "store=..., annotations=..., subset=..., draws=..., output=...",
    )
    parser.add_argument("checkpoint", help="a folder of nastc train, or its model.safetensors")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="what to change")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, and show the scores."""
    from nni_nastc.bundle import find_checkpoint, load_bundle
    from nni_nastc.config import EvaluateConfig, load_config

    checkpoint = find_checkpoint(arguments.checkpoint)
    trained_on = load_bundle(checkpoint)[0].training.get("config", {}).get("data", {})
    keys = ("store", "annotations", "dataset", "target")
    defaults = {key: trained_on[key] for key in keys if trained_on.get(key) is not None}
    config = load_config(
        EvaluateConfig,
        None,
        arguments.overrides,
        defaults={"checkpoint": str(checkpoint), "output": str(Path(checkpoint).parent / "evaluation"), **defaults},
    )

    from nni_nastc.evaluate import evaluate

    metrics = evaluate(config)
    name = "accuracy" if "accuracy" in metrics else "mAP"
    print(f"{name}: {metrics[name]:.4f} on {metrics['videos']} {config.subset} videos, {config.draws} draws each")
    if metrics["classes_without_videos"] and name == "mAP":
        print(f"left out, no positive: {', '.join(metrics['classes_without_videos'])}")
    print(f"wrote {config.output / 'metrics.json'}")
    return 0
