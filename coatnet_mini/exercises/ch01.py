"""Exercises of chapter 1: matrices that shift, reverse and average; reading a matrix."""

import torch
from torch import Tensor

from coatnet_mini.exercises import Exercise, Mistake
from coatnet_mini.weighted_sum import attention_matrix, convolution_matrix, is_toeplitz, offsets


def _lengths(rng: torch.Generator) -> list[dict]:
    sizes = [5, 1, 2, *torch.randint(6, 40, (3,), generator=rng).tolist()]
    return [{"n": n} for n in sizes]


def shift_by_two(n: int) -> Tensor:
    """(n, n): y_i = x_{i−2}, with zeros coming in at the start."""
    return (offsets(n)[..., 0] == 2).double()


def reverse(n: int) -> Tensor:
    """(n, n): y_i = x_{n−1−i}."""
    return torch.eye(n).double().rot90()


def properties(W: Tensor) -> set[str]:
    """The names, among "same rule" and "average", of the properties W (n, n) has."""
    found = {"same rule"} if is_toeplitz(W) else set()
    fair = torch.allclose(W.sum(1), W.new_ones(len(W))) and bool((W >= 0).all())
    return found | ({"average"} if fair else set())


def box_average(height: int, width: int, radius: int) -> Tensor:
    """(N, N): the mean over the neighbours, in a square of 2·radius + 1, that the grid has."""
    near = (offsets((height, width)).abs().amax(-1) <= radius).double()
    return near / near.sum(1, keepdim=True)


def _wrong_shift(n: int, offset: int) -> Tensor:
    return (offsets(n)[..., 0] == offset).double()


def _wrong_loop(n: int) -> Tensor:
    W = torch.zeros(n, n)
    for i in range(n):
        W[i, i - 2] = 1  # in rows 0 and 1 a negative index, which counts from the end
    return W


def _property_cases(rng: torch.Generator) -> list[dict]:
    def noise(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng, dtype=torch.float64)

    signed = torch.tensor([-1.0, 3, -1], dtype=torch.float64)
    columns = torch.softmax(noise(5, 5), 0)  # its columns sum to one, its rows do not
    diagonal = torch.diag(noise(5)) + 0.5 * torch.eye(5)
    n = int(torch.randint(6, 20, (), generator=rng))
    T = convolution_matrix(noise(5), 9)
    lower = T + noise(9, 9).tril(-1)  # the same rule on and above the main diagonal only
    louder = torch.linspace(1, 2, 5).double()[:, None]  # row 0 sums to one, the others to more
    matrices = [
        shift_by_two(5),
        reverse(5),
        torch.eye(4).double(),
        convolution_matrix(signed, 5, padding="circular"),
        columns,
        diagonal,
        torch.eye(5).double() + diagonal.roll(2, 1),  # equal on the main diagonal, not beside it
        box_average(1, n, 1),
        attention_matrix(noise(n, 2)),
        convolution_matrix(noise(3), n),
        convolution_matrix(noise(5) / 9, n, padding="circular"),
        lower,
        lower.T,
        louder * box_average(1, 5, 1),
    ]
    return [{"W": W} for W in matrices]


def _properties(same_rule, average):
    """A wrong `properties`, made from two tests of which one is wrong."""

    def answer(W: Tensor) -> set[str]:
        names = {"same rule": same_rule, "average": average}
        return {name for name, test in names.items() if test(W)}

    return answer


def _circulant(W: Tensor) -> bool:
    return torch.allclose(W.roll((1, 1), (0, 1)), W)


def _one_diagonal(W: Tensor) -> bool:
    return torch.allclose(W.diagonal(), W[0, 0])


def _upper_diagonals(W: Tensor) -> bool:
    return all(torch.allclose(W.diagonal(k), W[0, k]) for k in range(len(W)))


def _fair(W: Tensor) -> bool:
    return "average" in properties(W)


def _columns_fair(W: Tensor) -> bool:
    return torch.allclose(W.sum(0), W.new_ones(len(W))) and bool((W >= 0).all())


def _sums_only(W: Tensor) -> bool:
    return torch.allclose(W.sum(1), W.new_ones(len(W)))


def _sums_exactly(W: Tensor) -> bool:
    return bool((W >= 0).all()) and bool((W.sum(1) == 1).all())


def _grids(rng: torch.Generator) -> list[dict]:
    sizes = torch.randint(3, 8, (4, 2), generator=rng).tolist()
    grids = [{"height": 2, "width": 2, "radius": 0}, {"height": 1, "width": 4, "radius": 1}]
    grids += [{"height": 2, "width": 3, "radius": 1}]
    return grids + [{"height": h, "width": w + 3, "radius": 1 + (h + w) % 2} for h, w in sizes]


