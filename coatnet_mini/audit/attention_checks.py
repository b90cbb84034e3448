"""Checks of the Transformer blocks: what reaches the attention, its bias, its softmax, its FFN."""

from __future__ import annotations

from functools import wraps

import torch
from torch import Tensor

from coatnet_mini.attention import relative_index
from coatnet_mini.audit.anatomy import Anatomy, gap
from coatnet_mini.audit.network_checks import listed, verdict
from coatnet_mini.audit.report import PASSED, UNKNOWN
from coatnet_mini.audit.subject import Subject
from coatnet_mini.audit.tape import AVERAGES, NORMS, POOLS, play


def of_attention(check):
    """The check, "cannot tell" where there is no attention."""

    @wraps(check)
    def checked(s: Subject):
        if not s.anatomy.attentions:
            return UNKNOWN, "no attention was seen"
        return check(s)

    return checked


def of_bias(check):
    """The check, of the layers whose scores have a bias; "cannot tell" where none has."""

    @wraps(check)
    def checked(s: Subject):
        found = s.anatomy.biases
        return check(s, found) if found else (UNKNOWN, "no bias was seen")

    return checked


@of_attention
def bias(s: Subject):
    found, all_ = len(s.anatomy.biases), len(s.anatomy.attentions)
    return verdict(found == all_, f"added before the softmax in {found} of {all_} layers")


@of_bias
def per_head(s: Subject, found):
    several = [B for x, B in found if x.heads > 1]
    if not several:
        return UNKNOWN, "no layer with more than one head"
    shared = sum(not gap(B, B[:1]) for B in several)
    return verdict(not shared, f"heads share one bias in {shared} of {len(several)} layers")


@of_bias
def per_layer(s: Subject, found):
    shared = pairs = 0
    for n, (x, B) in enumerate(found):
        for y, C in found[:n]:
            if x.N == y.N and x.heads == y.heads:
                pairs += 1
                shared += not gap(B, C)
    if not pairs:
        return UNKNOWN, "no two layers on one grid"
    return verdict(not shared, f"{shared} of {pairs} pairs of layers share their bias")


@of_bias
def offsets(s: Subject, found):
    """Equal offsets have equal biases, others others: B is block-Toeplitz, with all its entries."""
    wrong, grids = [], set()
    for x, B in found:
        grid = s.anatomy.grid(x.N)
        if grid is None or min(grid) < 2:
            continue
        grids.add(grid)
        index = relative_index(*grid).flatten()
        table = torch.zeros(x.heads, int(index.max()) + 1).double()
        table[:, index] = B.flatten(1)  # one of the pairs of each offset
        values = table.unique(dim=1).shape[1]  # exact: random entries come near each other
        if gap(table[:, index], B.flatten(1)):
            wrong.append(f"pairs of one offset differ on {grid[0]}×{grid[1]}")
        elif values < table.shape[1]:
            wrong.append(f"{table.shape[1]} offsets share {values} biases on {grid[0]}×{grid[1]}")
    if not grids:
        return UNKNOWN, "no grid with two rows and two columns"
    names = ", ".join(f"{h}×{w}" for h, w in sorted(grids, reverse=True))
    square = all(h == w for h, w in grids)
    if not wrong and square:
        return PASSED, f"one for each offset, on {names}; no oblong grid was seen"
    return verdict(not wrong, wrong[0] if wrong else f"one for each offset, on {names}")


@of_bias
def gradient(s: Subject, found):
    a = s.anatomy
    learned = {name for name, p in a.model.named_parameters() if p.is_floating_point()}
    state = {name: t.clone().requires_grad_(name in learned) for name, t in a.state.items()}
    with torch.enable_grad():
        biases = [B for _, B in a.read_biases(state, a.images)]
    leaves = [t for t in state.values() if t.requires_grad]
    dead = sum(not learns(B, leaves) for B in biases)
    return verdict(not dead, f"none reaches a parameter in {dead} of {len(biases)} layers")


