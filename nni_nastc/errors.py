"""The errors that a user can cause.

Each message is one line: what went wrong, the rule, what was given, what to do. The command line prints it and
exits with code 2. Every class also derives from the built-in one that callers would expect.
"""

import difflib
from collections.abc import Iterable
from functools import lru_cache


def first_line(problem: BaseException) -> str:
    """Return what an exception says in its first line that is not empty, or its name if it says nothing."""
    return next((line.strip() for line in str(problem).splitlines() if line.strip()), type(problem).__name__)


def did_you_mean(name: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """Return " (did you mean ONE?)" with the known name that is most like another; nothing if none is like it.

    Case makes no difference. ``likeness``, from 0 to 1, is what counts as like it.
    """
    return _did_you_mean(name, tuple(known), likeness)


@lru_cache(maxsize=1024)  # files repeat their mistakes, and comparing with all names takes a millisecond
def _did_you_mean(name: str, known: tuple[str, ...], likeness: float) -> str:
    plain = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), plain, n=1, cutoff=likeness)
    return f" (did you mean {plain[near[0]]}?)" if near else ""


class NastcError(Exception):
    """Base of all errors that a user of the package can cause."""


class ConfigError(NastcError, ValueError):
    """A configuration holds unknown keys or values outside their rule."""


class VideoError(NastcError, ValueError):
    """A video is missing, is no video, is damaged, or is too short."""


class FeatureStoreError(NastcError, ValueError):
    """A feature store is missing, damaged, or was made with other settings."""


class WeightsError(NastcError, ValueError):
    """Backbone weights are missing, damaged, or of another architecture."""


class AnnotationError(NastcError, ValueError):
    """An annotation file breaks its format."""


class DataError(NastcError, ValueError):
    """Annotations, feature store and sampling do not fit together."""


class GenotypeError(NastcError, ValueError):
    """A genotype breaks its rules or does not fit the search space."""


class ModelError(NastcError, ValueError):
    """A network cannot be built from, or applied to, what was given."""


class CheckpointError(NastcError, ValueError):
    """A checkpoint is damaged or does not fit what it is used for."""


class ExperimentError(NastcError, RuntimeError):
    """An experiment of NNI cannot be started, found or read."""


class RunFolderError(NastcError, OSError):
    """An output folder cannot be used: it holds another run, or cannot be written."""


class DiskError(NastcError, OSError):
    """The disk is full, or too small for what is asked."""