def _unfair_box(height: int, width: int, radius: int) -> Tensor:
    k = 2 * radius + 1
    return convolution_matrix(torch.full((k, k), 1 / k**2).double(), (height, width))


def _flat_box(height: int, width: int, radius: int) -> Tensor:
    near = (offsets(height * width)[..., 0].abs() <= radius).double()
    return near / near.sum(1, keepdim=True)


def _diamond(height: int, width: int, radius: int) -> Tensor:
    near = (offsets((height, width)).abs().sum(-1) <= radius).double()
    return near / near.sum(1, keepdim=True)


def _sums(height: int, width: int, radius: int) -> Tensor:
    return (offsets((height, width)).abs().amax(-1) <= radius).double()


def _columns_box(height: int, width: int, radius: int) -> Tensor:
    return box_average(height, width, radius).T


EXERCISES = [
    Exercise(
        "1.1",
        shift_by_two,
        _lengths,
        [
            Mistake(
                "this moves the signal the other way: row i is the output, so row 2 needs its 1 "
                "in column 0. Yours is the transpose.",
                lambda n: _wrong_shift(n, -2),
            ),
            Mistake(
                "what leaves at the end comes back at the start. `roll` wraps round; here zeros "
                "come in.",
                lambda n: torch.eye(n).double().roll(2, 0),
            ),
            Mistake(
                "in rows 0 and 1 the column i − 2 is negative, and Python counts it from the end: "
                "leave those two rows zero.",
                _wrong_loop,
            ),
            Mistake("this shifts by one position, not two.", lambda n: _wrong_shift(n, 1)),
            Mistake("this is the identity: no position moves.", lambda n: torch.eye(n).double()),
        ],
    ),
    Exercise(
        "1.2",
        reverse,
        _lengths,
        [
            Mistake(
                "this is the identity: y_0 must be the last x, not the first. (Flipping both axes "
                "undoes the reversal; flip one.)",
                torch.eye,
            ),
            Mistake(
                "off by one: with positions 0 to n − 1, output i reads input n − 1 − i, not n − i.",
                lambda n: ((torch.arange(n)[:, None] + torch.arange(n)) % n == 0).double(),
            ),
            Mistake(
                "off by one: with positions 0 to n − 1, output i reads input n − 1 − i, not n − i.",
                lambda n: (torch.arange(n)[:, None] + torch.arange(n) == n).double(),
            ),
        ],
    ),
    Exercise(
        "1.3",
        properties,
        _property_cases,
        [
            Mistake(
                '"same rule" must hold on every diagonal, not on the main one alone.',
                _properties(_one_diagonal, _fair),
            ),
            Mistake(
                '"same rule" must hold below the main diagonal as well: diagonals −1, −2, ... too.',
                _properties(_upper_diagonals, _fair),
            ),
            Mistake(
                "comparing with a rolled copy asks for a circulant matrix; the first row and column"
                " have no neighbour up and left. Compare W[1:, 1:] with W[:-1, :-1].",
                _properties(_circulant, _fair),
            ),
            Mistake(
                "you summed the columns. An output is a row, so an average needs rows that sum "
                "to one: W.sum(1).",
                _properties(is_toeplitz, _columns_fair),
            ),
            Mistake(
                "row sums are rounded, so those of an average need not be exactly 1: compare with "
                "torch.allclose.",
                _properties(is_toeplitz, _sums_exactly),
            ),
            Mistake(
                "rows that sum to one with a negative weight among them are no average: the output "
                "can leave the range of the inputs.",
                _properties(is_toeplitz, _sums_only),
            ),
        ],
    ),
    Exercise(
        "1.4",
        box_average,
        _grids,
        [
            Mistake(
                "the rows at the border sum to less than one: divide by the neighbours that exist, "
                "row by row, not by the size of the full square.",
                _unfair_box,
            ),
            Mistake(
                "you measured distance in the flat index, so the end of one row of the grid is next"
                " to the start of the following one. Compare rows and columns separately.",
                _flat_box,
            ),
            Mistake(
                "this neighbourhood is a diamond (row and column distances added). A square keeps "
                "the larger of the two at most the radius.",
                _diamond,
            ),
            Mistake("these are sums: divide each row by its number of neighbours.", _sums),
            Mistake(
                "the columns sum to one instead of the rows: sum over j (dimension 1) and keep the "
                "dimension when dividing.",
                _columns_box,
            ),
        ],
    ),
]
