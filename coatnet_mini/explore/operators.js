// The book's operators in the page: for figures whose input the reader draws, paints or points at.
// Each function mirrors the package's, which its comment names, and tests/test_operators.py holds it
// to PyTorch. Arrays are flat Float32Arrays, row by row. A picture or grid of D channels is (N, D)
// with N = H·W, positions in raster order and channels last, as `blocks.as_tokens` makes it.

const zeros = (n) => new Float32Array(n);

// weighted_sum.weighted_sum, y_i = Σ_j W_ij x_j: W (M, N), x (N, D) → (M, D).
function weightedSum(W, x, D = 1) {
  const N = x.length / D;
  const M = W.length / N;
  const y = zeros(M * D);
  const sums = new Float64Array(D);
  for (let i = 0; i < M; i++) {
    sums.fill(0);
    for (let j = 0; j < N; j++) {
      const w = W[i * N + j];
      for (let d = 0; d < D; d++) sums[d] += w * x[j * D + d];
    }
    y.set(sums, i * D);
  }
  return y;
}

// torch.softmax(scores, dim=-1): over each row of scores (M, N).
function softmax(scores, N = scores.length) {
  const W = zeros(scores.length);
  for (let start = 0; start < scores.length; start += N) {
    const end = start + N;
    let largest = -Infinity;
    for (let j = start; j < end; j++) largest = Math.max(largest, scores[j]);
    let sum = 0;
    for (let j = start; j < end; j++) sum += W[j] = Math.exp(scores[j] - largest);
    for (let j = start; j < end; j++) W[j] /= sum;
  }
  return W;
}

// torch.nn.functional.linear, x Aᵀ + b: x (N, D), A (O, D), b (O) or undefined → (N, O).
// Two rows by four outputs at a time: each number read serves several products, which is twice as
// fast. At the edges a tile repeats the last row or output, and writes the same number again.
function linear(x, A, b, D) {
  const N = x.length / D;
  const O = A.length / D;
  const y = zeros(N * O);
  for (let n = 0; n < N; n += 2) {
    const next = Math.min(n + 1, N - 1);
    for (let o = 0; o < O; o += 4) {
      const [o1, o2, o3] = [Math.min(o + 1, O - 1), Math.min(o + 2, O - 1), Math.min(o + 3, O - 1)];
      let s0 = b ? b[o] : 0, s1 = b ? b[o1] : 0, s2 = b ? b[o2] : 0, s3 = b ? b[o3] : 0;
      let t0 = s0, t1 = s1, t2 = s2, t3 = s3;
      let i = n * D, j = next * D, a0 = o * D, a1 = o1 * D, a2 = o2 * D, a3 = o3 * D;
      for (let d = 0; d < D; d++) {
        const u = x[i++], v = x[j++];
        const w0 = A[a0++], w1 = A[a1++], w2 = A[a2++], w3 = A[a3++];
        s0 += u * w0; s1 += u * w1; s2 += u * w2; s3 += u * w3;
        t0 += v * w0; t1 += v * w1; t2 += v * w2; t3 += v * w3;
      }
      const row = n * O, below = next * O;
      y[row + o] = s0; y[row + o1] = s1; y[row + o2] = s2; y[row + o3] = s3;
      y[below + o] = t0; y[below + o1] = t1; y[below + o2] = t2; y[below + o3] = t3;
    }
  }
  return y;
}

// ---- convolution ---------------------------------------------------------------------------

// weighted_sum._reads: which of n positions tap a of output i reads, at [i·k + a]; −1 is outside.
function reads(n, k, padding, stride) {
  const before = padding === "none" ? 0 : (k - 1) / 2;
  const count = Math.floor((n + 2 * before - k) / stride) + 1;
  const inside = {
    zero: (j) => (j < 0 || j >= n ? -1 : j),
    circular: (j) => (j + n) % n,
    edge: (j) => Math.min(Math.max(j, 0), n - 1),
    none: (j) => j,
  }[padding];
  return Int32Array.from({ length: count * k }, (_, t) => inside(stride * Math.floor(t / k) + (t % k) - before));
}

