"""Answers that readers of chapter 18 might give, each with words of the hint it must get."""

import torch


def loop_front(x, y, wins="one", sign=1, flip=False):
    kept = []
    for k in range(len(x)):
        beaten = False
        for m in range(len(x)):
            cheaper, dearer = sign * x[m] < sign * x[k], sign * x[m] > sign * x[k]
            higher, lower = sign * y[m] > sign * y[k], sign * y[m] < sign * y[k]
            if dearer or lower:
                continue
            won = {"one": cheaper or higher, "both": cheaper and higher, "none": True}[wins]
            beaten = beaten or bool(won)
        kept.append(beaten if flip else not beaten)
    return torch.tensor(kept)


def listed(printed, counted, allow):
    pairs = zip(printed.tolist(), counted.tolist(), strict=True)
    return torch.tensor([k for k, (p, c) in enumerate(pairs) if allow(p, c)], dtype=torch.int64)


def asked(x, y, wanted, reach, pick=min):
    found = []
    for accuracy in wanted.tolist():
        rows = [(p, a) for p, a in zip(x.tolist(), y.tolist(), strict=True) if reach(a, accuracy)]
        found.append(pick(rows)[0])
    return torch.tensor(found, dtype=torch.float64)


def search(effect, sd, t, shift=0, power=0.5, last=False):
    for k, factor in enumerate(t.tolist()):
        factor = float(t[-1]) if last else factor
        if factor * sd / (k + 2) ** power < effect:
            return torch.tensor(k + 2 - shift)
    return torch.tensor(2 - shift)


WRONG = {
    "18.1": [
        (lambda x, y: loop_front(x, y, wins="both"), "need not win in both"),
        (lambda x, y: loop_front(x, y, wins="none"), "no worse than itself"),
        (lambda x, y: loop_front(x, y, sign=-1), "is to be small"),
        (lambda x, y: loop_front(x, y, flip=True), "True is for the front"),
    ],
    "18.2": [
        (
            lambda printed, counted, share: listed(
                printed, counted, lambda p, c: abs(p - c) > share * c
            ),
            "is rounded",
        ),
        (
            lambda printed, counted, share: listed(
                printed, counted, lambda p, c: abs(p - c) > share + 0.5
            ),
            "of what was counted",
        ),
        (
            lambda printed, counted, share: listed(
                printed, counted, lambda p, c: p > c + share * c + 0.5
            ),
            "either way",
        ),
    ],
    "18.3": [
        (
            lambda x, y, wanted: asked(x, y, wanted, lambda a, w: a > w),
            "has exactly the accuracy",
        ),
        (
            lambda x, y, wanted: asked(
                x, y, wanted, lambda a, w: a >= w, lambda rows: min(rows, key=lambda row: row[1])
            ),
            "the cheapest is asked for",
        ),
        (lambda x, y, wanted: asked(x, y, wanted, lambda a, w: a <= w), "it or more"),
        (
            lambda x, y, wanted: asked(x, y, wanted, lambda a, w: a >= w)[:1],
            "expected shape (3,), got (1,)",
        ),
    ],
    "18.4": [
        (lambda effect, sd, t: search(effect, sd, t, shift=2), "t[0] is for two runs"),
        (lambda effect, sd, t: search(effect, sd, t, power=1), "not by sd/n"),
        (lambda effect, sd, t: search(effect, sd, t, last=True), "depends on n"),
    ],
}
