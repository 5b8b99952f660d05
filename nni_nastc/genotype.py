"""The genotype: which operations a NAS-Temp cell is made of, and every form in which it is written down.

There are four forms, and all conversions between them live here:

* :class:`Genotype`, a frozen value: four nodes of two ``(operation, predecessor)`` pairs.
* JSON (``to_json``, ``from_json``), versioned, readable.
* NNI's sample (``to_nni``, ``from_nni``), the dict of labels that a strategy samples and ``freeze`` takes.
* DARTS' usual notation (``to_darts``, ``from_darts``): eight pairs in a row, predecessors counted the same way.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nni_nastc.errors import GenotypeError
from nni_nastc.files import read_json, write_json

OPERATION_NAMES = (
    "zero",
    "identity",
    "avg_pool",
    "max_pool",
    "dil_conv_3",
    "dil_conv_5",
    "sep_conv_3",
    "sep_conv_5",
    "sep_conv_7",
)
"""The nine operations of Table I. Their modules are in :data:`nni_nastc.nn.ops.OPS`."""

SEARCHED_OPERATIONS = OPERATION_NAMES[1:]
"""The operations that a search space gives NNI. ``zero`` is the slot that NNI's differentiable cell appends itself."""

NUM_NODES = 4
"""Intermediate nodes of a cell (Sec. III-B, Fig. 3)."""

OPS_PER_NODE = 2
"""Operations that a node keeps in the derived cell (Sec. III-B)."""

NUM_INPUTS = 2
"""Inputs of a cell: ``I_{k-2}`` and ``I_{k-1}`` (Fig. 3)."""

EDGES = tuple((node, predecessor) for node in range(NUM_NODES) for predecessor in range(node + NUM_INPUTS))
"""The 14 edges ``(node, predecessor)`` of the fully connected cell, node by node."""

CELL_LABEL = "nas_temp"
"""NNI's label of the cell, shared by all layers: one set of choices, one set of alphas."""

_SOURCES = ("I_k-2", "I_k-1", "node 0", "node 1", "node 2")

_FORMAT = "nni_nastc.genotype"
_VERSION = 1

Pair = tuple[str, int]
Node = tuple[Pair, ...]