// convolution.depthwise_loop, weight indexed by j − i: x (H·W, D), weight (D, kh, kw) → (H'·W', D).
function depthwise(x, [H, W, D], weight, [kh, kw], { padding = "zero", stride = 1 } = {}) {
  const rows = reads(H, kh, padding, stride), columns = reads(W, kw, padding, stride);
  const [height, width] = [rows.length / kh, columns.length / kw];
  const taps = zeros(weight.length); // (kh·kw, D), so that the channels lie side by side
  for (let t = 0; t < taps.length; t++) taps[(t % (kh * kw)) * D + Math.floor(t / (kh * kw))] = weight[t];
  const y = zeros(height * width * D);
  for (let i = 0; i < height * width; i++) {
    for (let t = 0; t < kh * kw; t++) {
      const row = rows[Math.floor(i / width) * kh + Math.floor(t / kw)];
      const column = columns[(i % width) * kw + (t % kw)];
      if (row < 0 || column < 0) continue;
      const j = (row * W + column) * D;
      for (let d = 0; d < D; d++) y[i * D + d] += taps[t * D + d] * x[j + d];
    }
  }
  return y;
}

// torch.nn.functional.unfold: the k×k neighbourhoods of x (H·W, D) → (H'·W', D·k·k), by channel.
function unfold(x, [H, W, D], k, { padding = "zero", stride = 1 } = {}) {
  const rows = reads(H, k, padding, stride), columns = reads(W, k, padding, stride);
  const [height, width] = [rows.length / k, columns.length / k];
  const y = zeros(height * width * D * k * k);
  let at = 0;
  for (let i = 0; i < height * width; i++) {
    for (let d = 0; d < D; d++) {
      for (let t = 0; t < k * k; t++, at++) {
        const row = rows[Math.floor(i / width) * k + Math.floor(t / k)];
        const column = columns[(i % width) * k + (t % k)];
        if (row >= 0 && column >= 0) y[at] = x[(row * W + column) * D + d];
      }
    }
  }
  return y;
}

// mending.patches: what surrounds each pixel of x (H, W) → (H·W, size²).
const patches = (x, [H, W], size = 5) => unfold(x, [H, W, 1], size, { padding: "edge" });

// ---- attention -----------------------------------------------------------------------------

// attention.bias_matrix, B[i, j] = P[i − j]: table (2H−1, 2W−1) → (H·W, H·W).
function biasMatrix(table, H, W) {
  const N = H * W;
  const B = zeros(N * N);
  for (let i = 0; i < N; i++) {
    for (let j = 0; j < N; j++) {
      const row = Math.floor(i / W) - Math.floor(j / W) + H - 1;
      const column = (i % W) - (j % W) + W - 1;
      B[i * N + j] = table[row * (2 * W - 1) + column];
    }
  }
  return B;
}

// attention.attention_weights: q (N, d), k (M, d), bias (N, M) or undefined → (N, M).
function attentionWeights(q, k, d, { bias, form = "pre", scale = 1 } = {}) {
  const M = k.length / d;
  const pre = bias && form === "pre", post = bias && form === "post";
  const scores = linear(q, k, undefined, d).map((s, at) => scale * s + (pre ? bias[at] : 0));
  const W = softmax(scores, M);
  return post ? W.map((w, at) => w + bias[at]) : W;
}

// ---- the network: a grid is { x, H, W, D }, a layer its tensors by name -------------------------

const conv1x1 = (grid, layer) =>
  ({ ...grid, x: linear(grid.x, layer.weight, layer.bias, grid.D), D: layer.weight.shape[0] });

function conv(grid, layer, stride, padding) {
  const { x, H, W, D } = grid;
  const [out, , k] = layer.weight.shape;
  const columns = unfold(x, [H, W, D], k, { padding, stride });
  return { x: linear(columns, layer.weight, layer.bias, D * k * k), H: H / stride, W: W / stride, D: out };
}

function depthwiseConv(grid, layer, stride) {
  const { x, H, W, D } = grid;
  return { ...grid, x: depthwise(x, [H, W, D], layer.weight, layer.weight.shape.slice(2), { stride }), H: H / stride, W: W / stride };
}

// blocks.make_norm: a layer with running statistics is a BatchNorm, any other a LayerNorm.
function norm(grid, layer, config) {
  const { D } = grid;
  const x = zeros(grid.x.length);
  const { weight, bias, running_mean: means, running_var: variances } = layer;
  const scale = means && weight.map((w, d) => w / Math.sqrt(variances[d] + config.batch_norm_eps));
  for (let start = 0; start < x.length; start += D) {
    let mean = 0, variance = 0;
    for (let d = 0; d < D && !means; d++) mean += grid.x[start + d] / D;
    for (let d = 0; d < D && !means; d++) variance += (grid.x[start + d] - mean) ** 2 / D;
    const factor = 1 / Math.sqrt(variance + config.layer_norm_eps);
    for (let d = 0; d < D; d++) {
      const v = grid.x[start + d];
      x[start + d] = means ? (v - means[d]) * scale[d] + bias[d] : (v - mean) * factor * weight[d] + bias[d];
    }
  }
  return { ...grid, x };
}

