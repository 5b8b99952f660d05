"""Parameters by the number of layers, NAS-TC against Timeception: Fig. 6 and the columns of Table III, without data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nni_nastc.bench.tables import Column, markdown, write_table
from nni_nastc.errors import ModelError
from nni_nastc.files import make_folder
from nni_nastc.genotype import Genotype
from nni_nastc.models import NetworkSpec, build_model, find_network
from nni_nastc.plots import Curve, draw_curves

NUM_CLASSES = 157
IN_CHANNELS = 1024
NUM_GROUPS = 8
"""Charades (Sec. IV-A) on I3D (Sec. III-B); Timeception's 8 groups (the paper does not print its N)."""

LAYERS = range(9)

_CONVOLUTIONS = (("dil_conv_5", 0), ("dil_conv_5", 1))
PUBLISHED_SIZE = Genotype(
    nodes=(_CONVOLUTIONS, _CONVOLUTIONS, _CONVOLUTIONS, (("identity", 0), ("identity", 1))),
    origin="six convolutions and two identities, the size that the paper reports",
)
"""The paper prints no parameters of single cells; those of this one, the same at any choice of six single convolutions
but for the length of the kernels, are the ones that it reports for its own."""

PUBLISHED = {0: (0.61e6, 0.61e6), 3: (1.5e6, 2.0e6), 4: (2.0e6, 2.8e6)}
"""Layers -> published parameters of NAS-TC and Timeception (Table III; without layers: Sec. IV-B3)."""

PUBLISHED_SAVING = {6: 0.36}
"""Layers -> by how much NAS-TC is published to be smaller (Sec. I)."""

TABLE_III = ((32, 3), (64, 3), (128, 4))
"""T and layers."""


def _millions(value: float) -> str:
    return f"{value / 1e6:.3f}"


def _published(value: float) -> str:
    return f"{value / 1e6:#.2g}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


_SIZES = (
    Column("nas_tc", "NAS-TC", _millions),
    Column("timeception", "Timeception (kernels)", _millions),
    Column("timeception_dilated", "Timeception (dilations)", _millions),
    Column("saving", "fewer", _percent),
    Column("published_nas_tc", "NAS-TC, published", _published),
    Column("published_timeception", "Timeception, published", _published),
)
FIG_6_COLUMNS = (
    Column("layers", "layers"),
    *_SIZES,
    Column("published_saving", "fewer, published", _percent),
)
TABLE_III_COLUMNS = (Column("timesteps", "T"), Column("layers", "layers"), *_SIZES)


@dataclass(frozen=True)
class ParameterTables:
    """What was counted.

    Parameters
    ----------
    fig_6 : list of dict
        A row for each number of layers.
    table_iii : list of dict
        A row for each T of Table III.
    caption : str
        What is counted, and of which cell.
    """

    fig_6: list[dict[str, Any]]
    table_iii: list[dict[str, Any]]
    caption: str

    def to_markdown(self) -> str:
        """Return both tables."""
        return "\n".join([markdown(FIG_6_COLUMNS, self.fig_6), markdown(TABLE_III_COLUMNS, self.table_iii)])


def count_parameters(genotype: Genotype = PUBLISHED_SIZE) -> ParameterTables:
    """Count the trainable parameters of networks of 0 to 8 layers, the head included; no memory is taken for them.

    Parameters
    ----------
    genotype : Genotype
        The cell of NAS-TC.
    """
    rows = [_row(genotype, layers) for layers in LAYERS]
    columns = {column.key for column in _SIZES}
    return ParameterTables(
        fig_6=rows,
        table_iii=[
            {"timesteps": timesteps, "layers": layers, **{key: rows[layers][key] for key in columns}}
            for timesteps, layers in TABLE_III
        ],
        caption=f"Millions of trainable parameters, head included, on {IN_CHANNELS} channels in {NUM_GROUPS} groups "
        f"with {NUM_CLASSES} classes. NAS-TC has the cell: {genotype.origin or 'of unknown origin'}. Columns that say "
        "published hold the paper's numbers (arXiv:2104.01110); the others are counted here.",
    )


def write_parameters(out: Path | str, network: str | None = None) -> ParameterTables:
    """Write Fig. 6 and the parameter columns of Table III as tables, and Fig. 6 as a picture.

    Parameters
    ----------
    out : Path or str
        Gets ``parameters`` (Fig. 6) and ``table_iii`` as ``.md``, ``.csv`` and ``.json``, and ``parameters.png``.
    network : str, optional
        The name of a cell as :func:`nni_nastc.models.find_network` takes it; a cell of the published size by default.

    Returns
    -------
    ParameterTables
        What was written.

    Raises
    ------
    ModelError
        If the name is that of no cell.
    RunFolderError
        If the folder cannot be made.
    """
    genotype = PUBLISHED_SIZE if network is None else find_network(network)
    if isinstance(genotype, str):
        raise ModelError(f"the parameters of NAS-TC are those of a cell, got the method {genotype}; give a genotype")
    tables = count_parameters(genotype)
    out = Path(out)
    make_folder(out)
    write_table(out, "parameters", FIG_6_COLUMNS, tables.fig_6, caption=f"Fig. 6. {tables.caption}")
    write_table(out, "table_iii", TABLE_III_COLUMNS, tables.table_iii, caption=f"Table III. {tables.caption}")
    draw_curves(_curves(tables.fig_6), out / "parameters.png", x_label="layers", y_label="million parameters")
    return tables


def _row(genotype: Genotype, layers: int) -> dict[str, Any]:
    """Count three networks of as many layers."""
    nas_tc, timeception, dilated = (
        _count(NetworkSpec(network, NUM_CLASSES, IN_CHANNELS, layers, NUM_GROUPS))
        for network in (genotype, "timeception", "timeception_dilated")
    )
    published = PUBLISHED.get(layers, (None, None))
    return {
        "layers": layers,
        "nas_tc": nas_tc,
        "timeception": timeception,
        "timeception_dilated": dilated,
        "saving": 1 - nas_tc / timeception,
        "published_nas_tc": published[0],
        "published_timeception": published[1],
        "published_saving": PUBLISHED_SAVING.get(layers),
    }


def _count(spec: NetworkSpec) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(spec).parameters())


def _curves(rows: Sequence[dict[str, Any]]) -> list[Curve]:
    """Return the picture's curves: two that are counted, and the published points of the same."""
    curves = []
    for key, label in (("nas_tc", "NAS-TC"), ("timeception", "Timeception")):
        for prefix, suffix, points in (("", "", False), ("published_", " (published)", True)):
            known = [(row["layers"], row[prefix + key] / 1e6) for row in rows if row[prefix + key] is not None]
            curves.append(Curve(label + suffix, known, group=key, points=points))
    return curves
