"""``nastc evaluate``: score a trained network, or a file of predictions."""

from __future__ import annotations

import argparse
from contextlib import nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nni_nastc.config import EvaluateConfig, PredictionsConfig

_YAML = (".yaml", ".yml")


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="score a trained network on the test part",
        description="Score a checkpoint on the test part of the videos that it was trained with, or on others: "
        "store=..., annotations=..., subset=..., draws=..., output=... Writes metrics.json, and the scores of each "
        "video to predictions.txt, a line a video: its id and a score for each class. With --predictions such a file "
        "is scored, and no checkpoint is needed: annotations=..., dataset=..., target=..., subset=..., output=...",
    )
    parser.add_argument(
        "checkpoint", nargs="?", help="a folder of nastc train, its model.safetensors, or a YAML file that names one"
    )
    parser.add_argument("--predictions", metavar="FILE", help="score this file, in the submission format of Charades")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="what to change")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, and show the scores."""
    config = _config(arguments)

    from nni_nastc.config import PredictionsConfig
    from nni_nastc.distributed import is_main
    from nni_nastc.evaluate import complete, evaluate, score_predictions

    if isinstance(config, PredictionsConfig):
        _show(score_predictions(config))
        if config.output is not None:
            print(f"wrote {config.output / 'metrics.json'}")
        return 0
    config = complete(config)
    with nullcontext() if is_main() else redirect_stdout(StringIO()):
        _show(evaluate(config))
        print(f"wrote metrics.json, predictions.txt to {config.output}")
    return 0


def _config(arguments: argparse.Namespace) -> EvaluateConfig | PredictionsConfig:
    """Return what to score, from a YAML file or from the arguments alone."""
    from nni_nastc.config import EvaluateConfig, PredictionsConfig, load_config
    from nni_nastc.errors import ConfigError

    source, overrides = arguments.checkpoint, arguments.overrides
    if source is not None and "=" in source and not Path(source).exists():
        source, overrides = None, [source, *overrides]
    file = source if source is not None and Path(source).suffix in _YAML else None
    if arguments.predictions is not None:
        if source != file:
            raise ConfigError(f"--predictions needs no checkpoint, got {source}; leave one of them out")
        return load_config(PredictionsConfig, file, overrides, defaults={"predictions": arguments.predictions})
    if source is None and not any(override.startswith("checkpoint=") for override in overrides):
        raise ConfigError("nothing to score: give a folder of nastc train, or --predictions FILE")
    return load_config(EvaluateConfig, file, overrides, defaults={} if file else {"checkpoint": source})


def _show(metrics: dict[str, Any]) -> None:
    name = "accuracy" if "accuracy" in metrics else "mAP"
    draws = f", {metrics['draws']} draws each" if "draws" in metrics else ""
    print(f"{name}: {metrics[name]:.4f} on {metrics['videos']} {metrics['subset']} videos{draws}")
    for other in (key for key in metrics if key.startswith(f"{name}_without_")):
        print(f"{other.replace('_', ' ', 2)}: {metrics[other]:.4f}")
    if metrics["classes_without_videos"] and name == "mAP":
        print(f"left out, no positive: {', '.join(metrics['classes_without_videos'])}")
