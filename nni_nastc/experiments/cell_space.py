"""The NAS-Temp cell as a search space of NNI's tuners: a JSON of 16 choices, from the one table of operations.

Choices are numbered as in NNI's own cells: 0 is ``I_{k-2}``, 1 is ``I_{k-1}``, 2 to 5 are the nodes. ``op_3_0`` is the
first operation of the second node, ``input_3_0`` the predecessor that it takes. A node may take a predecessor twice:
then it adds two operations of it, as in the space of NNI's multi-trial strategies. Swapped pairs are the same cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nni_nastc.errors import GenotypeError
from nni_nastc.files import write_json
from nni_nastc.genotype import CELL_LABEL, NUM_INPUTS, NUM_NODES, OPERATION_NAMES, OPS_PER_NODE, Genotype
from nni_nastc.models import SEARCH_SPACES

CELL_SPACE_FILE = SEARCH_SPACES / "nas_temp_cell.json"


def cell_space() -> dict[str, Any]:
    """Return the search space: name -> choice, in NNI's form."""
    space: dict[str, Any] = {}
    for node in range(NUM_INPUTS, NUM_INPUTS + NUM_NODES):
        for slot in range(OPS_PER_NODE):
            space[f"op_{node}_{slot}"] = {"_type": "choice", "_value": list(OPERATION_NAMES)}
            space[f"input_{node}_{slot}"] = {"_type": "choice", "_value": list(range(node))}
    return space


def is_cell_parameter(name: str) -> bool:
    """Tell whether a parameter is one of the cell's choices."""
    return name.startswith(("op_", "input_"))


def cell_of(parameters: Mapping[str, Any]) -> Genotype:
    """Return the cell that a tuner has sampled.

    Raises
    ------
    GenotypeError
        If choices are missing, unknown, or outside their values.
    """
    wanted = cell_space()
    if set(parameters) != set(wanted):
        missing, unknown = sorted(set(wanted) - set(parameters)), sorted(set(parameters) - set(wanted))
        raise GenotypeError(f"a cell has {len(wanted)} parameters: missing {missing}, unknown {unknown}")
    sample = {f"{CELL_LABEL}/{name}": value for name, value in parameters.items()}
    return Genotype.from_nni(sample, origin="sampled by a tuner of NNI")


def write_cell_space(path: Path = CELL_SPACE_FILE) -> None:
    """Write the search space, as ``python -m nni_nastc.experiments.cell_space`` does to the shipped file."""
    write_json(path, cell_space())


if __name__ == "__main__":
    write_cell_space()
