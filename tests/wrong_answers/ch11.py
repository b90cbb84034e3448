"""Answers that readers of chapter 11 might give, each with words of the hint it must get."""


def block(kind, D, side, squeeze_at=1, depthwise=9, products=2, factor=1, square=True):
    total, h = 0, 4 * D
    N = side * side if square else side
    if kind == "C":
        total += N * (D * h + depthwise * h + h * D)
        total += squeeze_at * 2 * h * D // 4
        return factor * total
    total += N * (4 * D * D + 2 * D * h)
    return factor * (total + products * N**2 * D)


def stage_of(kinds, widths, image_side, cost, first=2):
    best, found = -1, 0
    for n in range(len(kinds)):
        value = cost(kinds[n], widths[n], image_side // 2 ** (n + first))
        if value > best:
            best, found = value, n + 1
    return found


def root_up(n):
    side = 0
    while side * side < n:
        side += 1
    return side


def bargains(price, gain, left):
    order = sorted(range(len(price)), key=lambda k: gain[k] / price[k], reverse=True)
    total = 0
    for k in order:
        while left >= price[k]:
            total, left = total + gain[k], left - price[k]
    return total


def one_of_each(price, gain, left):
    if not price:
        return 0
    without = one_of_each(price[1:], gain[1:], left)
    if price[0] > left:
        return without
    return max(without, gain[0] + one_of_each(price[1:], gain[1:], left - price[0]))


WRONG = {
    "11.1": [
        (lambda kind, D, side: block(kind, D, side, squeeze_at=side * side), "used once"),
        (lambda kind, D, side: block(kind, D, side, products=0), "pairs are missing"),
        (lambda kind, D, side: block(kind, D, side, products=1), "only one of the two"),
        (
            lambda kind, D, side: block(kind, D, side, depthwise=0),
            "depthwise convolution is missing",
        ),
        (lambda kind, D, side: block(kind, D, side, factor=2), "counts as one"),
        (lambda kind, D, side: block(kind, D, side, square=False), "one side of the grid"),
        (lambda kind, D, side: 10 * D**2 + 36 * D if kind == "C" else 12 * D**2, "are parameters"),
        (lambda kind, D, side: float(block(kind, D, side)) + 0.5, "not yet."),
    ],
    "11.2": [
        (
            lambda kinds, widths, image_side: stage_of(kinds, widths, image_side, block) - 1,
            "S1 is 1",
        ),
        (
            lambda kinds, widths, image_side: stage_of(
                kinds,
                widths,
                image_side,
                lambda k, D, s: 10 * D**2 + 36 * D if k == "C" else 12 * D**2,
            ),
            "most parameters",
        ),
        (
            lambda kinds, widths, image_side: stage_of(
                kinds, widths, image_side, lambda k, D, s: block(k, D, s, products=0)
            ),
            "pairs are missing",
        ),
        (
            lambda kinds, widths, image_side: stage_of(kinds, widths, image_side, block, first=1),
            "S0 halves",
        ),
        (
            lambda kinds, widths, image_side: f"S{stage_of(kinds, widths, image_side, block)}",
            "not yet.",
        ),
    ],
    "11.3": [
        (lambda D, stride: root_up(6 * D), "side of the grid"),
        (lambda D, stride: int((6 * D) ** 0.5) * stride, "rounded down"),
        (lambda D, stride: 6 * D * stride, "its root"),
        (lambda D, stride: root_up(12 * D) * stride, "only one product"),
    ],
    "11.4": [
        (bargains, "best bargain first"),
        (one_of_each, "more than one block"),
        (
            lambda price, gain, left: max(left // p * g for p, g in zip(price, gain, strict=True)),
            "stages can be mixed",
        ),
    ],
}