def learns(B: Tensor, leaves: list[Tensor]) -> bool:
    """Whether a loss that changes with B has a gradient in one of the parameters."""
    if not B.requires_grad:
        return False
    loss = B.exp().sum()
    grads = torch.autograd.grad(loss, leaves, allow_unused=True, retain_graph=True)
    return any(g is not None and g.any() for g in grads)


@of_attention
def softmax(s: Subject):
    """Attention over values that are all one gives one, if every row sums to one."""
    a, off, unseen = s.anatomy, [0.0], "what the weights multiply was not seen"
    for x in a.attentions:
        if x.fused:
            continue
        if x.value is None:
            return UNKNOWN, unseen
        n = next((n for n, t in enumerate(x.values.args) if t is x.value), None)
        if n is None:
            return UNKNOWN, unseen

        def ones(args, kwargs, n=n):
            return (*args[:n], torch.ones_like(args[n]), *args[n + 1 :]), kwargs

        with torch.no_grad():
            tape, _ = play(a.model, a.state, a.images, before={x.values.place: ones})
        sums = tape.events[x.values.place].out
        off.append(gap(torch.ones_like(sums), sums))
    worst = max(off)
    words = f"rows sum to 1 ± {worst:.2g}" if worst else "every row of weights sums to 1"
    return verdict(not worst, words)


