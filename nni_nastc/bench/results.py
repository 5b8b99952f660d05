"""The table of a bench, its comparisons and its pictures, of the runs that are finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import median
from typing import Any, Literal

import numpy as np
import torch

from nni_nastc.bench.cost import ROUNDS, Latency, count_multiply_adds, measure_latencies
from nni_nastc.bench.plan import EVALUATION_FOLDER, Run, network_spec
from nni_nastc.bench.published import published_score
from nni_nastc.bench.statistics import SIGNIFICANCE, MethodScores, compare, holm
from nni_nastc.bench.tables import Column, markdown, write_table
from nni_nastc.bundle import load_bundle
from nni_nastc.config import BenchConfig
from nni_nastc.data.datamodule import VideoSet
from nni_nastc.data.dataset import targets_of
from nni_nastc.devices import local_device
from nni_nastc.evaluate import PREDICTIONS_FILE
from nni_nastc.evaluation.metrics import mean_average_precision
from nni_nastc.evaluation.scoring import METRIC_NAMES
from nni_nastc.evaluation.submission import read_submission
from nni_nastc.plots import ScoredMethod, draw_classes, draw_score_by_size, draw_score_by_timesteps

_PARTS: tuple[Literal["train", "test"], ...] = ("train", "test")

TABLE = "table"
COMPARISONS = "comparisons"

Key = tuple[str, int]
"""Method and T: a row of the table."""


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _millions(value: float) -> str:
    return f"{value / 1e6:.3f}"


def _probability(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


COLUMNS = (
    Column("method", "method"),
    Column("timesteps", "T"),
    Column("parameters", "parameters (M)", _millions),
    Column("multiply_adds", "multiply-adds (M)", lambda value: f"{value / 1e6:.1f}"),
    Column("train_seconds", "training (s)", lambda value: f"{value:.1f}"),
    Column("peak_bytes", "peak memory (MB)", lambda value: f"{value / 1e6:.0f}"),
    Column("latency_s", "latency (ms)", lambda value: f"{1000 * value:.1f}"),
    Column("latency_spread_s", "its spread", lambda value: f"{1000 * value:.1f}"),
    Column("runs", "runs"),
    Column("score", "{metric} (%)", _percent),
    Column("deviation", "deviation", _percent),
    Column("published", "published, not measured here", _percent),
)

COMPARISON_COLUMNS = (
    Column("timesteps", "T"),
    Column("first", "first"),
    Column("second", "second"),
    Column("difference", "first - second", lambda value: f"{100 * value:+.2f}"),
    Column("low", "from", lambda value: f"{100 * value:+.2f}"),
    Column("high", "to (95 %)", lambda value: f"{100 * value:+.2f}"),
    Column("p", "p", _probability),
    Column("p_holm", "p, Holm", _probability),
    Column("significant", "more than noise", lambda value: "yes" if value else "no"),
)


COLUMNS_CAPTION = (
    "Multiply-adds are those of convolutions and matrix products for one draw of a video, without the backbone. "
    "Training is the time of all epochs, the median over seeds. Peak memory is the highest of all seeds: on the CPU "
    "that of the whole process with PyTorch in it, on a GPU what was allocated there. Latency is the time from "
    f"features to scores of one draw of one video, the median of {ROUNDS} rounds, and its spread the distance of the "
    "quartiles. Published numbers are the paper's (arXiv:2104.01110), not measured here."
)

COMPARISONS_CAPTION = (
    "Which differences are more than noise: the difference of two methods' scores in percentage points, its 95 % "
    "interval, and the probability p of one as large if there is none, by Student's t on the variance over test videos "
    "(paired, Bayesian bootstrap) and over seeds. Corrected for the number of pairs by Holm's rule; below "
    f"{SIGNIFICANCE} it is more than noise."
)


@dataclass(frozen=True)
class BenchResults:
    """The finished runs of a bench.

    Parameters
    ----------
    config : BenchConfig
        The bench.
    videos : VideoSet
        Its store and annotations.
    runs : sequence of Run
        Those that are finished.
    """

    config: BenchConfig
    videos: VideoSet
    runs: Sequence[Run]

    @property
    def metric(self) -> str:
        """``accuracy`` or ``mAP``."""
        return METRIC_NAMES[self.videos.task]

    @cached_property
    def by_row(self) -> dict[Key, list[Run]]:
        """Method and T -> the finished runs, in the order of the configuration; rows without any are left out."""
        rows = [(method, t) for t in self.config.all_timesteps for method in self.config.methods]
        found = {row: [run for run in self.runs if (run.method, run.timesteps) == row] for row in rows}
        return {row: runs for row, runs in found.items() if runs}

    @cached_property
    def scores(self) -> dict[Key, MethodScores]:
        """Method and T -> the scores of all test videos by seed."""
        records = self.videos.records("test")
        ids = [record.id for record in records]
        targets = targets_of(records, self.videos.annotations.classes, self.videos.annotations.task).numpy()
        return {
            row: MethodScores(
                np.stack([
                    read_submission(run.folder / EVALUATION_FOLDER / PREDICTIONS_FILE, ids, self.videos.num_classes)
                    for run in runs
                ]),
                targets,
            )
            for row, runs in self.by_row.items()
        }  # fmt: skip

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The table."""
        latencies = self._latencies()
        return [self._row(method, t, runs, latencies[method, t]) for (method, t), runs in self.by_row.items()]

    @cached_property
    def comparisons(self) -> list[dict[str, Any]]:
        """Pairs of methods at the same T, of those with two runs and more; all of them are corrected together."""
        against, tests = self.config.against, []
        for t in self.config.all_timesteps:
            methods = {name: s for (name, at), s in self.scores.items() if at == t and len(s.scores) > 1}
            if against is None or against in methods:
                tests += [(t, test) for test in compare(methods, against=against)]
        corrected = holm([test.p for _, test in tests])
        return [
            {"timesteps": t, **asdict(test), "p_holm": p, "significant": p < SIGNIFICANCE}
            for (t, test), p in zip(tests, corrected, strict=True)
        ]

    def write(self) -> str:
        """Write tables and pictures into the bench's folder, and return the tables in Markdown."""
        folder, caption = self.config.output, self._caption()
        columns = [Column(c.key, c.title.format(metric=self.metric), c.show) for c in COLUMNS]
        write_table(folder, TABLE, columns, self.rows, caption=caption)
        write_table(folder, COMPARISONS, COMPARISON_COLUMNS, self.comparisons, caption=COMPARISONS_CAPTION)
        self._draw()
        parts = [caption, markdown(columns, self.rows)]
        if self.comparisons:
            parts += [COMPARISONS_CAPTION, markdown(COMPARISON_COLUMNS, self.comparisons)]
        return "\n\n".join(part.rstrip() for part in parts)

    def _row(self, method: str, timesteps: int, runs: Sequence[Run], latency: Latency) -> dict[str, Any]:
        spec = network_spec(self.config, self.videos, method, timesteps)
        results = [run.result() for run in runs]
        scores = [result["score"] for result in results]
        return {
            "method": method,
            "timesteps": timesteps,
            "parameters": results[0]["parameters"],
            "multiply_adds": count_multiply_adds(spec, self.videos.store.feature_shape, timesteps),
            "train_seconds": median(result["train_seconds"] for result in results),
            "peak_bytes": max(result["peak_bytes"] for result in results),
            "latency_s": latency.median_s,
            "latency_spread_s": latency.spread_s,
            "runs": len(runs),
            "score": float(np.mean(scores)),
            "deviation": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
            "published": published_score(
                self.config.published, self.videos.store.settings.backbone, method, spec.network, timesteps
            ),
        }

    def _latencies(self) -> dict[Key, Latency]:
        """Measure the network of each row's first run."""
        shape = self.videos.store.feature_shape
        inputs = {t: torch.rand(1, shape[0], t, *shape[1:]) for t in self.config.all_timesteps}
        networks = {row: (load_bundle(runs[0].folder)[1], inputs[row[1]]) for row, runs in self.by_row.items()}
        return measure_latencies(networks, local_device(self.config.trainer.accelerator))

    def _caption(self) -> str:
        config, videos = self.config, self.videos
        count, shape = {part: len(videos.records(part)) for part in _PARTS}, videos.store.feature_shape
        rates = "".join(f", of {name} {rate:g}" for name, rate in config.learning_rates.items())
        layers = "".join(f", at T = {t} {number}" for t, number in config.layers_at.items())
        device = local_device(config.trainer.accelerator)
        threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
        return (
            f"{self.metric} of {count['test']} test videos ({config.draws} draws each), mean and standard deviation "
            f"over seeds {', '.join(map(str, config.seeds))}. All methods: {count['train']} videos, {config.epochs} "
            f"epochs, batches of {config.data.batch_size}, Adam with learning rate {config.optimizer.learning_rate:g}"
            f"{rates} ({config.optimizer.schedule}), L = {config.num_layers}{layers}; features "
            f"{' x '.join(map(str, shape))} of {videos.store.settings.backbone}; latency on {device.type}{threads}. "
            f"{COLUMNS_CAPTION}"
        )

    def _draw(self) -> None:
        """Draw what the rows allow."""
        points = [
            ScoredMethod(row["method"], row["parameters"], row["timesteps"], row["score"], row["deviation"] or 0.0)
            for row in self.rows
        ]
        for t in self.config.all_timesteps:
            of_t = [point for point in points if point.timesteps == t]
            suffix = f"_T{t}" if len(self.config.all_timesteps) > 1 else ""
            if of_t:
                draw_score_by_size(of_t, self.config.output / f"parameters{suffix}.png", metric=self.metric)
            if len(of_t) > 1 and self.metric == "mAP":
                self._draw_classes([point.name for point in of_t], t, suffix)
        if len(self.config.all_timesteps) > 1 and points:
            draw_score_by_timesteps(points, self.config.output / "timesteps.png", metric=self.metric)

    def _draw_classes(self, names: Sequence[str], timesteps: int, suffix: str) -> None:
        """Draw the classes of the best method against those of ``against``, or of the second best."""
        means = {name: self.scores[name, timesteps].by_seed.mean() for name in names}
        ranked = sorted(names, key=lambda name: -means[name])
        other = next((name for name in ranked[1:] if name == self.config.against), ranked[1])
        draw_classes(
            self._class_precisions(ranked[0], timesteps),
            self._class_precisions(other, timesteps),
            self.config.output / f"classes{suffix}.png",
            names=(ranked[0], other),
        )

    def _class_precisions(self, method: str, timesteps: int) -> dict[str, float]:
        """Return the average precision of each class that has one, the mean over seeds."""
        of_method = self.scores[method, timesteps]
        by_seed = [mean_average_precision(scores, of_method.targets).per_class for scores in of_method.scores]
        values = zip(self.videos.annotations.classes, np.mean(by_seed, axis=0), strict=True)
        return {name: float(value) for name, value in values if not np.isnan(value)}
