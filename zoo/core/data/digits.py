"""Images made in memory from the handwritten digits that scikit-learn ships.

`digits` are those 1,797 glyphs of 8 x 8, resized. `cluttered_digits` draws a glyph under a random
affine map and colour contrast on a low-frequency coloured background, with fragments of other
glyphs and pixel noise: any number of images, CIFAR-shaped. Image i of a split is the same whatever
number is asked for, and no glyph serves both training and test.

Training on the cluttered set starts with a plateau at chance, whose length depends on the seed. It
must last long enough to leave the plateau: ResNet-20 on 4,000 images at 32 x 32 with 312 updates of
64 images reached 50, 68 and 14 % at half width, with seeds 0, 1 and 2. `docs/cluttered_digits.md`
shows 1,500 updates of 32 images.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["CLUTTER_VERSION", "cluttered_digits", "digits", "glyph_indices"]

Part = Literal["train", "test"]

# The drawing below is frozen under this number: change one, change the other.
CLUTTER_VERSION = 1

FRAGMENTS = 3
GLYPH_EXTENT = (0.6, 0.95)  # side of the digit, as a share of the image
ROTATION = math.radians(20.0)
SHEAR = 0.2
CONTRAST = (0.25, 0.6)  # distance in colour from the ground, hardest and easiest image
FRAGMENT_EXTENT = (0.25, 0.5)
FRAGMENT_CONTRAST = 0.35  # in the hardest image; none in the easiest
BACKGROUND_CELLS = 4
BACKGROUND_RANGE = (0.25, 0.75)
BACKGROUND_RELIEF = 0.15  # in the hardest image
NOISE_STD = 0.05  # in the hardest image

_CHUNK = 500  # images that share a random stream
_GLYPH_SEED = 20240
_TEST_SHARE = 0.25


def digits(part: Part, image_size: int = 32) -> tuple[Tensor, Tensor]:
    """The plain glyphs of one part, resized and repeated over three channels.

    Args:
        part: `"train"` (three quarters of each class) or `"test"`.
        image_size: side in pixels.

    Returns:
        Images, uint8, shape (N, 3, H, W), and labels, int64, shape (N,).
    """
    glyphs, labels = _glyphs()
    index = torch.from_numpy(glyph_indices(part))
    images = F.interpolate(
        glyphs[index, None], size=(image_size, image_size), mode="bilinear", align_corners=False
    )
    return _to_uint8(images).expand(-1, 3, -1, -1).contiguous(), labels[index]


@lru_cache(maxsize=4)  # both parts at two sizes: every seed of a suite splits the same images
def cluttered_digits(part: Part, count: int, image_size: int = 32) -> tuple[Tensor, Tensor]:
    """The first `count` images of one part of the cluttered set; kept, so not to be changed.

    Args:
        part: `"train"` or `"test"`; they share no glyph.
        count: number of images.
        image_size: side in pixels; the scene is the same at every size but for its noise.

    Returns:
        Images, uint8, shape (N, 3, H, W), and labels, int64, shape (N,).
    """
    chunks = [_draw_chunk(part, chunk, image_size) for chunk in range(math.ceil(count / _CHUNK))]
    if not chunks:
        return torch.empty(0, 3, image_size, image_size, dtype=torch.uint8), torch.empty(0).long()
    images = torch.cat([image for image, _ in chunks])[:count]
    return images, torch.cat([label for _, label in chunks])[:count]


@lru_cache(maxsize=2)
def glyph_indices(part: Part) -> np.ndarray:
    """Indices of a part among scikit-learn's digits, ascending, int64, shape (n,).

    A quarter of each class is test.
    """
    _, labels = _glyphs()
    rng = np.random.default_rng(_GLYPH_SEED)
    chosen = []
    for label in range(10):
        members = rng.permutation(np.flatnonzero(labels.numpy() == label))
        n_test = round(_TEST_SHARE * len(members))
        chosen.append(members[:n_test] if part == "test" else members[n_test:])
    return np.sort(np.concatenate(chosen))


@lru_cache(maxsize=1)
def _glyphs() -> tuple[Tensor, Tensor]:
    """Glyphs in [0, 1], shape (1797, 8, 8), and labels, shape (1797,)."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = torch.from_numpy(np.ascontiguousarray(loaded.images, dtype=np.float32)) / 16.0
    return images, torch.from_numpy(np.asarray(loaded.target, dtype=np.int64))


