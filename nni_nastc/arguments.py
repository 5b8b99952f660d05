"""Values on command lines."""

from __future__ import annotations

import argparse


def count(text: str) -> int:
    """Read a number from 1 up.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is none; the parser tells it.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 up: given {text!r}")
    return int(text)
