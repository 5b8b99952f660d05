"""What all backbones share: a name, a stage whose map is stored, and which weights they hold."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn


class Backbone(nn.Module):
    """A network that makes a map of features of a superframe.

    Attributes
    ----------
    name, title : str
        Of the network, in files and for people.
    endpoint : str
        The map that is stored.
    weights_name, weights_digest : str
        Which weights it holds: a name for people, and "sha256:..." over all tensors. Empty if none were loaded.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    endpoint: str

    def __init__(self) -> None:
        super().__init__()
        self.weights_name = ""
        self.weights_digest = ""

    def folded(self) -> Backbone:
        """Return what computes the same maps, up to rounding, faster; not to be trained."""
        return self

    def features(self, clip: Tensor, endpoint: str) -> Tensor:
        """Map a clip (B, 3, frames, H, W) in [-1, 1] to (B, C, t, h, w); t is 1 for the 8 frames of a superframe."""
        raise NotImplementedError