def _draw_chunk(part: Part, chunk: int, size: int) -> tuple[Tensor, Tensor]:
    """Images 500 chunk ... 500 chunk + 499 of a part."""
    rng = np.random.default_rng([CLUTTER_VERSION, ("train", "test").index(part), chunk])
    glyphs, labels = _glyphs()
    pool = glyph_indices(part)
    chosen = torch.from_numpy(rng.choice(pool, size=_CHUNK))
    # A network that sees only hard images stays at chance for long and then learns all at once;
    # with every degree of clutter in the set, a wider network gets further into it.
    clutter = rng.uniform(0.0, 1.0, _CHUNK)
    canvas = _background(rng, size, clutter)
    for _ in range(FRAGMENTS):
        halves = _halves(rng, glyphs[torch.from_numpy(rng.choice(pool, size=_CHUNK))])
        coverage = _place(rng, halves, size, FRAGMENT_EXTENT)
        canvas = _paint(rng, canvas, coverage, clutter * FRAGMENT_CONTRAST)
    coverage = _place(rng, glyphs[chosen], size, GLYPH_EXTENT)
    hardest, easiest = CONTRAST
    canvas = _paint(rng, canvas, coverage, easiest + clutter * (hardest - easiest))
    noise = rng.standard_normal(canvas.shape, dtype=np.float32)
    noise *= _per_image(clutter * NOISE_STD).numpy()
    return _to_uint8(canvas + torch.from_numpy(noise)), labels[chosen]


def _background(rng: np.random.Generator, size: int, clutter: np.ndarray) -> Tensor:
    """Smooth coloured ground, shape (N, 3, size, size), with more relief under more clutter."""
    n = len(clutter)
    level = rng.uniform(*BACKGROUND_RANGE, (n, 3, 1, 1)).astype(np.float32)
    relief = rng.standard_normal((n, 3, BACKGROUND_CELLS, BACKGROUND_CELLS), dtype=np.float32)
    cells = torch.from_numpy(level)
    cells = cells + _per_image(clutter * BACKGROUND_RELIEF) * torch.from_numpy(relief)
    return F.interpolate(cells, size=(size, size), mode="bicubic", align_corners=False)


def _halves(rng: np.random.Generator, glyphs: Tensor) -> Tensor:
    """One random half of each glyph, cut along a line through its middle; shape kept."""
    angle = rng.uniform(0.0, 2.0 * math.pi, (len(glyphs), 1, 1))
    grid = np.arange(8) - 3.5
    side = np.cos(angle) * grid[None, None, :] + np.sin(angle) * grid[None, :, None]
    return glyphs * torch.from_numpy((side > 0).astype(np.float32))


def _place(
    rng: np.random.Generator, shapes: Tensor, size: int, extent: tuple[float, float]
) -> Tensor:
    """Coverage in [0, 1] of each shape under its own affine map, inside the image.

    Args:
        rng: where the maps are drawn from.
        shapes: glyphs, shape (N, 8, 8).
        size: side of the result in pixels.
        extent: smallest and largest side of the shape, as a share of the image.

    Returns:
        Coverage, shape (N, 1, size, size).
    """
    n = len(shapes)
    side = rng.uniform(*extent, n)
    angle = rng.uniform(-ROTATION, ROTATION, n)
    shear = rng.uniform(-SHEAR, SHEAR, n)
    centre = rng.uniform(-1.0, 1.0, (n, 2, 1)) * (1.0 - side)[:, None, None]
    cos, sin = np.cos(angle) / side, np.sin(angle) / side
    linear = np.stack([cos, sin + shear * cos, -sin, cos - shear * sin], axis=1).reshape(n, 2, 2)
    theta = np.concatenate([linear, -linear @ centre], axis=2).astype(np.float32)
    grid = F.affine_grid(torch.from_numpy(theta), [n, 1, size, size], align_corners=False)
    return F.grid_sample(shapes[:, None], grid, mode="bilinear", align_corners=False)


def _paint(
    rng: np.random.Generator, canvas: Tensor, coverage: Tensor, contrast: np.ndarray
) -> Tensor:
    """The canvas, brighter by each shape's coverage in a random hue; contrast of shape (N,)."""
    direction = np.abs(rng.standard_normal((len(canvas), 3), dtype=np.float32))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    colour = torch.from_numpy(direction)[:, :, None, None] * _per_image(contrast * math.sqrt(3.0))
    return canvas.addcmul_(coverage, colour)


def _per_image(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))[:, None, None, None]


def _to_uint8(images: Tensor) -> Tensor:
    return (images * 255.0).round().clamp_(0.0, 255.0).to(torch.uint8)
