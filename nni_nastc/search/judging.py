"""The best of some drawn cells, judged with the weights that they inherit from the supernet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nni_nastc.evaluation.scoring import METRIC_NAMES, score_videos
from nni_nastc.files import write_json
from nni_nastc.genotype import Genotype
from nni_nastc.search.paths import PathModule, refresh_statistics

SAMPLES_FILE = "samples.json"

DRAWS_PER_SAMPLE = 10
"""How often a cell is drawn for each that is wanted, at most: a controller that is sure of itself repeats itself."""


@dataclass(frozen=True)
class JudgedCell:
    """A cell, and what the supernet's path of it says of the validation videos.

    Parameters
    ----------
    genotype : Genotype
        The cell.
    score : float
        Accuracy or mAP in [0, 1].
    loss : float
        Mean loss.
    """

    genotype: Genotype
    score: float
    loss: float


def draw_cells(module: PathModule, count: int) -> list[Genotype]:
    """Draw different cells; fewer than ``count`` if :data:`DRAWS_PER_SAMPLE` times as many draws do not give more."""
    cells: dict[frozenset[Any], Genotype] = {}
    for _ in range(DRAWS_PER_SAMPLE * count):
        genotype = module.path()
        # The order of a node's two operations does not matter.
        content = frozenset((node, pair) for node, pairs in enumerate(genotype.nodes) for pair in pairs)
        cells.setdefault(content, genotype)
        if len(cells) == count:
            break
    return list(cells.values())


def judge(
    module: PathModule,
    cells: Iterable[Genotype],
    *,
    task: str,
    calibration: Iterable[Mapping[str, Any]],
    validation: Iterable[Mapping[str, Any]],
    device: torch.device,
) -> list[JudgedCell]:
    """Score cells with inherited weights, in evaluation mode, with batch norm's statistics of the cell itself.

    Parameters
    ----------
    module : PathModule
        A trained search.
    cells : iterable of Genotype
        What to score.
    task : str
        "single-label" or "multi-label".
    calibration : iterable of mappings
        Batches of videos that trained weights, for the statistics.
    validation : iterable of mappings
        Batches of the videos on which cells are scored.
    device : torch.device
        Where to compute.

    Returns
    -------
    list of JudgedCell
        Best first: by score, of equals the one of smaller loss, then the one that was drawn first.
    """
    network = module.model.to(device)
    judged = []
    for genotype in cells:
        module.take(genotype)
        refresh_statistics(network, calibration, device)
        result = score_videos(network, validation, task, device)
        judged.append(JudgedCell(genotype, result.metric, result.loss))
    return sorted(judged, key=lambda cell: (-cell.score, cell.loss))


def write_samples(judged: Iterable[JudgedCell], task: str, folder: Path) -> None:
    """Write ``samples.json``: every judged cell with its score and loss, best first."""
    write_json(
        folder / SAMPLES_FILE,
        {
            "format": "nni_nastc.samples",
            "version": 1,
            "metric": METRIC_NAMES[task],
            "samples": [
                {"score": cell.score, "loss": cell.loss, "genotype": cell.genotype.to_dict()} for cell in judged
            ],
        },
    )
