"""A data set of our own: two shapes on 32×32 pixels, told apart by a texture and by a relation.

Every image holds a disc and a square, filled with stripes, bars, checks or diagonals two pixels
wide. The class is the disc's texture together with where the disc lies as seen from the square.
The texture needs a look at a few pixels, and at the disc's only: the square's is drawn apart. The
relation needs two places up to 21 pixels from each other. Colours, brightness, phase and noise say
nothing about the class.
"""

from functools import cache
from itertools import product

import numpy as np

SIZE, HALF, CLEAR = 32, 5, 4  # pixels: of the image, around a shape's centre, off the diagonal
TEXTURES = {
    "stripes": lambda y, x: y // 2 % 2,
    "bars": lambda y, x: x // 2 % 2,
    "checks": lambda y, x: (y // 2 + x // 2) % 2,
    "diagonals": lambda y, x: (y + x) // 2 % 2,
}
RELATIONS = {"above": (-1, 0), "below": (1, 0), "left": (0, -1), "right": (0, 1)}
CLASSES = [f"{texture} {relation}" for texture, relation in product(TEXTURES, RELATIONS)]
SPLITS = ("train", "test")
SHAPES_TRAIN, SHAPES_TEST = 10_000, 2_000  # images, where nothing else is said
HELD_OUT = 5  # one pair of positions in this many belongs to the test set


def shapes(n: int, split: str = "train", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """n images and their labels, in equal parts of all sixteen classes.

    The two splits share no image, since no pair of positions (of disc and square) occurs in both.
    The first m of n images are those that `shapes(m)` returns, so that n only adds data.

    Args:
        n: how many images, at least 1.
        split: "train" or "test".
        seed: another seed draws other images, from the same pairs of positions.

    Returns:
        (n, 3, 32, 32) uint8 and (n,) int64, indices into `CLASSES`.
    """
    if n < 1:
        raise ValueError(f"shapes: n is {n}; at least one image is needed")
    if split not in SPLITS:
        raise ValueError(f"shapes: split is {split!r}; choose from {', '.join(SPLITS)}")
    labels = np.arange(n) % len(CLASSES)
    images = [
        draw(int(label), split, [seed, SPLITS.index(split), i]) for i, label in enumerate(labels)
    ]
    return np.stack(images), labels


def draw(label: int, split: str, seed: list[int]) -> np.ndarray:
    """One image of the class `label`: (3, 32, 32) uint8."""
    rng = np.random.default_rng(seed)
    texture, relation = divmod(label, len(RELATIONS))
    pairs = positions(relation, split)
    disc_y, disc_x, square_y, square_x = pairs[rng.integers(len(pairs))]
    image = np.empty((3, SIZE, SIZE))
    image[:] = rng.uniform(0.3, 0.7, (3, 1, 1))
    fill(image, rng, square_y, square_x, rng.integers(len(TEXTURES)), disc=False)
    fill(image, rng, disc_y, disc_x, texture, disc=True)
    image += rng.normal(0, 0.06, image.shape)
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def fill(image: np.ndarray, rng, y: int, x: int, texture: int, disc: bool) -> None:
    """Draw one shape around (y, x), its texture in two colours that differ in every channel."""
    rows, columns = np.mgrid[-HALF : HALF + 1, -HALF : HALF + 1]
    inside = rows**2 + columns**2 <= (HALF + 0.3) ** 2 if disc else np.ones_like(rows, bool)
    phase = rng.integers(0, 4, 2)[:, None, None] + HALF
    on = list(TEXTURES.values())[texture](rows + phase[0], columns + phase[1])
    dark, light = rng.uniform(0, 0.3, (3, 1, 1)), rng.uniform(0.7, 1, (3, 1, 1))
    window = image[:, y - HALF : y + HALF + 1, x - HALF : x + HALF + 1]
    np.copyto(window, np.where(on, light, dark), where=inside)


@cache
def positions(relation: int, split: str) -> np.ndarray:
    """All (disc y, disc x, square y, square x) of a relation that belong to a split.

    The shapes do not touch, and the larger part of the offset is clear of the smaller.
    """
    centres = np.arange(HALF, SIZE - HALF)
    grid = np.stack(np.meshgrid(*[centres] * 4, indexing="ij"), -1).reshape(-1, 4)
    direction = np.array(list(RELATIONS.values())[relation])
    offset = grid[:, :2] - grid[:, 2:]
    along = offset @ direction
    across = np.abs(offset @ direction[::-1])
    pairs = grid[(along > 2 * HALF) & (along >= across + CLEAR)]
    held_out = np.random.default_rng(relation).permutation(len(pairs)) % HELD_OUT == 0
    return pairs[held_out == (split == "test")]
