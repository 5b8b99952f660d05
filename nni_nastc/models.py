"""The one builder of networks: from a genotype or a method's name to a plain PyTorch module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from nni_nastc.baselines.actionvlad import ActionVLAD
from nni_nastc.baselines.lstm import AttentionLSTM
from nni_nastc.baselines.non_local import NonLocalNetwork
from nni_nastc.baselines.pool import PoolingNetwork
from nni_nastc.baselines.super_events import SuperEvents
from nni_nastc.baselines.tgm import TGMNetwork
from nni_nastc.baselines.timeception import build_timeception
from nni_nastc.baselines.transformer import TemporalTransformer
from nni_nastc.baselines.trn import TemporalRelationNetwork
from nni_nastc.baselines.videograph import VideoGraph, check_videograph_timesteps
from nni_nastc.errors import ModelError, did_you_mean
from nni_nastc.files import typed_fields
from nni_nastc.genotype import Genotype
from nni_nastc.nn.network import build_network, check_timesteps, default_num_groups

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
        L of NAS-TC, of Timeception and of the transformer; the other methods have the number of their papers.
    num_groups : int or None
        N of NAS-TC and of Timeception; None for the divisor of C that is nearest to C / 128.
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


def _timeception(spec: NetworkSpec, *, dilated: bool = False) -> nn.Module:
    groups = default_num_groups(spec.in_channels) if spec.num_groups is None else spec.num_groups
    return build_timeception(spec.num_classes, spec.num_layers, spec.in_channels, groups, dilated)


def _halved(spec: NetworkSpec, timesteps: int) -> None:
    check_timesteps(timesteps, spec.num_layers)


def _any_timesteps(spec: NetworkSpec, timesteps: int) -> None:
    """Accept every T."""


@dataclass(frozen=True)
class Method:
    """A temporal head that takes the place of NAS-TC.

    Parameters
    ----------
    build : callable
        Builds the network (B, C, T, H, W) -> logits (B, K); a :class:`ModelError` if it cannot take the sizes.
    check_timesteps : callable
        Raises a :class:`ModelError` if the network cannot take a T.
    """

    build: Callable[[NetworkSpec], nn.Module]
    check_timesteps: Callable[[NetworkSpec, int], None] = _any_timesteps


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "pool": Method(lambda spec: PoolingNetwork(spec.num_classes, spec.in_channels)),
        "pool_max": Method(lambda spec: PoolingNetwork(spec.num_classes, spec.in_channels, reduction="max")),
        "timeception": Method(_timeception, _halved),
        "timeception_dilated": Method(partial(_timeception, dilated=True), _halved),
        "actionvlad": Method(lambda spec: ActionVLAD(spec.num_classes, spec.in_channels)),
        "videograph": Method(
            lambda spec: VideoGraph(spec.num_classes, spec.in_channels),
            lambda spec, timesteps: check_videograph_timesteps(timesteps),
        ),
        "nonlocal": Method(lambda spec: NonLocalNetwork(spec.num_classes, spec.in_channels)),
        "trn": Method(lambda spec: TemporalRelationNetwork(spec.num_classes, spec.in_channels)),
        "lstm": Method(lambda spec: AttentionLSTM(spec.num_classes, spec.in_channels)),
        "super_events": Method(lambda spec: SuperEvents(spec.num_classes, spec.in_channels)),
        "tgm": Method(lambda spec: TGMNetwork(spec.num_classes, spec.in_channels)),
        "transformer": Method(
            lambda spec: TemporalTransformer(spec.num_classes, spec.in_channels, num_layers=spec.num_layers)
        ),
    }
)
"""Temporal heads that take the place of NAS-TC, by name."""

RANDOM_CELL = "random_cell"
"""``random_cell:SEED`` names a cell that is drawn at random, a control of what a search is worth."""


def build_model(spec: NetworkSpec) -> nn.Module:
    """Build the network (B, C, T, H, W) -> logits (B, K) of a specification.

    Raises
    ------
    ModelError
        If the method is unknown or the sizes are impossible.
    """
    if isinstance(spec.network, Genotype):
        return build_network(spec.network, spec.num_classes, spec.num_layers, spec.in_channels, spec.num_groups)
    method = _method(spec.network)
    if min(spec.num_classes, spec.in_channels) < 1:
        raise ModelError(
            f"{spec.network} needs num_classes >= 1 and in_channels >= 1, got num_classes={spec.num_classes}, "
            f"in_channels={spec.in_channels}"
        )
    return method.build(spec)


def check_model_timesteps(spec: NetworkSpec, timesteps: int) -> None:
    """Raise a :class:`ModelError` if the network cannot take this T; it says which it can."""
    if isinstance(spec.network, Genotype):
        check_timesteps(timesteps, spec.num_layers)
    else:
        _method(spec.network).check_timesteps(spec, timesteps)


def _method(name: str) -> Method:
    if name not in METHODS:
        raise ModelError(_unknown(name))
    return METHODS[name]


def find_network(name: str) -> Genotype | str:
    """Return what a name stands for.

    Parameters
    ----------
    name : str
        A method, a shipped genotype, ``random_cell:SEED``, or the path of a genotype's JSON file or a search's folder.

    Raises
    ------
    ModelError
        If nothing has this name; the nearest name is given.
    GenotypeError
        If the file is no genotype.
    """
    if name in METHODS:
        return name
    if name.startswith(f"{RANDOM_CELL}:"):
        return _random_cell(name.removeprefix(f"{RANDOM_CELL}:"))
    shipped = SEARCH_SPACES / "genotypes" / f"{name}.json"
    if shipped.is_file():
        return Genotype.from_json(shipped)
    path = Path(name)
    if path.is_dir():
        path = path / "genotype.json"
    if path.suffix == ".json":
        return Genotype.from_json(path)
    raise ModelError(_unknown(name))


def _random_cell(seed: str) -> Genotype:
    if not (seed.isascii() and seed.isdigit()):
        raise ModelError(f"a random cell is {RANDOM_CELL}:SEED with a number from 0, got {seed!r}; try {RANDOM_CELL}:0")
    return Genotype.random(int(seed))


def shipped_genotypes() -> tuple[str, ...]:
    """Return the names of the genotypes that come with the package."""
    return tuple(sorted(path.stem for path in (SEARCH_SPACES / "genotypes").glob("*.json")))


def _unknown(name: str) -> str:
    names = [*METHODS, *shipped_genotypes(), f"{RANDOM_CELL}:SEED"]
    known = f"give a genotype's JSON file or one of {', '.join(names)}"
    return f"no network is called {name!r}: {known}{did_you_mean(name, names)}"
