"""Damage in H.264 and HEVC slices that decoders do not see.

Blocks of zeros, as a broken disk or an unfinished download leaves them, decode as if they were picture. But three zero
bytes in a row never occur in a slice: the encoder breaks them up (ITU-T H.264, section 7.4.1; H.265, section 7.4.2).
"""

from __future__ import annotations

import re
from collections.abc import Callable

_ZEROS = b"\0\0\0"
# Between the slices of a byte stream zeros may stand, and only 1 may follow them.
_ZEROS_IN_BYTE_STREAM = re.compile(rb"\0\0\0[^\0\1]")


def zero_run_check(codec: str, extradata: bytes | None) -> Callable[[bytes], bool] | None:
    """Return the check of one stream's packets.

    Parameters
    ----------
    codec : str
        The decoder's name.
    extradata : bytes or None
        The stream's parameter sets, as the container stores them.

    Returns
    -------
    callable or None
        Tells of a packet's bytes whether a slice in it holds three zero bytes in a row; None for other codecs.
    """
    if codec not in ("h264", "hevc"):
        return None
    record_byte = 4 if codec == "h264" else 21
    if extradata is None or len(extradata) <= record_byte or extradata[0] != 1:
        return lambda packet: _ZEROS_IN_BYTE_STREAM.search(packet) is not None
    # Each unit is preceded by its length, in as many bytes as the avcC or hvcC record says.
    length_size = (extradata[record_byte] & 3) + 1
    return lambda packet: _has_zeros_in_units(packet, length_size, codec)


def _has_zeros_in_units(packet: bytes, length_size: int, codec: str) -> bool:
    start = length_size
    while start < len(packet):
        end = start + int.from_bytes(packet[start - length_size : start], "big")
        zeros = packet.find(_ZEROS, start, end)
        # Some encoders pad a unit with zeros at its end.
        if zeros >= 0 and _is_slice(packet[start], codec) and packet[zeros:end].strip(b"\0"):
            return True
        start = end + length_size
    return False


def _is_slice(first_byte: int, codec: str) -> bool:
    return 1 <= first_byte & 0x1F <= 5 if codec == "h264" else first_byte >> 1 & 0x3F < 32