@of_attention
def heads(s: Subject):
    found, widths = s.anatomy.attentions, s.widths("T")
    if any(x.head_dim == 0 for x in found) or len(found) != len(widths):
        return UNKNOWN, "not as many attention layers as meant, or their width was not seen"
    wanted = [(w // s.like.head_dim, s.like.head_dim) for w in widths]
    have = [(x.heads, x.head_dim) for x in found]
    words = listed(f"{h} of {d}" for h, d in have)
    if have != wanted:
        words += "; meant " + listed(f"{h} of {d}" for h, d in wanted)
    return verdict(have == wanted, words)


@of_attention
def norms(s: Subject):
    """Norm(x) on the way into every branch; none on the way out, none on the trunk."""
    a = s.anatomy
    named = [(x.branch, "attention") for x in a.attentions]
    named += [(x.branch, "feed-forward") for x in a.ffns]
    named += [(x.branch, "MBConv") for x in a.mbconvs]
    if any(branch is None for branch, _ in named):
        return UNKNOWN, "not every branch was seen"
    wrong = []
    for branch, name in named:
        if not branch.norms:
            wrong.append(f"none before {name}")
        matrices = [n for n, e in enumerate(branch.way_out) if e.is_linear]
        tail = branch.way_out[matrices[-1] + 1 :] if matrices else []
        if name == "feed-forward":
            tail = branch.way_out
        if branch.join is not None and any(e.name in NORMS for e in tail):
            wrong.append(f"one after {name}")
        if any(e.name in NORMS for e in branch.skip):
            wrong.append(f"one on the shortcut past {name}")
    return verdict(not wrong, listed(wrong) or f"one before each of {len(named)} branches")


@of_attention
def order(s: Subject):
    halving = [x.branch for x in s.anatomy.attentions if x.branch and x.branch.pools]
    both = [b for b in halving if b.norms]
    if not both or len(both) < s.halvings("T"):
        return UNKNOWN, f"a norm and a pool before {len(both)} attentions, not as many as meant"
    first = [next(e.name for e in b.way_in if e.name in NORMS | POOLS) for b in both]
    late = sum(name in POOLS for name in first)
    return verdict(not late, f"the pool comes first in {late} of {len(both)}")


@of_attention
def pool(s: Subject):
    found = []
    for x in s.anatomy.attentions:
        if x.branch:
            found += [e for e in (*x.branch.way_in, *x.branch.skip) if e.name in POOLS]
    other, meant = sum(e.name in AVERAGES for e in found), 2 * s.halvings("T")
    if not other and (not found or len(found) < meant):
        return UNKNOWN, f"pooling in {len(found)} places, meant {meant}"
    return verdict(not other, f"averages in {other} of {len(found)} places")


@of_attention
def places(s: Subject):
    """Position n of the attention is row n // w, column n % w of the grid, going in and out."""
    a, wrong, unseen = s.anatomy, [], "not every attention was seen between two grids"
    for x in a.attentions:
        grid, branch = a.grid(x.N), x.branch
        if grid is None or branch is None or branch.trunk is None:
            return UNKNOWN, unseen
        after = branch.join or next((e for e in branch.way_out if e.is_linear), None)
        cells = positions_of(branch.trunk, a)
        if cells is None or after is None or positions_of(after.out, a) != grid:
            return UNKNOWN, unseen
        step = cells[0] // grid[0]
        for n in range(x.N):
            reached = touched(position(x.queries, x.N, n), branch.trunk, cells)
            if reached is None or not inside(reached, divmod(n, grid[1]), step):
                wrong.append(f"on the way in, on {grid[0]}×{grid[1]}")
                break
        for n in range(x.N):
            out = cell(after.out, grid, *divmod(n, grid[1]))
            reached = touched(out, x.values.out, x.N)
            if reached is None or reached.nonzero().flatten().tolist() != [n]:
                wrong.append(f"on the way out, on {grid[0]}×{grid[1]}")
                break
    found = wrong[0] if wrong else f"raster order into and out of {len(a.attentions)} layers"
    return verdict(not wrong, found)


def positions_of(t: Tensor, a: Anatomy) -> tuple[int, int] | None:
    """The grid of a tensor (B, D, h, w), (B, h, w, D) or (B, N, D); None if it is none."""
    if t.ndim == 3:
        return a.grid(t.shape[1])
    if t.ndim != 4:
        return None
    for h, w in (t.shape[2:], t.shape[1:3]):
        if a.grid(h * w) == (h, w):
            return h, w
    return None


def cell(t: Tensor, grid: tuple[int, int], r: int, c: int) -> Tensor:
    if t.ndim == 3:
        return t[0, r * grid[1] + c]
    return t[0, :, r, c] if tuple(t.shape[2:]) == grid else t[0, r, c]


def position(t: Tensor, N: int, n: int) -> Tensor:
    """Position n of queries or values (..., N, d) or (..., d, N), of the first image."""
    first = t.reshape(-1, *t.shape[-2:])[0]
    return first[n] if first.shape[0] == N else first[:, n]


def touched(y: Tensor, x: Tensor, grid: tuple[int, int] | int) -> Tensor | None:
    """Which positions of x, on a grid or N, a few numbers y read: (h, w) or (N,) booleans."""
    signs = torch.randn(y.shape, generator=torch.Generator()).to(y)
    (g,) = torch.autograd.grad(y, x, signs, retain_graph=True, allow_unused=True)
    if g is None:
        return None
    if isinstance(grid, int):  # (..., N, d) or (..., d, N)
        g = g.abs().flatten(0, -3).amax(0)
        return g.amax(1 if len(g) == grid else 0) > 0
    one = g[0].abs()
    if g.ndim == 3:
        return one.amax(1).view(grid) > 0
    return (one.amax(0) if tuple(g.shape[2:]) == grid else one.amax(2)) > 0


def inside(reached: Tensor, place: tuple[int, int], step: int) -> bool:
    """Whether what was reached lies in the window of a position, one further for wide pools."""
    rows, columns = reached.nonzero().T
    if not len(rows):
        return False
    margin = 1 if step > 1 else 0
    return all(
        bool((v >= step * p - margin).all() and (v <= step * p + step - 1 + margin).all())
        for v, p in ((rows, place[0]), (columns, place[1]))
    )


@of_attention
def ffn(s: Subject):
    found, meant = s.anatomy.ffns, s.depths["T"]
    if not found or len(found) < meant:
        return UNKNOWN, f"{len(found)} of the form D → hidden → D, meant {meant}"
    ratios = [f.expand.widths[1] / f.expand.widths[0] for f in found]
    right = all(r == s.like.expansion for r in ratios)
    return verdict(right, "hidden over block width: " + listed(f"{r:.3g}" for r in ratios))