@dataclass(frozen=True)
class Genotype:
    """A NAS-Temp cell.

    Parameters
    ----------
    nodes : sequence of 4 nodes, each a sequence of 2 pairs ``(operation, predecessor)``
        Predecessor 0 is ``I_{k-2}``, 1 is ``I_{k-1}``, 2 to 4 are the nodes 0 to 2. A node adds the outputs of its two
        operations, so their order does not matter. Distinct predecessors are a rule of derivation and of
        :meth:`random`, not of validity.
    origin : str
        How the cell was found. Not compared.

    Raises
    ------
    GenotypeError
        If the nodes break these rules; all problems are named.

    Examples
    --------
    >>> pair = (("sep_conv_3", 0), ("identity", 1))
    >>> Genotype(nodes=(pair, pair, pair, pair)).to_nni()["nas_temp/op_2_0"]
    'sep_conv_3'
    """

    nodes: tuple[Node, ...]
    origin: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        problems = _problems(self.nodes)
        if problems:
            raise GenotypeError(f"a genotype has {NUM_NODES} nodes of {OPS_PER_NODE} pairs: {'; '.join(problems)}")
        nodes = tuple(tuple((str(name), int(source)) for name, source in node) for node in self.nodes)
        object.__setattr__(self, "nodes", nodes)

    @classmethod
    def random(cls, seed: int, operations: Sequence[str] = SEARCHED_OPERATIONS) -> Genotype:
        """Draw a cell: two distinct predecessors a node, and any of ``operations`` on each."""
        rng = random.Random(seed)
        nodes = []
        for node in range(NUM_NODES):
            sources = sorted(rng.sample(range(node + NUM_INPUTS), OPS_PER_NODE))
            nodes.append(tuple((rng.choice(list(operations)), source) for source in sources))
        return cls(nodes=tuple(nodes), origin=f"drawn at random with seed {seed}")

    @property
    def operations(self) -> tuple[str, ...]:
        """The eight operation names, node by node."""
        return tuple(name for node in self.nodes for name, _ in node)

    def canonical(self) -> Genotype:
        """Return the one way to write this network down: cells that compute the same have equal canonical forms.

        A node adds its two operations, so their order does not matter; nor does the predecessor of ``zero``.
        """
        nodes = tuple(
            tuple(sorted((name, 0 if name == "zero" else source) for name, source in node)) for node in self.nodes
        )
        return replace(self, nodes=nodes)

    @property
    def lines(self) -> tuple[str, ...]:
        """The cell in words, a line a node: ``node 0: sep_conv_3(I_k-2) + identity(I_k-1)``."""
        return tuple(
            f"node {node}: " + " + ".join(f"{name}({_SOURCES[source]})" for name, source in pairs)
            for node, pairs in enumerate(self.nodes)
        )

    @classmethod
    def from_lines(cls, lines: Iterable[str], origin: str = "") -> Genotype:
        """Read a cell in words, as :attr:`lines` has it.

        Raises
        ------
        GenotypeError
            If it is no cell in words, or breaks the rules of a genotype.
        """
        nodes = []
        for line in lines:
            pairs = re.findall(r"(\w+)\(([^()]*)\)", line)
            if unknown := [source for _, source in pairs if source not in _SOURCES]:
                raise GenotypeError(f"a cell in words names {', '.join(_SOURCES)}, got {', '.join(unknown)}")
            nodes.append(tuple((name, _SOURCES.index(source)) for name, source in pairs))
        return cls(nodes=tuple(nodes), origin=origin)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form as a dict."""
        nodes = [[[name, source] for name, source in node] for node in self.nodes]
        return {"format": _FORMAT, "version": _VERSION, "nodes": nodes, "origin": self.origin}

    @classmethod
    def from_dict(cls, value: Any) -> Genotype:
        """Read the form that :meth:`to_dict` writes.

        Raises
        ------
        GenotypeError
            If it is not of this format and version, or breaks the rules of a genotype.
        """
        if not isinstance(value, Mapping) or value.get("format") != _FORMAT:
            raise GenotypeError(f'a genotype is a JSON object with "format": "{_FORMAT}", got {str(value)[:80]!r}')
        if value.get("version") != _VERSION:
            raise GenotypeError(
                f"genotype version {value.get('version')!r} is unknown, this release reads {_VERSION}; update nni_nastc"
            )
        if unknown := sorted(set(value) - {"format", "version", "nodes", "origin"}):
            raise GenotypeError(f"unknown keys in a genotype: {', '.join(unknown)}; remove them")
        return cls(nodes=value.get("nodes", ()), origin=str(value.get("origin", "")))

    def to_json(self, path: Path | str) -> None:
        """Write the genotype to a file."""
        write_json(path, self.to_dict())

    @classmethod
    def from_json(cls, path: Path | str) -> Genotype:
        """Read a file that :meth:`to_json` wrote.

        Raises
        ------
        GenotypeError
            If the file is missing, not JSON, or no genotype; the message names the file.
        """
        value = read_json(path, GenotypeError)
        try:
            return cls.from_dict(value)
        except GenotypeError as problem:
            raise GenotypeError(f"{path}: {problem}") from problem

    def to_nni(self) -> dict[str, Any]:
        """Return NNI's sample: the label of every choice of the space, and what is chosen."""
        sample: dict[str, Any] = {}
        for node, pairs in enumerate(self.nodes):
            for slot, (name, source) in enumerate(pairs):
                sample[_label("op", node, slot)] = name
                sample[_label("input", node, slot)] = [source]
        return sample

    @classmethod
    def from_nni(cls, sample: Mapping[str, Any], origin: str = "") -> Genotype:
        """Read NNI's sample.

        Raises
        ------
        GenotypeError
            If labels are missing or unknown.
        """
        wanted = {
            _label(kind, node, slot)
            for kind in ("op", "input")
            for node in range(NUM_NODES)
            for slot in range(OPS_PER_NODE)
        }
        if wanted != set(sample):
            missing, unknown = sorted(wanted - set(sample)), sorted(set(sample) - wanted)
            raise GenotypeError(f"not an NNI sample of the NAS-TC space: missing labels {missing}, unknown {unknown}")
        return cls(
            nodes=tuple(
                tuple(
                    (sample[_label("op", node, slot)], _only(sample[_label("input", node, slot)]))
                    for slot in range(OPS_PER_NODE)
                )
                for node in range(NUM_NODES)
            ),
            origin=origin,
        )

    def to_darts(self) -> list[Pair]:
        """Return DARTS' notation: the eight ``(operation, predecessor)`` pairs in a row."""
        return [pair for node in self.nodes for pair in node]

    @classmethod
    def from_darts(cls, pairs: Sequence[Pair], origin: str = "") -> Genotype:
        """Read DARTS' notation (the list under ``normal``; this cell has no reduction form)."""
        if len(pairs) != NUM_NODES * OPS_PER_NODE:
            raise GenotypeError(f"DARTS' notation has {NUM_NODES * OPS_PER_NODE} pairs, got {len(pairs)}")
        nodes = [tuple(pairs[i : i + OPS_PER_NODE]) for i in range(0, len(pairs), OPS_PER_NODE)]
        return cls(nodes=tuple(nodes), origin=origin)


def _label(kind: str, node: int, slot: int) -> str:
    """Return the label that NNI's ``Cell`` gives a choice; it counts the cell's inputs as nodes."""
    return f"{CELL_LABEL}/{kind}_{node + NUM_INPUTS}_{slot}"


def _only(chosen: Any) -> Any:
    """Return the one predecessor that NNI writes as a list."""
    return chosen[0] if isinstance(chosen, list | tuple) and len(chosen) == 1 else chosen


def _problems(nodes: Any) -> list[str]:
    """Name everything that is wrong with the nodes of a genotype."""
    if not isinstance(nodes, list | tuple) or len(nodes) != NUM_NODES:
        return [f"got {nodes!r:.80}"]
    return [problem for node, pairs in enumerate(nodes) for problem in _node_problems(node, pairs)]


def _node_problems(node: int, pairs: Any) -> list[str]:
    if not isinstance(pairs, list | tuple) or len(pairs) != OPS_PER_NODE:
        return [f"node {node} is {pairs!r:.80}"]
    problems = []
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            problems.append(f"node {node} has {pair!r:.80} in place of a pair")
            continue
        name, source = pair
        if name not in OPERATION_NAMES:
            problems.append(f"node {node} has the operation {name!r}, known are {', '.join(OPERATION_NAMES)}")
        if isinstance(source, bool) or not isinstance(source, int) or not 0 <= source < node + NUM_INPUTS:
            problems.append(f"node {node} has the predecessor {source!r}, allowed are 0 to {node + NUM_INPUTS - 1}")
    return problems
