"""Whether a video file is whole, as far as the structure of its container can tell.

Decoders read a file that was cut off up to the cut and call that its end, and they jump over what they do not
understand. Matroska, MP4, AVI, GIF and MPEG transport streams have a structure by which this is found without decoding.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from nni_nastc.errors import VideoError

_MP4_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_MP4_CONTENT_BOXES = (b"moov", b"mdat", b"moof", b"mfra")

_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
# Beside clusters: SeekHead, Info, Tracks, Cues, Attachments, Chapters, Tags; in clusters: Timestamp, SilentTracks,
# Position, PrevSize, SimpleBlock, BlockGroup, EncryptedBlock; in both: Void, CRC-32 (RFC 9559, section 5).
_MATROSKA_ELEMENTS = frozenset(
    {0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367}
    | {0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF}
    | {0xEC, 0xBF}
)

_GIF_EXTENSION, _GIF_IMAGE, _GIF_TRAILER = b"\x21", b"\x2c", b"\x3b"

_TS_SYNC, _TS_PACKET_BYTES = 0x47, 188


def check_whole(path: Path) -> None:
    """Refuse a file that breaks off before its end, or whose structure is broken.

    Parameters
    ----------
    path : Path
        The video. Nothing is said of other formats than these five.

    Raises
    ------
    VideoError
        If the end is missing, or something is in the file that the format does not know.
    """
    size = path.stat().st_size
    with open(path, "rb") as stream:
        start = stream.read(_TS_PACKET_BYTES + 1)
        stream.seek(0)
        try:
            end = _find_end(stream, start, size)
        except _BrokenError as problem:
            raise VideoError(
                f"{path} is damaged: nothing that its container knows is at byte {problem}; copy or download it again"
            ) from None
    if end > size:
        raise VideoError(
            f"{path} is truncated: its container reaches to byte {end} or further, the file to byte {size}; "
            "copy or download it again"
        )


class _BrokenError(Exception):
    """The structure is broken at the byte that is the argument."""


def _find_end(stream: BinaryIO, start: bytes, size: int) -> int:
    """Return the byte up to which the file must reach at least."""
    if start[:4] == _EBML.to_bytes(4, "big"):
        return _matroska_end(stream, size)
    if start[4:8] in _MP4_FIRST_BOXES:
        return _mp4_end(stream, size)
    if start[:4] == b"RIFF":  # a recording that was not finished has 0 here
        return 8 + int.from_bytes(start[4:8], "little")
    if start[:4] == b"GIF8":
        return _gif_end(stream)
    if start[:1] == start[_TS_PACKET_BYTES:] == bytes([_TS_SYNC]):
        return -(-size // _TS_PACKET_BYTES) * _TS_PACKET_BYTES
    return 0


def _mp4_end(stream: BinaryIO, size: int) -> int:
    """Return the furthest end of a box at the top that holds frames or an index of them."""
    position = end = 0
    while position + 8 <= size:
        stream.seek(position)
        header = stream.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:], "big")
        if length < 8:  # 0: the box reaches to the end of the file, wherever that is
            return end
        position += length
        if kind in _MP4_CONTENT_BOXES:
            end = position
    return end


def _matroska_end(stream: BinaryIO, size: int) -> int:
    """Walk over the elements of the segment and of its clusters, and return the segment's end."""
    position, end = 0, size
    while position < end:
        stream.seek(position)
        element = _matroska_number(stream, position, with_marker=True)
        length = _matroska_number(stream, position, with_marker=False)
        inside = stream.tell()
        is_master = element in (_SEGMENT, _CLUSTER)
        if not is_master and element != _EBML and element not in _MATROSKA_ELEMENTS:
            raise _BrokenError(position)
        if inside > size:
            return inside
        if element == _SEGMENT and length is not None:
            end = inside + length
        if is_master:
            position = inside
        elif length is None:  # only a live recording's segment and clusters may leave their length open
            raise _BrokenError(position)
        else:
            position = inside + length
        if position > size:
            return position
    return end


def _matroska_number(stream: BinaryIO, position: int, *, with_marker: bool) -> int | None:
    """Read a number of as many bytes as its first byte has leading zero bits, plus one (RFC 8794, section 4).

    Elements are named with the marker, which is the first one bit. A length of ones only is unknown: None.
    """
    first = stream.read(1) or b"\xff"
    size = 9 - first[0].bit_length()
    if size > 8:
        raise _BrokenError(position)
    value = int.from_bytes(first + stream.read(size - 1).ljust(size - 1, b"\0"), "big")
    if with_marker:
        return value
    ones = (1 << 7 * size) - 1
    return None if value & ones == ones else value & ones


def _gif_end(stream: BinaryIO) -> int:
    """Walk over the blocks, and return the end of the trailer."""
    _skip_gif_palette(stream, stream.read(13)[10:11])
    while True:
        kind = stream.read(1)
        if kind in (_GIF_TRAILER, b""):
            return stream.tell() + (kind == b"")
        if kind == _GIF_IMAGE:
            _skip_gif_palette(stream, stream.read(9)[8:])
        elif kind != _GIF_EXTENSION:
            raise _BrokenError(stream.tell() - 1)
        stream.seek(1, os.SEEK_CUR)  # an image's code size, an extension's label
        while length := int.from_bytes(stream.read(1), "big"):
            stream.seek(length, os.SEEK_CUR)


def _skip_gif_palette(stream: BinaryIO, flags: bytes) -> None:
    if flags and flags[0] & 0x80:
        stream.seek(3 << (flags[0] & 7) + 1, os.SEEK_CUR)