// The error function to 1.5e-7: Abramowitz and Stegun, 7.1.26.
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - tail * Math.exp(-x * x));
}

const gelu = (grid) => ({ ...grid, x: grid.x.map((v) => 0.5 * v * (1 + erf(v * Math.SQRT1_2))) });
const add = (a, b) => ({ ...a, x: a.x.map((v, at) => v + b.x[at]) });

function mean({ x, D }) {
  const means = zeros(D);
  const N = x.length / D;
  for (let at = 0; at < x.length; at++) means[at % D] += x[at] / N;
  return means;
}

// blocks.make_pool: over windows of stride×stride, by the largest or the average.
function pool(grid, kind, stride) {
  if (stride === 1) return grid;
  const { x, D } = grid;
  const [H, W] = [grid.H / stride, grid.W / stride];
  const y = zeros(H * W * D).fill(kind === "max" ? -Infinity : 0);
  for (let at = 0; at < x.length; at++) {
    const j = Math.floor(at / D);
    const row = Math.floor(j / grid.W / stride), column = Math.floor((j % grid.W) / stride);
    const to = (row * W + column) * D + (at % D);
    y[to] = kind === "max" ? Math.max(y[to], x[at]) : y[to] + x[at] / stride ** 2;
  }
  return { x: y, H, W, D };
}

// Every stride-th row and column: what a 1×1 convolution of that stride reads.
function thin(grid, stride) {
  if (stride === 1) return grid;
  const { x, D } = grid;
  const [H, W] = [grid.H / stride, grid.W / stride];
  const from = (i) => (Math.floor(i / W) * grid.W + (i % W)) * stride;
  return { x: zeros(H * W * D).map((_, at) => x[from(Math.floor(at / D)) * D + (at % D)]), H, W, D };
}

// blocks.make_shortcut: Proj(Pool(x)), each part only where it changes something.
function shortcut(grid, layers, config, stride) {
  const pooled = pool(grid, config.pool, stride);
  const project = layers.shortcut && Object.values(layers.shortcut)[0];
  return project ? conv1x1(pooled, project) : pooled;
}

// blocks.SqueezeExcitation
function squeezeExcitation(grid, layers) {
  const squeezed = linear(mean(grid), layers.reduce.weight, layers.reduce.bias, grid.D).map((v) => v / (1 + Math.exp(-v)));
  const gates = linear(squeezed, layers.expand.weight, layers.expand.bias, squeezed.length).map((v) => 1 / (1 + Math.exp(-v)));
  return { ...grid, x: grid.x.map((v, at) => v * gates[at % grid.D]) };
}

// inside.silenced: the parts of a branch side by side, those in `silent` (a list, or nothing) as zeros.
function leaveOut(grid, parts, silent) {
  if (!silent) return grid;
  const width = grid.D / parts;
  return { ...grid, x: grid.x.map((v, at) => (silent.includes(Math.floor((at % grid.D) / width)) ? 0 : v)) };
}

// blocks.MBConv, equation (5): Proj(Pool(x)) + Conv(SE(DepthConv(Conv(Norm(x))))).
function mbconv(grid, layers, config, stride, seen) {
  const early = config.downsample === "expand";
  let y = conv1x1(thin(norm(grid, layers.norm, config), early ? stride : 1), layers.expand);
  y = seen.depthwise = depthwiseConv(gelu(norm(y, layers.expand_norm, config)), layers.depthwise, early ? 1 : stride);
  y = gelu(norm(y, layers.depthwise_norm, config));
  if (layers.se) y = squeezeExcitation(y, layers.se);
  seen.branch = { ...y, parts: y.D };
  return add(shortcut(grid, layers, config, stride), conv1x1(leaveOut(y, y.D, seen.silent), layers.project));
}

