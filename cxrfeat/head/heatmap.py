"""Heat maps: contribution of each cell of the backbone's last feature map to a logit.

The backbone ends in global average pooling: the embedding is e = (1/hw) Σ F[:, i, j] over the cells of the last feature
map F. The derivative of a logit z(e) is therefore ∂z/∂F[d, i, j] = (1/hw) ∂z/∂e[d], and the contribution of a cell to
the first-order change is

    M[i, j] = (1/hw) Σ_d ∂z/∂e[d] · F[d, i, j],    Σ_ij M[i, j] = ∇z(e) · e.

The head is an MLP with ReLU, hence linear in a neighbourhood of e, where z = Σ M + (a constant that depends on age and
sex) holds exactly. M is Grad-CAM before its final ReLU; Grad-CAM's average of the gradients over the cells is exact
here, because all cells have the same gradient. Negative cells are evidence against the finding and are kept. Only the
gradient depends on the finding, so one matrix product gives the maps of all findings.

Source: Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def heat_maps(gradients: NDArray[np.float32], feature_maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the contribution of each feature map cell to the logits of N images.

    Args:
        gradients: (N, K, dim) float32, derivatives of K logits with respect to the embedding; see
            :meth:`cxrfeat.head.predictor.Predictor.gradients`.
        feature_maps: (N, dim, h, w) float32; see :meth:`cxrfeat.backbones.encoder.FrozenEncoder.embed_with_maps`.

    Returns:
        (N, K, h, w) float32, in units of the logit; row 0 is the top of the image.

    Raises:
        ValueError: the shapes do not match.

    Example:
        >>> gradients, feature_maps = np.ones((1, 14, 8), np.float32), np.ones((1, 8, 4, 4), np.float32)
        >>> maps = heat_maps(gradients, feature_maps)
        >>> maps.shape, float(maps[0, 0].sum())  # the cells of a finding sum to gradient · embedding
        ((1, 14, 4, 4), 8.0)
    """
    if gradients.ndim != 3 or feature_maps.ndim != 4 or gradients.shape[::2] != feature_maps.shape[:2]:
        raise ValueError(
            f"gradients have shape {gradients.shape} and feature maps {feature_maps.shape}; "
            "expected (N, K, dim) and (N, dim, h, w)"
        )
    count, dim, height, width = feature_maps.shape
    cells = gradients @ feature_maps.reshape(count, dim, height * width)  # (N, K, h · w)
    return cells.reshape(count, -1, height, width) / np.float32(height * width)
