"""Principal components of the filters that turn pixels into tokens (arXiv 2010.11929, section 4.5 and figure 7 left).

Letters: D filters, h w px (height and width of a filter), n components, R all of them.
"""

import numpy as np
from torch import Tensor, nn

from vitctl.errors import ModelError, SettingError
from vitctl.inspecting.findings import Findings, finite
from vitctl.inspecting.subject import Subject

COMPONENTS = 28  # figure 7 of the paper: "first 28 principal components"


def filters(subject: Subject, *, components: int = COMPONENTS) -> Findings:
    """Return the principal components of the first layer's filters on the image.

    The filters are the patch embedding's; of a hybrid or a CNN, the first convolution's. Their mean is subtracted,
    they are not scaled: the paper does not say, and equal units need no scaling.

    Args:
        subject: Any timm model whose first layer sees RGB pixels.
        components: How many to return, 1 or more; all where there are fewer.

    Raises:
        SettingError: ``components`` is below 1.
        ModelError: No layer takes an image's three channels, or its filters are all the same.
    """
    if components < 1:
        raise SettingError(f"--components is {components}; it takes 1 or more.", field="components")
    name, weights, note = _image_filters(subject)
    directions, shares = principal_components(weights.flatten(1))
    if not shares.any():
        raise ModelError(f"The filters of {name} in {subject.name} are all the same; expected a layer with weights.")
    num_filters, *shape = weights.shape
    tiles = directions.reshape(-1, *shape)
    shown = min(components, len(tiles))
    smoothness = neighbour_correlation(tiles, shares)
    spread = shares[shares > 0]
    cumulative = shares.cumsum()
    facts = {
        "layer": name,
        "num_filters": num_filters,
        "num_dimensions": int(np.prod(shape)),
        "num_components": shown,
        "explained_by_components": float(cumulative[shown - 1]),
        "effective_rank": float(np.exp(-(spread * np.log(spread)).sum())),
        "smoothness": smoothness,
        "centred": True,
        "scaled": False,
    }
    counts = sorted({1, min(3, shown), min(10, shown), shown})
    return Findings(
        arrays={"components": tiles[:shown].astype(np.float32), "explained_variance_ratio": shares},
        meanings={
            "components": "(n, 3, h, w) principal components of the filters, mean subtracted and not scaled; norm 1, "
            "the coefficient of largest magnitude positive.",
            "explained_variance_ratio": "(R,) share of the filters' variance along each component, 0 to 1, all "
            "components.",
        },
        facts=facts,
        header=("components", "explained variance"),
        rows=[(str(count), f"{100 * cumulative[count - 1]:.1f} %") for count in counts],
        notes=note,
    )


def principal_components(rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return directions and shares of variance of ``rows``, centred and not scaled, by SVD in float64.

    Args:
        rows: (N, K) float.

    Returns:
        (R, K) float64 orthonormal directions, R = min(N, K), the coefficient of largest magnitude positive; and (R,)
        float64 shares of the variance, falling, all 0 where there is none.
    """
    matrix = rows.detach().cpu().double().numpy()
    _, singular_values, directions = np.linalg.svd(matrix - matrix.mean(axis=0), full_matrices=False)
    largest = np.abs(directions).argmax(axis=1)
    directions = directions * np.where(directions[np.arange(len(directions)), largest] < 0, -1.0, 1.0)[:, None]
    variances = singular_values**2
    total = variances.sum()
    scale = float((matrix**2).sum())
    return directions, variances / total if total > 1e-24 * scale else np.zeros_like(variances)


def neighbour_correlation(tiles: np.ndarray, shares: np.ndarray) -> float | None:
    """Return the correlation of neighbouring pixels in filters, -1 to 1: near 0 for noise, near 1 for smooth ones.

    Per component, products of horizontal and vertical neighbours of one channel over the mean of their squares.

    Args:
        tiles: (R, 3, h, w) components.
        shares: (R,) their weights, summing to 1.

    Returns:
        The weighted mean; None where a filter is a single pixel.
    """
    pairs = [(tiles[..., :, :-1], tiles[..., :, 1:]), (tiles[..., :-1, :], tiles[..., 1:, :])]
    products = sum((first * second).sum(axis=(1, 2, 3)) for first, second in pairs)
    squares = sum((first**2 + second**2).sum(axis=(1, 2, 3)) / 2 for first, second in pairs)
    defined = np.asarray(squares) > 0
    if not defined.any():
        return None
    correlations = np.asarray(products)[defined] / np.asarray(squares)[defined]
    weight = shares[defined].sum()
    return finite((correlations * shares[defined]).sum() / weight) if weight > 0 else None


def _image_filters(subject: Subject) -> tuple[str, Tensor, tuple[str, ...]]:
    """Return the first layer's name, its filters (D, 3, h, w), and what to note about them."""
    for name, module in subject.model.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.shape[1] == 3 and module.groups == 1:
            is_standardised = "Std" in type(module).__name__
            note = f"{name} standardises its filters when it runs; these are the filters as stored."
            return name, module.weight, (note,) if is_standardised else ()
        found = _linear_filters(name, module)
        if found is not None:
            return *found, ()
    raise ModelError(
        f"No layer of {subject.name} takes the three channels of an image; expected a patch embedding or a "
        "convolution. Try features or cka, which need none."
    )


def _linear_filters(name: str, module: nn.Module) -> tuple[str, Tensor] | None:
    """Return the filters of a module that embeds flattened patches with a linear layer, as (D, 3, h, w)."""
    patch_size = getattr(module, "patch_size", None)
    if not isinstance(patch_size, (tuple, list)) or len(patch_size) != 2:
        return None
    height, width = (int(side) for side in patch_size)
    for child, layer in module.named_children():
        if isinstance(layer, nn.Linear) and layer.in_features == 3 * height * width:
            full_name = f"{name}.{child}" if name else child
            if getattr(module, "channels_last", False):  # timm's NaFlexViT: rows, columns, channels
                return full_name, layer.weight.reshape(-1, height, width, 3).movedim(-1, 1)
            return full_name, layer.weight.reshape(-1, 3, height, width)
    return None
