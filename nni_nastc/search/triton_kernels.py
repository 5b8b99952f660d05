"""Filters in Triton: forward, back to the input, and back to the kernels. See :mod:`nni_nastc.search.triton_filters`.

``x`` is (num_rows, CHANNELS), ``taps`` (num_filters, MAX_TAPS, CHANNELS), ``sizes`` and ``dilations`` (num_filters,),
``filtered`` and ``upper``, the gradient of it, (num_filters, num_rows, CHANNELS), ``scale`` and ``shift`` (CHANNELS,).
Rows are (B x T x S), ``steps`` is T, ``places`` is S; a step in time is ``places`` rows away, and a tap beyond the
first or last step of a video reads zero. A program works on blocks of ROWS rows and all channels, in COLUMNS, the power
of two that holds them. What is computed is float32.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _block(first, num_rows, steps, places, CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the step in time of each row of a block, where its values lie from its first one, and which are there."""
    rows = first + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    step = ((rows // places) % steps).to(tl.int32)
    place = tl.arange(0, ROWS)[:, None] * CHANNELS + columns[None, :]
    return step, place, (rows < num_rows)[:, None] & (columns < CHANNELS)[None, :]


@triton.jit
def _within(step, offset, steps):
    """Tell which steps have another one at an offset."""
    return ((step + offset >= 0) & (step + offset < steps))[:, None]


@triton.jit
def _columns_of(x, CHANNELS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return a row of a small matrix."""
    columns = tl.arange(0, COLUMNS)
    return tl.load(x + columns, mask=columns < CHANNELS, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _read(x, place, there, scales, shifts, NORMALISED: tl.constexpr):
    """Return ``relu(x * scale + shift)`` of a block; zero where nothing is."""
    values = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
    if NORMALISED:
        values = values * scales + shifts
    # As PyTorch's ReLU it keeps NaN, so that a search that diverges is seen.
    return tl.where(there, tl.maximum(values, 0.0, propagate_nan=tl.PropagateNan.ALL), 0.0)


@triton.jit
def filter_forward(
    x, scale, shift, taps, sizes, dilations, filtered, num_rows, num_filters, steps, places,
    NORMALISED: tl.constexpr, CHANNELS: tl.constexpr, MAX_TAPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write what every filter makes of a block of rows."""
    first = tl.program_id(0).to(tl.int64) * ROWS
    step, place, valid = _block(first, num_rows, steps, places, CHANNELS, ROWS, COLUMNS)
    scales, shifts = _columns_of(scale, CHANNELS, COLUMNS), _columns_of(shift, CHANNELS, COLUMNS)
    for number in range(num_filters):
        size, dilation = tl.load(sizes + number), tl.load(dilations + number)
        total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
        for tap in range(size):
            offset = (tap - size // 2) * dilation
            start = x + (first + offset * places) * CHANNELS
            values = _read(start, place, valid & _within(step, offset, steps), scales, shifts, NORMALISED)
            total += values * _columns_of(taps + (number * MAX_TAPS + tap) * CHANNELS, CHANNELS, COLUMNS)
        target = filtered + (number * num_rows + first) * CHANNELS
        tl.store(target + place, total.to(filtered.dtype.element_ty), mask=valid)


@triton.jit
def filter_input_gradient(
    x, scale, shift, taps, sizes, dilations, upper, gradient, num_rows, num_filters, steps, places,
    NORMALISED: tl.constexpr, CHANNELS: tl.constexpr, MAX_TAPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a block of rows in front of the ReLU, all filters together."""
    first = tl.program_id(0).to(tl.int64) * ROWS
    step, place, valid = _block(first, num_rows, steps, places, CHANNELS, ROWS, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for number in range(num_filters):
        size, dilation = tl.load(sizes + number), tl.load(dilations + number)
        for tap in range(size):
            offset = (tap - size // 2) * dilation  # this step was read from the one at -offset
            start = upper + (number * num_rows + first - offset * places) * CHANNELS
            values = tl.load(start + place, mask=valid & _within(step, -offset, steps), other=0.0).to(tl.float32)
            total += values * _columns_of(taps + (number * MAX_TAPS + tap) * CHANNELS, CHANNELS, COLUMNS)
    scales, shifts = _columns_of(scale, CHANNELS, COLUMNS), _columns_of(shift, CHANNELS, COLUMNS)
    read = _read(x + first * CHANNELS, place, valid, scales, shifts, NORMALISED)
    target = gradient + first * CHANNELS + place
    tl.store(target, tl.where(read <= 0, 0.0, total).to(gradient.dtype.element_ty), mask=valid)


@triton.jit
def filter_kernel_gradient(
    x, scale, shift, sizes, dilations, upper, partial, num_rows, num_filters, steps, places, blocks,
    NORMALISED: tl.constexpr, CHANNELS: tl.constexpr, MAX_TAPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the share of some blocks of rows in the gradient of a filter."""
    share, number = tl.program_id(0), tl.program_id(1)
    columns, tap_numbers = tl.arange(0, COLUMNS), tl.arange(0, MAX_TAPS)
    size, dilation = tl.load(sizes + number), tl.load(dilations + number)
    scales, shifts = _columns_of(scale, CHANNELS, COLUMNS), _columns_of(shift, CHANNELS, COLUMNS)
    total = tl.zeros([MAX_TAPS, COLUMNS], dtype=tl.float32)
    for block in range(blocks):
        first = (share.to(tl.int64) * blocks + block) * ROWS
        step, place, valid = _block(first, num_rows, steps, places, CHANNELS, ROWS, COLUMNS)
        start = upper + (number * num_rows + first) * CHANNELS
        gradient = tl.load(start + place, mask=valid, other=0.0).to(tl.float32)
        for tap in range(size):
            offset = (tap - size // 2) * dilation
            there = valid & _within(step, offset, steps)
            values = _read(x + (first + offset * places) * CHANNELS, place, there, scales, shifts, NORMALISED)
            sums = tl.sum(values * gradient, axis=0)
            total += tl.where((tap_numbers == tap)[:, None], sums[None, :], 0.0)
    target = partial + ((share * num_filters + number) * MAX_TAPS + tap_numbers[:, None]) * CHANNELS
    tl.store(target + columns[None, :], total, mask=(columns < CHANNELS)[None, :])
