"""``nastc train``: train a network with a fixed cell, or another method."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "train",
        help="train the network of a genotype",
        description="Train the network of a genotype, or another method. A training that was stopped goes on when run "
        "again. A tenth of the training part is held out, unless final=true.",
    )
    parser.add_argument("config", help="YAML file")
    parser.add_argument("--genotype", help="a shipped genotype, a JSON file, a search's folder, or a method's name")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values in place of the file's")
    parser.set_defaults(run=run, resumes=True)


def run(arguments: argparse.Namespace) -> int:
    """Train, and say what came of it."""
    from nni_nastc.config import TrainConfig, load_config

    overrides = list(arguments.overrides)
    if arguments.genotype is not None:
        overrides.append(f"genotype={arguments.genotype}")
    config = load_config(TrainConfig, arguments.config, overrides)

    from nni_nastc.cli.progress import EpochProgress
    from nni_nastc.session import training_session
    from nni_nastc.training import train

    with training_session():
        metrics = train(config, [EpochProgress("training")])
        for name, value in metrics.items():
            print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
        print(f"wrote model.safetensors, metrics.json, history.json to {config.output}")
    return 0
