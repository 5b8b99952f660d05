"""What the machine can do: the rates of a large matrix product and of a large copy."""

from __future__ import annotations

import torch

from nni_nastc.devices import timed

PRODUCT_SIZE = 2048
COPY_BYTES = 256 * 2**20
REPEATS = 10


def machine_rates(device: torch.device) -> dict[str, float]:
    """Measure both, each the best of ten.

    Returns
    -------
    dict
        ``product_flops``, float32 operations a second of a product of two square matrices, and ``copy_bytes``, bytes
        read and written a second.
    """
    a, b = (torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, device=device) for _ in range(2))
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product, copy = timed(lambda: a @ b, device), timed(lambda: target.copy_(source), device)
    return {
        "product_flops": 2 * PRODUCT_SIZE**3 / min(product() for _ in range(REPEATS)),
        "copy_bytes": 2 * COPY_BYTES / min(copy() for _ in range(REPEATS)),
    }
