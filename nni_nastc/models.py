"""The one builder of networks: from a genotype or a method's name to a plain PyTorch module."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from nni_nastc.baselines.pooling import PoolingNetwork
from nni_nastc.errors import ModelError
from nni_nastc.files import typed_fields
from nni_nastc.genotype import Genotype
from nni_nastc.nn.network import build_network, check_timesteps

SEARCH_SPACES = Path(__file__).parent / "search_spaces"
"""The folder of shipped search spaces and, in ``genotypes``, of cells that were found."""


@dataclass(frozen=True)
class NetworkSpec:
    """All that it takes to build a network again.

    Parameters
    ----------
    network : Genotype or str
        A cell for NAS-TC, or the name of one of :data:`METHODS`.
    num_classes : int
        K.
    in_channels : int
        C of the features.
    num_layers : int
        L of NAS-TC; other methods ignore it.
    num_groups : int or None
        N of NAS-TC; None for the divisor of C that is nearest to C / 128.
    """

    network: Genotype | str
    num_classes: int
    in_channels: int
    num_layers: int = 3
    num_groups: int | None = None

    @property
    def name(self) -> str:
        """``nas_tc``, or the name of the method."""
        return self.network if isinstance(self.network, str) else "nas_tc"

    def to_dict(self) -> dict[str, Any]:
        """Return the specification as JSON values."""
        network = self.network if isinstance(self.network, str) else self.network.to_dict()
        return {**asdict(self), "network": network}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> NetworkSpec:
        """Read what :meth:`to_dict` writes.

        Raises
        ------
        ModelError, GenotypeError
            If keys are missing or unknown, or the genotype is invalid.
        """
        try:
            if isinstance(value, Mapping) and not isinstance(value.get("network"), str):
                value = {**value, "network": Genotype.from_dict(value.get("network"))}
            return cls(**typed_fields(cls, value))
        except TypeError as problem:
            raise ModelError(f"not the specification of a network: {problem}") from problem


def _pool(spec: NetworkSpec) -> nn.Module:
    return PoolingNetwork(spec.num_classes, spec.in_channels)


METHODS: Mapping[str, Callable[[NetworkSpec], nn.Module]] = MappingProxyType({"pool": _pool})
"""Temporal heads that take the place of NAS-TC, by name."""


def build_model(spec: NetworkSpec) -> nn.Module:
    """Build the network (B, C, T, H, W) -> logits (B, K) of a specification.

    Raises
    ------
    ModelError
        If the method is unknown or the sizes are impossible.
    """
    if isinstance(spec.network, Genotype):
        return build_network(spec.network, spec.num_classes, spec.num_layers, spec.in_channels, spec.num_groups)
    if spec.network not in METHODS:
        raise ModelError(_unknown(spec.network))
    return METHODS[spec.network](spec)


def check_model_timesteps(spec: NetworkSpec, timesteps: int) -> None:
    """Raise a :class:`ModelError` if the network cannot take this T."""
    if isinstance(spec.network, Genotype):
        check_timesteps(timesteps, spec.num_layers)


def find_network(name: str) -> Genotype | str:
    """Return what a name stands for: a method, a shipped genotype, or the genotype in a JSON file or a search's folder.

    Raises
    ------
    ModelError
        If nothing has this name; the nearest names are given.
    GenotypeError
        If the file is no genotype.
    """
    if name in METHODS:
        return name
    shipped = SEARCH_SPACES / "genotypes" / f"{name}.json"
    if shipped.is_file():
        return Genotype.from_json(shipped)
    path = Path(name)
    if path.is_dir():
        path = path / "genotype.json"
    if path.suffix == ".json":
        return Genotype.from_json(path)
    raise ModelError(_unknown(name))


def shipped_genotypes() -> tuple[str, ...]:
    """Return the names of the genotypes that come with the package."""
    return tuple(sorted(path.stem for path in (SEARCH_SPACES / "genotypes").glob("*.json")))


def _unknown(name: str) -> str:
    names = [*METHODS, *shipped_genotypes()]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"no network is called {name!r}: give a genotype's JSON file or one of {', '.join(names)}{hint}"
