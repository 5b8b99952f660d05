"""A training without the chatter of the libraries around it."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO

from nni_nastc.devices import keep_freed_memory
from nni_nastc.distributed import is_main, only_main_warns, part

_CHATTY = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "nni", "torch.onnx")

_NO_CONCERN_OF_USERS = (
    ".*does not have many workers.*",
    # Of the layout of a small gradient, when several processes train.
    ".*Grad strides do not match bucket view strides.*",
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    # A state of a run that somebody has replaced: it is refused in words.
    ".*Detected pickle protocol.*",
    # NNI's one-shot strategies have no validation loop; ours is a callback.
    ".*`val_dataloader` but have no `validation_step`.*",
)


@contextmanager
def training_session() -> Iterator[None]:
    """Keep the chatter of Lightning and NNI from the terminal, and let Ctrl-C end the block as ``KeyboardInterrupt``.

    Lightning would end the process instead. Enter it after the libraries are imported: they set their loggers up then.
    Of several processes only the first prints; when the block is done, they part. Freed memory is kept for what comes.
    """
    keep_freed_memory()
    handler = signal.getsignal(signal.SIGINT)
    only_main_warns()
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), nullcontext() if is_main() else redirect_stdout(StringIO()):
            for message in _NO_CONCERN_OF_USERS:
                warnings.filterwarnings("ignore", message=message)
            yield
            part()
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def without_logs(name: str) -> Iterator[None]:
    """Keep back what a logger of that name tells in a block, errors included: the caller tells them in words."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