// attention.MultiHeadAttention: heads of width head_dim, side by side in queries, keys and values.
function multiHead(grid, layers, config, seen) {
  const { x, H, W, D } = grid;
  const [N, d] = [H * W, config.head_dim];
  const out = layers.out.weight.shape[0];
  const heads = out / d;
  const qkv = linear(x, layers.qkv.weight, layers.qkv.bias, D); // (N, 3, heads, d)
  const part = (which, h) => zeros(N * d).map((_, at) =>
    qkv[Math.floor(at / d) * 3 * out + which * out + h * d + (at % d)]);
  const table = layers.relative_bias_table;
  const y = zeros(N * out);
  seen.attention = { heads, H, W, weights: zeros(heads * N * N) };
  for (let h = 0; h < heads; h++) {
    const bias = table && biasMatrix(table.subarray((h * table.length) / heads), H, W);
    const A = attentionWeights(part(0, h), part(1, h), d, { bias, form: config.relative_bias, scale: d ** -0.5 });
    weightedSum(A, part(2, h), d).forEach((v, at) => { y[Math.floor(at / d) * out + h * d + (at % d)] = v; });
    seen.attention.weights.set(A, h * N * N);
  }
  seen.branch = { x: y, H, W, D: out, parts: heads };
  return conv1x1(leaveOut(seen.branch, heads, seen.silent), layers.out);
}

// blocks.TransformerBlock, equation (4), and then x + FFN(Norm(x)).
function transformer(grid, layers, config, stride, seen) {
  const normed = pool(norm(grid, layers.norm, config), config.pool, stride);
  const y = add(shortcut(grid, layers, config, stride), multiHead(normed, layers.attention, config, seen));
  const wide = gelu(conv1x1(norm(y, layers.mlp_norm, config), layers.mlp.expand));
  return add(y, conv1x1(wide, layers.mlp.project));
}

// blocks.ConvStem, or one convolution of its patches.
function stem(grid, layers, config, { kind, stride }) {
  if (kind === "P") return conv(grid, layers[0], stride, "none");
  let y = conv(grid, layers[0], stride, "zero");
  for (let n = 1; layers[n]; n += 3) y = conv(gelu(norm(y, layers[n], config)), layers[n + 2], 1, "zero");
  return y;
}

// coatnet.CoAtNet: image (H·W, C) → logits, and what every attention and depthwise layer made of it,
// { "S2b.0": { heads, H, W, weights (heads, N, N) } } and { "S1.0": { x (N, D), H, W, D } }; of each
// block, what its branch adds up, { x (N, D), H, W, D, parts }. silent: { "S2b.0": [1] }, parts left out.
function coatnet(image, config, weights, silent = {}) {
  const [H, W] = config.image_size;
  const [attention, responses, branches] = [{}, {}, {}];
  const names = Object.keys(weights.stages).sort(); // S0, S1, S2, S2b, ...
  let grid = stem({ x: image, H, W, D: config.in_channels }, weights.stages[names[0]], config, config.stages[0]);
  config.stages.slice(1).forEach((stage, n) => {
    const name = names[n + 1];
    for (let b = 0; b < stage.depth; b++) {
      const [seen, block] = [{ silent: silent[`${name}.${b}`] }, stage.kind === "C" ? mbconv : transformer];
      grid = block(grid, weights.stages[name][b], config, b ? 1 : stage.stride, seen);
      if (seen.attention) attention[`${name}.${b}`] = seen.attention;
      if (seen.depthwise) responses[`${name}.${b}`] = seen.depthwise;
      branches[`${name}.${b}`] = seen.branch;
    }
  });
  let y = norm({ x: mean(grid), D: grid.D }, weights.head.norm, config);
  if (config.head === "tanh") y.x = conv1x1(y, weights.head.hidden).x.map(Math.tanh);
  const logits = conv1x1(y, weights.head.classifier).x;
  return { logits, attention, responses, branches };
}

// ---- the checkpoint ------------------------------------------------------------------------

// A half-precision number, from its 16 bits.
function half(bits) {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

// The tensors of a safetensors file, as a tree by the parts of their names: a.b.c is tree.a.b.c.
function readSafetensors(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const start = 8 + Number(view.getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, start)));
  const halves = Float32Array.from({ length: 65536 }, (_, bits) => half(bits));
  const read = { F16: (at) => halves[view.getUint16(at, true)], F32: (at) => view.getFloat32(at, true) };
  const tree = {};
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
    if (!read[dtype]) continue; // a counter of batches
    const size = dtype === "F16" ? 2 : 4;
    const tensor = zeros((to - from) / size).map((_, k) => read[dtype](start + from + k * size));
    const parts = name.split(".");
    const last = parts.pop();
    parts.reduce((branch, part) => (branch[part] ??= {}), tree)[last] = Object.assign(tensor, { shape });
  }
  return tree;
}

export default {
  weightedSum, softmax, linear, depthwise, unfold, patches, biasMatrix, attentionWeights,
  erf, coatnet, readSafetensors,
};
