"""Answers that readers of chapter 1 might give, each with words of the hint it must get."""

import numpy as np
import torch
import torch.nn.functional as F


def shift_by_loop_transposed(n):
    W = torch.zeros(n, n)
    for i in range(n - 2):
        W[i, i + 2] = 1
    return W


def shift_diag_one(n):
    return torch.diag(torch.ones(n - 1), -1)


def shift_wraps(n):
    W = torch.zeros(n, n)
    for i in range(n):
        W[i, (i - 2) % n] = 1
    return W


def shift_counts_from_the_end(n):
    W = torch.zeros(n, n)
    for i in range(n):
        W[i, i - 2] = 1
    return W


def reverse_rolls(n):
    W = torch.zeros(n, n)
    for i in range(n):
        W[i, (n - i) % n] = 1
    return W


def reverse_without_its_first_row(n):
    return torch.eye(n).roll(1, 0).fliplr() * (torch.arange(n) > 0)[:, None]


def reverse_past_the_end(n):
    W = torch.zeros(n, n)
    for i in range(n):
        W[i, n - i] = 1
    return W


def main_diagonal_only(W):
    names = set()
    if (W.diagonal() == W[0, 0]).all():
        names.add("same rule")
    if torch.allclose(W.sum(1), torch.ones(len(W)).to(W)) and (W >= 0).all():
        names.add("average")
    return names


def answer(same_rule, average):
    """A `properties` from two tests."""
    return lambda W: {
        name for name, test in {"same rule": same_rule, "average": average}.items() if test(W)
    }


def shifted(W):
    return torch.equal(W[1:, 1:], W[:-1, :-1])


def upper_diagonals(W):
    return all(torch.all(W.diagonal(k) == W[0, k]) for k in range(len(W)))


def lower_diagonals(W):
    return upper_diagonals(W.T)


def first_two_rows(W):
    return torch.equal(W[0, :-1], W[1, 1:])


def rolled(W):
    return torch.equal(W, torch.roll(W, shifts=(1, 1), dims=(0, 1)))


def fair(W):
    return bool((W >= 0).all()) and torch.allclose(W.sum(1), torch.ones(len(W)).to(W))


def first_sum(W):
    return bool(torch.isclose(W[0].sum(), torch.tensor(1.0).to(W)))


def first_row_fair(W):
    return first_sum(W) and bool((W[0] >= 0).all())


def first_sum_no_signs(W):
    return first_sum(W) and bool((W >= 0).all())


def exact_sums(W):
    return bool((W >= 0).all()) and bool((W.sum(dim=1) == 1).all())


def sums_columns(W):
    names = set()
    if torch.equal(W[1:, 1:], W[:-1, :-1]):
        names.add("same rule")
    if torch.allclose(W.sum(0), torch.ones(len(W)).to(W)) and (W >= 0).all():
        names.add("average")
    return names


def forgets_negative(W):
    names = set()
    if torch.equal(W[1:, 1:], W[:-1, :-1]):
        names.add("same rule")
    if torch.allclose(W.sum(1), torch.ones(len(W)).to(W)):
        names.add("average")
    return names


def box_by_pooling_of_ones(height, width, radius):
    N, k = height * width, 2 * radius + 1
    basis = torch.eye(N, dtype=torch.float64).view(N, 1, height, width)
    return F.avg_pool2d(basis, k, stride=1, padding=radius).view(N, N).T


def box_on_flat_index(height, width, radius):
    N = height * width
    W = torch.zeros(N, N, dtype=torch.float64)
    for i in range(N):
        for j in range(max(0, i - radius), min(N, i + radius + 1)):
            W[i, j] = 1
    return W / W.sum(dim=1, keepdim=True)


def box_by_distance(height, width, radius, far, mean=True):
    N = height * width
    W = torch.zeros(N, N, dtype=torch.float64)
    for i in range(N):
        for j in range(N):
            apart = abs(i // width - j // width), abs(i % width - j % width)
            W[i, j] = float(far(apart) <= radius)
    return W / W.sum(dim=1, keepdim=True) if mean else W


def box_divided_along_columns(height, width, radius):
    N = height * width
    W = torch.zeros(N, N, dtype=torch.float64)
    for i in range(N):
        for j in range(N):
            rows, columns = abs(i // width - j // width), abs(i % width - j % width)
            W[i, j] = float(max(rows, columns) <= radius)
    return W / W.sum(dim=0)


WRONG = {
    "1.1": [
        (shift_by_loop_transposed, "transpose"),
        (shift_diag_one, "one position, not two"),
        (shift_wraps, "wraps round"),
        (shift_counts_from_the_end, "Python counts it from the end"),
        (lambda n: np.eye(n, k=-2), "expected a dense tensor of real numbers, got ndarray"),
        (lambda n: torch.eye(n).to_sparse(), "dense tensor of real numbers, got a sparse_coo"),
        (lambda n: torch.eye(n) + 0j, "dense tensor of real numbers, got a strided tensor of c"),
        (lambda n: torch.eye(n), "the identity"),
        (lambda n: torch.zeros(n), "expected shape (5, 5), got (5,)"),
        (lambda n: [[0.0] * n] * n, "expected a dense tensor of real numbers, got [["),
    ],
    "1.2": [
        (lambda n: torch.eye(n), "the identity"),
        (lambda n: torch.flip(torch.eye(n), (0, 1)), "flip one"),
        (reverse_rolls, "off by one"),
        (reverse_without_its_first_row, "output i reads input n − 1 − i, not n − i"),
        (reverse_past_the_end, "stopped with IndexError"),
    ],
    "1.3": [
        (main_diagonal_only, "not on the main one alone"),
        (sums_columns, "you summed the columns"),
        (forgets_negative, "no average"),
        (answer(upper_diagonals, fair), "below the main diagonal as well"),
        (answer(rolled, fair), "asks for a circulant"),
        (answer(lower_diagonals, fair), "expected set(), got {'same rule'}"),
        (answer(first_two_rows, fair), "expected set(), got {'same rule'}"),
        (answer(shifted, first_sum), "expected {'same rule'}, got {'average', 'same rule'}"),
        (answer(shifted, first_row_fair), "expected set(), got {'average'}"),
        (answer(shifted, first_sum_no_signs), "expected set(), got {'average'}"),
        (answer(shifted, exact_sums), "compare with torch.allclose"),
        (lambda W: W.numpy(), "expected {'same rule'}, got ndarray"),
        (lambda W: ["same rule"], "expected {'same rule'}, got ['same rule']"),
        (lambda W: set(), "expected {'same rule'}, got set()"),
    ],
    "1.4": [
        (box_by_pooling_of_ones, "divide by the neighbours that exist"),
        (box_on_flat_index, "flat index"),
        (box_divided_along_columns, "columns sum to one"),
        (lambda **grid: box_by_distance(**grid, far=sum), "is a diamond"),
        (lambda **grid: box_by_distance(**grid, far=max, mean=False), "these are sums"),
    ],
}
