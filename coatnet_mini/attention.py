"""Attention and relative attention: the paper's equations, the bias table, the multi-head layer.

Positions of an H×W grid are numbered in raster order, N = H·W. Row i of a weight matrix belongs
to the position computed (the query), column j to the position read (the key). A bias table has
one entry per offset i − j, as in Appendix A.1 of the CoAtNet paper: the bias of the query at
(i, j) and the key at (i', j') is P[i − i' + H − 1, j − j' + W − 1], counted from zero. Code that
indexes by key minus query holds the same table, flipped along both axes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coatnet_mini.checks import one_of

FORMS = ("pre", "post", "none")


def relative_index(H: int, W: int) -> Tensor:
    """Where the offset of each pair of positions lies in a flattened (2H−1)×(2W−1) table.

    Args:
        H, W: height and width of the grid, in positions.

    Returns:
        (H·W, H·W) int64; entry [i, j] is the row-major cell of the offset i − j.
    """
    if H < 1 or W < 1:
        raise ValueError(f"a grid needs at least one row and one column, got {H}×{W}")
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    y, x = rows.flatten(), columns.flatten()
    return (y[:, None] - y + H - 1) * (2 * W - 1) + (x[:, None] - x + W - 1)


def bias_matrix(table: Tensor, H: int, W: int) -> Tensor:
    """Spread a table of offsets over all pairs of positions: B[i, j] = P[i − j].

    Args:
        table: (..., 2H−1, 2W−1), one entry per offset.
        H, W: height and width of the grid.

    Returns:
        (..., H·W, H·W), equal to `table.flatten(-2)[..., relative_index(H, W)]`.
    """
    if table.shape[-2:] != (2 * H - 1, 2 * W - 1):
        raise ValueError(
            f"a {H}×{W} grid needs a table of {2 * H - 1}×{2 * W - 1} offsets, "
            f"got {table.shape[-2]}×{table.shape[-1]}"
        )
    # With both axes reversed the offsets that query (a, b) reads form one H×W window of the table:
    # windows are views, so a single copy replaces N² look-ups, and its gradient needs no scatter.
    windows = table.flip(-2, -1).unfold(-2, H, 1).unfold(-2, W, 1)  # (..., H, W, H, W)
    return windows.flip(-4, -3).reshape(*table.shape[:-2], H * W, H * W)


def resize_table(table: Tensor, H: int, W: int) -> Tensor:
    """Resize a bias table to the offsets of an H×W grid, bilinearly (paper, Appendix A.1).

    Args:
        table: (heads, 2H₀−1, 2W₀−1).
        H, W: height and width of the new grid.

    Returns:
        (heads, 2H−1, 2W−1); the table itself where it fits. The zero offset keeps its value.
    """
    if table.ndim != 3 or table.shape[-2] % 2 == 0 or table.shape[-1] % 2 == 0:
        raise ValueError(
            f"a bias table is (heads, 2H−1, 2W−1) with odd sides, got {tuple(table.shape)}"
        )
    size = (2 * H - 1, 2 * W - 1)
    if tuple(table.shape[-2:]) == size:
        return table
    # Half-pixel centres, no antialiasing: what the lineage's tf.image.resize does.
    return F.interpolate(table[None], size, mode="bilinear", align_corners=False)[0]


def attention_weights(
    q: Tensor,
    k: Tensor | None = None,
    bias: Tensor | None = None,
    form: str = "pre",
    scale: float = 1.0,
) -> Tensor:
    """The weight matrix of equations (2) and (3) of the paper.

    Args:
        q: (..., N, d) queries.
        k: (..., M, d) keys, by default the queries (the paper's x_i·x_j).
        bias: (..., N, M), w_{i−j} spread over pairs, or None.
        form: "pre" adds the bias before the softmax, "post" after it, "none" ignores it.
        scale: factor on q·k; never on the bias.

    Returns:
        (..., N, M). Rows sum to 1, except for "post", where they sum to 1 + Σ_j w_{i−j}.
    """
    one_of("form", form, FORMS)
    logits = (q * scale) @ (q if k is None else k).transpose(-2, -1)
    if bias is None or form == "none":
        return logits.softmax(-1)
    return (logits + bias).softmax(-1) if form == "pre" else logits.softmax(-1) + bias


def relative_attention(x: Tensor, bias: Tensor | None = None, form: str = "pre") -> Tensor:
    """The paper's bare attention, q = k = v = x: y_i = Σ_j W_ij x_j with `attention_weights`.

    Args:
        x: (..., N, D).
        bias, form: as in `attention_weights`.

    Returns:
        (..., N, D)
    """
    return attention_weights(x, bias=bias, form=form) @ x


class MultiHeadAttention(nn.Module):
    """Multi-head self-attention, with or without a relative bias: x (B, N, D) → (B, N, D_out).

    Equations (2) and (3) of the paper, with the projections that its footnote 2 leaves out, and a
    table of biases for each head (Appendix A.1) of each layer (Section 3). The scale head_dim^−0.5
    on q·k, keys and values as wide as the output, and biases on every projection are the lineage's.

    Args:
        dim: D, channels read.
        out_dim: D_out, channels written, by default D; a multiple of `head_dim`.
        head_dim: d, channels per head; 32 to 128 in the paper (Tables 3, 11 and 12).
        grid: (H, W) for which the bias table is made. Only needed with a bias.
        relative_bias: "pre" or "post" (of the softmax), or "none".
    """

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        head_dim: int = 32,
        grid: tuple[int, int] | None = None,
        relative_bias: str = "none",
    ):
        super().__init__()
        one_of("relative_bias", relative_bias, FORMS)
        out_dim = dim if out_dim is None else out_dim
        if out_dim % head_dim:
            raise ValueError(f"width {out_dim} is not a multiple of head_dim {head_dim}")
        if grid is None and relative_bias != "none":
            raise ValueError(f"relative_bias {relative_bias!r} needs a grid (H, W), got None")
        self.heads, self.head_dim, self.relative_bias = out_dim // head_dim, head_dim, relative_bias
        self.qkv = nn.Linear(dim, 3 * out_dim)
        self.out = nn.Linear(out_dim, out_dim)
        if relative_bias == "none":
            self.register_parameter("relative_bias_table", None)
        else:
            H, W = grid
            self.relative_bias_table = nn.Parameter(torch.zeros(self.heads, 2 * H - 1, 2 * W - 1))

    @property
    def grid(self) -> tuple[int, int] | None:
        """(H, W) of the bias table; None without one."""
        if self.relative_bias_table is None:
            return None
        return tuple(side // 2 + 1 for side in self.relative_bias_table.shape[1:])

    def forward(self, x: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """x (B, N, D) → (B, N, D_out).

        Args:
            grid: (H, W) of x, N = H·W; by default that of the table.
        """
        q, k, v = self.heads_of(x)  # each (B, heads, N, d)
        bias = self.bias(grid)  # (heads, N, N), or None
        # Four dimensions: a mask of three keeps PyTorch from its fused kernel on a CPU.
        mask = bias[None] if self.relative_bias == "pre" else None
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # scales q·k by d^−0.5
        if self.relative_bias == "post":
            y = y + bias @ v
        return self.out(y.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """The weights with which `forward` sums the values, written out: (B, heads, N, N)."""
        q, k, _ = self.heads_of(x)
        return attention_weights(q, k, self.bias(grid), self.relative_bias, self.head_dim**-0.5)

    def forward_written_out(self, x: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """`forward` without the fused operator: the specification of the fused form."""
        y = self.weights(x, grid) @ self.heads_of(x)[2]  # (B, heads, N, d)
        return self.out(y.transpose(1, 2).flatten(2))

    def heads_of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x (B, N, D), each (B, heads, N, d)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim))  # (B, N, 3, heads, d)
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)

    def bias(self, grid: tuple[int, int] | None = None) -> Tensor | None:
        """The biases of all pairs of an H×W grid, (heads, N, N), or None.

        A grid other than the table's reads the table resized.
        """
        if self.relative_bias_table is None:
            return None
        H, W = self.grid if grid is None else grid
        return bias_matrix(resize_table(self.relative_bias_table, H, W), H, W)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        key, mine = prefix + "relative_bias_table", self.relative_bias_table
        table = state_dict.get(key)
        if mine is not None and table is not None and table.shape != mine.shape:
            if table.ndim == 3 and len(table) != self.heads:
                raise ValueError(
                    f"{key} has {len(table)} heads and this layer {self.heads}: a table can be "
                    "resized to another grid, not to another number of heads"
                )
            state_dict[key] = resize_table(table, *self.grid)
        super()._load_from_state_dict(state_dict, prefix, *args)
