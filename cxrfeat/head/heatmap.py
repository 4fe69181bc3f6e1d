"""Where on a film a logit comes from: one number for each cell of the network's last feature map.

The backbone ends in a global average: the embedding is e = (1/hw) Σ F[:, i, j] over the cells of the last feature map F.
So a logit z(e) changes with a cell as ∂z/∂F[d, i, j] = (1/hw) ∂z/∂e[d], and the cell's part of the first-order change is

    M[i, j] = (1/hw) Σ_d ∂z/∂e[d] · F[d, i, j],    Σ_ij M[i, j] = ∇z(e) · e.

The head is an MLP with ReLU, hence linear in a neighbourhood of e: there z = (a constant that age and sex enter) + Σ M,
exactly. M is Grad-CAM before its final ReLU, for which the average of gradients over the cells is exact here, because
they are all the same. Negative cells speak against the finding, and are kept. The gradient alone depends on the finding,
so the maps of all of them are one matrix product.

Source: Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def heat_maps(gradients: NDArray[np.float32], feature_maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Spread the logits of N films over the cells of their feature maps.

    Args:
        gradients: (N, K, dim) float32, of K logits with respect to the embedding: :meth:`cxrfeat.head.predictor.Predictor.gradients`.
        feature_maps: (N, dim, h, w) float32: :meth:`cxrfeat.backbones.encoder.FrozenEncoder.embed_with_maps`.

    Returns:
        (N, K, h, w) float32, in units of the logit; row 0 is the top of the film.

    Raises:
        ValueError: shapes that don't belong together.

    Example:
        >>> gradients, feature_maps = np.ones((1, 14, 8), np.float32), np.ones((1, 8, 4, 4), np.float32)
        >>> maps = heat_maps(gradients, feature_maps)
        >>> maps.shape, float(maps[0, 0].sum())  # the cells of a finding sum to gradient · embedding
        ((1, 14, 4, 4), 8.0)
    """
    if gradients.ndim != 3 or feature_maps.ndim != 4 or gradients.shape[::2] != feature_maps.shape[:2]:
        raise ValueError(
            f"gradients are {gradients.shape} and feature maps {feature_maps.shape}; expected (N, K, dim), (N, dim, h, w)"
        )
    count, dim, height, width = feature_maps.shape
    cells = gradients @ feature_maps.reshape(count, dim, height * width)
    return cells.reshape(count, -1, height, width) / np.float32(height * width)
