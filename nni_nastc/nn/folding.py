"""Batch norms that follow a convolution, folded into it."""

from __future__ import annotations

from copy import deepcopy

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Return a copy of a network in evaluation mode, without the batch norms that directly follow a convolution.

    Parameters
    ----------
    network : Module
        Whose pairs of convolution and batch norm stand next to each other in a ``Sequential``.

    Returns
    -------
    Module
        Of the same output up to rounding. It has other parameters, and is not to be trained.
    """
    folded = deepcopy(network).eval()
    for block in [module for module in folded.modules() if isinstance(module, nn.Sequential)]:
        for index in range(1, len(block)):
            layer, norm = block[index - 1], block[index]
            if isinstance(layer, _ConvNd) and isinstance(norm, _BatchNorm):
                block[index - 1] = fuse_conv_bn_eval(layer, norm)
                block[index] = nn.Identity()
    return folded
