"""Exercises of chapter 6: indices of rectangles and tori, shared cells, a foreign checkpoint."""

import torch
from torch import Tensor

from coatnet_mini.attention import relative_index
from coatnet_mini.exercises import Exercise, Mistake


def rectangle_index(height: int, width: int) -> Tensor:
    """(N, N) int64: the flat cell of the offset i − j in a (2·height − 1) × (2·width − 1) table."""
    return relative_index(height, width)


def torus_index(height: int, width: int) -> Tensor:
    """(N, N) int64: the cell of the offset i − j modulo the grid, in a table as large as it."""
    return _torus(height, width)


def _torus(height: int, width: int, *, factor: int | None = None, sign: int = 1) -> Tensor:
    row, column = _places(height, width)
    down = sign * (row[:, None] - row) % height
    right = sign * (column[:, None] - column) % width
    return down * (factor or width) + right


def cell_uses(height: int, width: int) -> Tensor:
    """(2·height − 1, 2·width − 1) int64: how many pairs of positions read each cell."""
    return _uses(relative_index(height, width), height, width)


def _uses(index: Tensor, height: int, width: int) -> Tensor:
    return torch.bincount(index.flatten()).view(2 * height - 1, 2 * width - 1)


def port(flat: Tensor, height: int, width: int) -> Tensor:
    """(heads, 2·height − 1, 2·width − 1) by query − key, from (cells, heads) by key − query."""
    return _tables(flat, height, width).flip(-2, -1)


def _tables(flat: Tensor, height: int, width: int) -> Tensor:
    return flat.T.reshape(-1, 2 * height - 1, 2 * width - 1)


def _places(height: int, width: int) -> tuple[Tensor, Tensor]:
    positions = torch.arange(height * width)
    return positions // width, positions % width


def _grids(rng: torch.Generator) -> list[dict]:
    sizes = [[2, 2], [1, 3], [3, 2], *torch.randint(2, 8, (3, 2), generator=rng).tolist(), [5, 9]]
    return [{"height": height, "width": width} for height, width in sizes]


def _checkpoints(rng: torch.Generator) -> list[dict]:
    cases = []
    for height, width, heads in ((1, 2, 2), (2, 3, 4), (4, 3, 1), (5, 5, 3)):
        cells = (2 * height - 1) * (2 * width - 1)
        flat = torch.randn(cells, heads, generator=rng, dtype=torch.float64)
        cases.append({"flat": flat, "height": height, "width": width})
    return cases


def _unshifted(height: int, width: int) -> Tensor:
    row, column = _places(height, width)
    return (row[:, None] - row) * (2 * width - 1) + column[:, None] - column


def with_factor(height: int, width: int, factor: int) -> Tensor:
    """The index of a table whose rows have `factor` cells; right for 2·width − 1."""
    row, column = _places(height, width)
    down = row[:, None] - row + height - 1
    return down * factor + column[:, None] - column + width - 1


def _off_by_one(height: int, width: int) -> Tensor:
    return rectangle_index(height, width) + 2 * width  # the paper's formula, which counts from 1


EXERCISES = [
    Exercise(
        "6.1",
        rectangle_index,
        _grids,
        [
            Mistake(
                "this is the index of j − i: rows of the result belong to i, so the first operand "
                "of the difference varies along the rows.",
                lambda height, width: rectangle_index(height, width).T,
            ),
            Mistake(
                "the cells are negative: add height − 1 and width − 1, so that the smallest offset "
                "becomes 0.",
                _unshifted,
            ),
            Mistake(
                "a row of the table has 2·width − 1 cells; your factor is 2·height − 1, which is "
                "the same on a square only.",
                lambda height, width: with_factor(height, width, 2 * height - 1),
            ),
            Mistake(
                "a row of the table has 2·width − 1 cells, not width: offsets of the columns run "
                "from −(width − 1) to width − 1.",
                lambda height, width: with_factor(height, width, width),
            ),
            Mistake(
                "that counts from 1, as the paper does: add height − 1 and width − 1, not height "
                "and width.",
                _off_by_one,
            ),
        ],
    ),
    Exercise(
        "6.2",
        torus_index,
        _grids,
        [
            Mistake(
                "nothing wraps: take the offsets modulo height and modulo width.",
                rectangle_index,
            ),
            Mistake(
                "a row of this table has `width` cells; your factor is `height`.",
                lambda height, width: _torus(height, width, factor=height),
            ),
            Mistake(
                "a row of this table has `width` cells: the offsets are 0 to width − 1 now, and "
                "2·width − 1 belongs to the grid with borders.",
                lambda height, width: _torus(height, width, factor=2 * width - 1),
            ),
            Mistake(
                "this is the index of j − i: rows of the result belong to i.",
                lambda height, width: _torus(height, width, sign=-1),
            ),
            Mistake(
                "the flat numbers are subtracted, so the end of one row of the grid touches the "
                "next: subtract rows and columns separately.",
                lambda height, width: (
                    (torch.arange(height * width)[:, None] - torch.arange(height * width))
                    % (height * width)
                ),
            ),
        ],
    ),
    Exercise(
        "6.3",
        cell_uses,
        _grids,
        [
            Mistake(
                "the middle is right and the rest too large: rows *and* columns that overlap, so "
                "multiply the two counts.",
                lambda height, width: torch.minimum(
                    (height - torch.arange(1 - height, height).abs())[:, None] * width,
                    (width - torch.arange(1 - width, width).abs()) * height,
                ),
            ),
            Mistake(
                "height and width are exchanged: the table has 2·height − 1 rows.",
                lambda height, width: cell_uses(width, height),
            ),
            Mistake(
                "on a torus every cell is used N times. Here the grid ends: an offset of δ fits "
                "n − |δ| times on a line of n.",
                lambda height, width: torch.full_like(cell_uses(height, width), height * width),
            ),
            Mistake(
                "one too few everywhere: the offset 0 occurs n times on a line of n, the offset δ "
                "n − |δ| times.",
                lambda height, width: (
                    (height - 1 - torch.arange(1 - height, height).abs())[:, None]
                    * (width - 1 - torch.arange(1 - width, width).abs())
                ),
            ),
        ],
    ),
    Exercise(
        "6.4",
        port,
        _checkpoints,
        [
            Mistake(
                "heads and cells are mixed up: a reshape deals the numbers in storage order. "
                "Transpose first.",
                lambda flat, height, width: flat.reshape(-1, 2 * height - 1, 2 * width - 1).flip(
                    -2, -1
                ),
            ),
            Mistake(
                "the tables are still read at key − query: turn both axes round.",
                _tables,
            ),
            Mistake(
                "one axis is turned, two are needed: the offset changes sign in rows and columns.",
                lambda flat, height, width: _tables(flat, height, width).flip(-1),
            ),
            Mistake(
                "one axis is turned, two are needed: the offset changes sign in rows and columns.",
                lambda flat, height, width: _tables(flat, height, width).flip(-2),
            ),
            Mistake(
                "all three axes are turned: the heads must keep their order.",
                lambda flat, height, width: _tables(flat, height, width).flip(0, 1, 2),
            ),
        ],
    ),
]
