"""What a search is about: all that was checked and opened before its folder was made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nni.nas.strategy.base import Strategy
from pytorch_lightning.callbacks import Callback
from torch.utils.data import DataLoader

from nni_nastc.config import SearchConfig
from nni_nastc.data.datamodule import FeatureDataModule, VideoSet
from nni_nastc.data.records import VideoRecord
from nni_nastc.genotype import Genotype
from nni_nastc.space.network import NasTCSpace


@dataclass(frozen=True)
class SearchTask:
    """A search that is ready to start.

    Parameters
    ----------
    config : SearchConfig
        What was asked for.
    strategy : Strategy
        NNI's or one like it, with its options.
    space : NasTCSpace
        The cells to choose from, with fresh weights.
    videos : VideoSet
        Store and annotations.
    weight_half, alpha_half : list of VideoRecord
        The videos that train weights, and those that train alphas and on which cells are scored.
    data : FeatureDataModule
        Random draws of both halves.
    validation : DataLoader
        Middle draws of the alphas' half.
    """

    config: SearchConfig
    strategy: Strategy
    space: NasTCSpace
    videos: VideoSet
    weight_half: list[VideoRecord]
    alpha_half: list[VideoRecord]
    data: FeatureDataModule
    validation: DataLoader[Any]

    @property
    def origin(self) -> str:
        """One line on how the cell was found, for the genotype."""
        return (
            f"{self.config.strategy.name}, {self.config.epochs} epochs on the "
            f"{len(self.weight_half) + len(self.alpha_half)} training videos of {self.config.data.annotations.name}, "
            f"T = {self.config.data.timesteps}, seed {self.config.seed}"
        )


Search = Callable[[SearchTask, Sequence[Callback]], Genotype]
"""The search proper of one kind of strategies. It goes on where the output folder's files end, and leaves there
``history.json`` and the pictures of its course; the caller writes the rest of the result."""
