"""``nastc bench``: tables of methods beside the paper's numbers."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "bench",
        help="tables of methods beside the paper's numbers",
        description="nastc bench CONFIG.yaml trains methods on the same features and compares them (short for nastc "
        "bench run CONFIG.yaml); nastc bench params counts parameters and nastc bench speed measures times, both "
        "without any data.",
    )
    tables = parser.add_subparsers(dest="table", required=True, metavar="CONFIG.yaml | TABLE")
    _add_run(tables)
    _add_params(tables)
    _add_speed(tables)
    parser.default_choice = "run"


def _add_run(tables: Any) -> None:
    parser = tables.add_parser(
        "run",
        help="train and score each method with each seed, and compare",
        description="Train and score each method with each seed under one protocol, each run in a process of its own. "
        "Writes table and comparisons as Markdown, CSV and JSON, and pictures. A bench that was stopped goes on when "
        "it is started again; a run that fails does not stop the others.",
    )
    parser.add_argument("config", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values in place of the file's")
    parser.set_defaults(run=run, resumes=True)


def _add_params(tables: Any) -> None:
    parser = tables.add_parser(
        "params",
        help="parameters by the number of layers",
        description="Trainable parameters of NAS-TC and Timeception with 0 to 8 layers, as Markdown, CSV, JSON and a "
        "picture (Fig. 6 and Table III of the paper). It needs no data.",
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where to write")
    parser.add_argument(
        "--genotype",
        help="NAS-TC's cell: a shipped genotype, a JSON file, or a search's folder; otherwise one of the paper's size",
    )
    parser.set_defaults(run=show_params)


def _add_speed(tables: Any) -> None:
    parser = tables.add_parser(
        "speed",
        help="time and memory of search, training and extraction on this machine",
        description="Times of a search step (alphas and weights) beside stock NNI 3.0 and DARTS as published, of the "
        "fixed network beside Timeception, and of I3D beside a plain module: in one run, in turns, medians. Also the "
        "memory of a search step, each in a fresh process. Let nothing else run meanwhile.",
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="gets speed.json and the table")
    parser.add_argument("--batch", type=int, default=4, help="videos of a search step at the first T (4)")
    parser.add_argument("--timesteps", type=int, nargs="+", default=[32, 128], metavar="T", help="(32 128)")
    parser.add_argument("--repeats", type=int, default=5, help="measured rounds (5)")
    parser.add_argument("--channels", type=int, default=1024, help="C of a search step (1024)")
    parser.add_argument("--layers", type=int, default=3, help="L of a search step (3)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:NUMBER")
    parser.set_defaults(run=show_speed)


def run(arguments: argparse.Namespace) -> int:
    """Do the bench, and show its tables and what failed; exit code 2 if something did."""
    from nni_nastc.config import BenchConfig, load_config

    config = load_config(BenchConfig, arguments.config, arguments.overrides)

    from nni_nastc.bench.runner import run_bench
    from nni_nastc.cli.bench_progress import RunProgress

    report = run_bench(config, progress=RunProgress())
    if report.tables:
        print(report.tables)
        print(f"\nwrote table and comparisons (.md, .csv, .json) and pictures to {config.output}")
    for name, reason in report.failed.items():
        print(f"failed: {name}: {reason}")
    if report.failed:
        print(f"{len(report.failed)} runs failed; the same command does them again")
    return 2 if report.failed else 0


def show_params(arguments: argparse.Namespace) -> int:
    """Count, write, and show the tables."""
    from nni_nastc.bench.parameters import write_parameters

    tables = write_parameters(arguments.out, arguments.genotype)
    print(f"{tables.caption}\n\n{tables.to_markdown()}")
    print(f"wrote parameters and table_iii (.md, .csv, .json) and parameters.png to {arguments.out}")
    return 0


def show_speed(arguments: argparse.Namespace) -> int:
    """Measure, write, and show the table."""
    from rich.console import Console

    from nni_nastc.session import training_session
    from nni_nastc.speed.report import measure_speed, to_markdown

    with training_session(), Console(stderr=True).status("measuring") as status:
        result = measure_speed(
            arguments.out,
            batch=arguments.batch,
            timesteps=tuple(arguments.timesteps),
            repeats=arguments.repeats,
            channels=arguments.channels,
            layers=arguments.layers,
            device=arguments.device,
            progress=status.update,
        )
    print(to_markdown(result))
    print(f"wrote speed.json and table (.md, .csv, .json) to {arguments.out}")
    return 0
