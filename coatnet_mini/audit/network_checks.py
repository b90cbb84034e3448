"""Checks of the network and of its convolutions. Each gives (status, what was found)."""

from __future__ import annotations

from itertools import groupby, takewhile

import torch

from coatnet_mini.audit.anatomy import gap, replay
from coatnet_mini.audit.report import FAILED, PASSED, UNKNOWN
from coatnet_mini.audit.subject import REFUSALS, Subject
from coatnet_mini.audit.tape import play

NEAR = 0.03  # of the printed size: the head that the paper does not describe is 2 % of the smallest
GATES = {"sigmoid", "sigmoid_"}


def verdict(right: bool, found: str) -> tuple[str, str]:
    return (PASSED if right else FAILED), found


def size(s: Subject):
    if s.published is None:
        return UNKNOWN, "nothing is printed for a network of these sizes"
    count = sum(p.numel() for p in s.at_paper_size().parameters() if p.requires_grad) / 1e6
    off = count / s.published - 1
    return verdict(
        abs(off) <= NEAR, f"{count:.2f}M parameters, printed {s.published:g}M ({off:+.0%})"
    )


def blocks(s: Subject):
    a = s.anatomy
    found = {"C": len(a.mbconvs), "T": len(a.attentions)}
    words = f"{found['C']} depthwise and {found['T']} attention layers"
    wanted = s.depths
    return verdict(found == wanted, words + f", meant {wanted['C']} and {wanted['T']}")


def stem(s: Subject):
    stage = s.like.stages[0]
    if stage.kind != "S":
        return UNKNOWN, "the network is meant to have a patch stem"
    convs = [e for e in s.anatomy.matrices if e.is_conv][: stage.depth]
    found = [(e.kernel, e.stride, e.widths[1]) for e in convs]
    strides = [stage.stride] + [1] * (stage.depth - 1)
    wanted = [((3, 3), stride, stage.width) for stride in strides]
    words = ", ".join(f"{k[0]}×{k[1]} stride {n} to {w}" for k, n, w in found)
    return verdict(found == wanted, words or "no convolutions")


def stride(s: Subject):
    last = next((e for e in reversed(s.anatomy.matrices) if e.positions > 1), None)
    if last is None:
        return UNKNOWN, "no layer with more than one position"
    wanted = s.size[0] * s.size[1] // s.like.total_stride**2
    pixels = s.size[0] * s.size[1] / last.positions
    words = f"{pixels**0.5:.3g} pixels a side for each of the last positions"
    return verdict(last.positions == wanted, f"{words}, meant {s.like.total_stride}")


def expansion(s: Subject):
    found, widths = s.anatomy.mbconvs, s.widths("C")
    if not found or len(found) != len(widths):
        return UNKNOWN, "no MBConv, or not as many as meant"
    ratios = [m.depthwise.widths[1] / widths[n] for n, m in enumerate(found)]
    words = "depthwise over block width: " + listed(f"{r:.3g}" for r in ratios)
    return verdict(all(r == s.like.expansion for r in ratios), words)


def strides_in_mbconv(s: Subject):
    found, meant = s.anatomy.mbconvs, s.halvings("C")
    if not found or not meant:
        return UNKNOWN, "no MBConv, or none that is meant to stride"
    if any(m.depthwise.stride > 1 for m in found):
        return FAILED, "the depthwise convolution strides (the paper's Table 9)"
    first = sum(m.expand is not None and m.expand.stride > 1 for m in found)
    return verdict(first == meant, f"the first 1×1 strides in {first}, meant {meant}")


def squeeze(s: Subject):
    found = s.anatomy.mbconvs
    if not found:
        return UNKNOWN, "no MBConv"
    gates = [e for e in s.anatomy.tape.events if e.name in GATES and e.out.requires_grad]
    places = [m.depthwise.place for m in found] + [len(s.anatomy.tape.events)]
    gated = 0
    for m, low, high in zip(found, places, places[1:], strict=False):
        within = [e for e in gates if e.place in range(low, high)]
        gated += any(e.out.shape[1:].numel() == m.depthwise.widths[1] for e in within)
    return verdict(gated == len(found), f"a gate of its channels in {gated} of {len(found)} MBConv")


def residuals(s: Subject):
    a, lost, kinds = s.anatomy, [], {}
    kinds["attention"] = [x.values for x in a.attentions if x.values is not None]
    kinds["feed-forward"] = [x.expand for x in a.ffns]
    kinds["MBConv"] = [x.depthwise for x in a.mbconvs]
    if not any(kinds.values()):
        return UNKNOWN, "no branch to leave out"
    for name, events in kinds.items():
        if events and not replay(a, events):
            alone = sum(not replay(a, [e]) for e in events)
            lost.append(f"{name} ({alone} of {len(events)})")
    if lost:
        return FAILED, "without its result nothing arrives: " + ", ".join(lost)
    return PASSED, "the image arrives past " + ", ".join(k for k, v in kinds.items() if v)


def activation(s: Subject):
    inside = [x.between for x in s.anatomy.ffns]
    inside += [x.between for x in s.anatomy.mbconvs if x.expand is not None]
    if not inside:
        return UNKNOWN, "no hidden layer"
    right = sum(any(e.name == "gelu" for e in events) for events in inside)
    if right == len(inside) < sum(s.depths.values()):
        return UNKNOWN, f"GELU in {right} hidden layers, not as many as meant"
    return verdict(right == len(inside), f"GELU in {right} of {len(inside)} hidden layers")


def head(s: Subject):
    a = s.anatomy
    if a.out.ndim != 2:
        return FAILED, f"no classifier: the output has the shape {tuple(a.out.shape)}"
    last = takewhile(lambda e: e.positions == 1, reversed(a.matrices))
    after = [e for e in last if e.is_linear]
    words = {0: "no matrix", 1: "one matrix"}.get(len(after), f"{len(after)} matrices")
    return verdict(len(after) == 1, f"{words} after the last grid")


def shapes(s: Subject):
    """One that was built for the size, one that was not: the batch is kept, or it refuses."""
    H, W = s.size
    found = [] if s.refused is None else [f"not made for {s.refused}"]
    found.append(f"{H}×{W} kept")
    if s.anatomy.out.shape[0] != 2:
        return FAILED, f"{H}×{W}: 2 images in, {s.anatomy.out.shape[0]} answers out"
    other = (H, W + s.like.total_stride)
    images = torch.nn.functional.interpolate(s.images, other)
    try:
        out = s.anatomy.output(images)
    except REFUSALS:
        found.append(f"{other[0]}×{other[1]} refused")
    else:
        if out.shape[:2] != s.anatomy.out.shape[:2] or not out.isfinite().all():
            return FAILED, f"{other[0]}×{other[1]}: 2 images in, {tuple(out.shape)} out"
        found.append(f"{other[0]}×{other[1]} kept")
    alone = s.anatomy.output(s.images[:1])
    if gap(s.anatomy.out[:1], alone):
        return FAILED, "an image's answer depends on the others in its batch"
    return PASSED, ", ".join(found)


def same_twice(s: Subject):
    a = s.anatomy
    with torch.no_grad():
        one, two = (play(a.model, a.state, s.images)[1] for _ in range(2))
    off = gap(one, two)
    words = f"two runs in evaluation mode differ by {off:.0%}" if off else "the same twice"
    return verdict(not off, words)


def listed(words) -> str:
    """Equal neighbours once: "4, 4, 3" is "2 × 4, 3"."""
    runs = [(word, len(list(same))) for word, same in groupby(words)]
    return ", ".join(word if n == 1 else f"{n} × {word}" for word, n in runs)
