"""The order of an array's axes, in letters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from nni_nastc.errors import FeatureStoreError

STORED = "TCHW"
_ONE = "1"


@dataclass(frozen=True)
class Layout:
    """A letter for each axis of an array of features, in their order.

    Parameters
    ----------
    letters : str
        T (windows) and C (channels), H and W or neither of them (then they are 1), and ``1`` for axes of size 1.

    Raises
    ------
    FeatureStoreError
        If the letters break the rule.
    """

    letters: str

    def __post_init__(self) -> None:
        axes = self.letters.replace(_ONE, "")
        if sorted(axes) not in (["C", "T"], ["C", "H", "T", "W"]):
            raise FeatureStoreError(
                "a layout has T and C once each, H and W once each or not at all, and 1 for axes of size 1 "
                f"(TC, CT, THWC, CTHW, 1CT, ...): given {self.letters!r}"
            )

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Return (T, C, H, W) of an array of this layout.

        Raises
        ------
        FeatureStoreError
            If the shape is not of this layout.
        """
        sizes = dict(zip(self.letters, shape, strict=False))
        ones = all(size == 1 for letter, size in zip(self.letters, shape, strict=False) if letter == _ONE)
        if len(shape) != len(self.letters) or not ones or 0 in shape:
            raise FeatureStoreError(
                f"an array of layout {self.letters} has {len(self.letters)} axes that are not empty: "
                f"given shape {tuple(shape)}; give its --layout"
            )
        return sizes["T"], sizes["C"], sizes.get("H", 1), sizes.get("W", 1)

    def to_stored(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a view (T, C, H, W) of an array of this layout."""
        order = [self.letters.index(letter) for letter in STORED if letter in self.letters]
        ones = [axis for axis, letter in enumerate(self.letters) if letter == _ONE]
        return array.transpose(*order, *ones).reshape(self.stored_shape(array.shape))
