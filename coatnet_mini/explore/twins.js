// Twins: what a figure's Python function computes, once more, for figures that compute in the page.
// A twin is called with all that the function knows, by name: sliders as numbers, named options as
// their place in the list, positions as flat indices, what the reader edits and the constants as
// Float32Arrays with a `shape`. It returns a function for each view, called only if the figure shows
// it. explore/twin.py says how to add one; tests/test_twins.py holds each to its Python.

// f, which computes again only when an argument has changed.
function remembered(f) {
  let last, value;
  return (...given) => {
    if (!last || given.some((g, k) => g !== last[k])) [last, value] = [given, f(...given)];
    return value;
  };
}

const row = (W, i, N) => W.subarray(i * N, (i + 1) * N);

// mending.psnr
function psnr(x, clean) {
  const error = x.reduce((sum, v, k) => sum + (v - clean[k]) ** 2, 0) / x.length;
  return -10 * Math.log10(error);
}

// mending.distance_bias
const distanceBias = remembered((H, W, width, { biasMatrix }) => {
  const table = new Float32Array((2 * H - 1) * (2 * W - 1));
  for (let k = 0; k < table.length; k++) {
    const [rows, columns] = [Math.floor(k / (2 * W - 1)) - H + 1, (k % (2 * W - 1)) - W + 1];
    table[k] = -(rows ** 2 + columns ** 2) / (2 * width ** 2);
  }
  return biasMatrix(table, H, W);
});

// What mending.likeness compares: queries (f_i, 1) and keys (2 f_j, −‖f_j‖²) of patches of x (H, W).
const queriesAndKeys = remembered((x, size, { patches }) => {
  const features = patches(x, x.shape, size);
  const [N, d] = [x.length, size ** 2];
  const [q, k] = [new Float32Array(N * (d + 1)).fill(1), new Float32Array(N * (d + 1))];
  for (let i = 0; i < N; i++) {
    const f = row(features, i, d);
    q.set(f, i * (d + 1));
    k.set(f.map((v) => 2 * v), i * (d + 1));
    k[i * (d + 1) + d] = -f.reduce((sum, v) => sum + v * v, 0);
  }
  return { features, q, k, d: d + 1 };
});

// mending.likeness
function likeness(x, size, scale, bias, form, operators) {
  const { q, k, d } = queriesAndKeys(x, size, operators);
  return operators.attentionWeights(q, k, d, { bias, form, scale });
}

// mending.shuffle, of x (H, W).
const shuffle = remembered((x, order) => Object.assign(x.map((_, i) => x[order[i]]), { shape: x.shape }));

// ---- a noisy picture, mended by what is near, by what is alike, or by both -------------------------
// noisy, clean (H, W); mode 0 near, 1 alike, 2 both; temperature; width of the bias, near of the blur;
// size of the patches; i the pixel pointed at; shuffled 0 or 1, by `order` (N,).

const mendingWeights = remembered((x, mode, size, temperature, width, near, operators) => {
  const [H, W] = x.shape;
  if (mode === 0) return operators.softmax(distanceBias(H, W, near, operators), H * W);
  const bias = mode === 2 ? distanceBias(H, W, width, operators) : undefined;
  return likeness(x, size, 1 / temperature, bias, "pre", operators);
});

function mend({ noisy, clean, mode, temperature, width, near, size, i, shuffled = 0, order }, operators) {
  const [x, aim] = shuffled ? [shuffle(noisy, order), clean.map((_, k) => clean[order[k]])] : [noisy, clean];
  const W = mendingWeights(x, mode, size, temperature, width, near, operators);
  const mended = remembered(() => operators.weightedSum(W, x));
  return {
    noisy: () => x,
    weights: () => row(W, i, x.length),
    mended,
    before: () => psnr(x, aim),
    after: () => psnr(mended(), aim),
  };
}

// ---- nine products and one sum -----------------------------------------------------------------
// picture (H, W); kernels (K, k, k), kernel the one chosen; flip 0 as it is, 1 turned over; i.

function products({ picture, kernels, kernel, flip = 0, i }, { unfold, depthwise }) {
  const [H, W] = picture.shape;
  const k = kernels.shape[1];
  const chosen = row(kernels, kernel, k * k).slice();
  const used = flip ? chosen.reverse() : chosen;
  const patch = row(unfold(picture, [H, W, 1], k), i, k * k);
  const product = patch.map((v, t) => v * used[t]);
  return {
    picture: () => picture,
    patch: () => patch,
    kernel: () => used,
    products: () => product,
    sum: () => product.reduce((sum, v) => sum + v, 0),
    result: () => depthwise(picture, [H, W, 1], used, [k, k]),
  };
}

// ---- compare patches, fetch pixels -------------------------------------------------------------
// noisy (H, W); size of the patches compared; temperature; i the query.

function qkv({ noisy, size, temperature, i }, operators) {
  const { features } = queriesAndKeys(noisy, size, operators);
  const query = row(features, i, size ** 2);
  const scores = noisy.map((_, j) =>
    -row(features, j, size ** 2).reduce((sum, v, t) => sum + (v - query[t]) ** 2, 0));
  const weights = operators.softmax(scores.map((s) => s / temperature));
  return {
    noisy: () => noisy,
    query: () => query,
    scores: () => scores,
    weights: () => weights,
    value: () => noisy[i],
    fetched: () => operators.weightedSum(weights, noisy)[0],
  };
}

// ---- scores that are dragged, and what the softmax makes of them ---------------------------------
// scores (N,), values (N,); temperature.

function shares({ scores, values, temperature }, { softmax, weightedSum }) {
  const weights = softmax(scores.map((s) => s / temperature));
  return {
    scores: () => scores,
    weights: () => weights,
    values: () => values,
    fetched: () => weightedSum(weights, values)[0],
  };
}

// ---- the bias before or after the softmax ----------------------------------------------------------
// noisy, clean (H, W); content, the factor on −‖f_i − f_j‖²; strength, the factor on both tables:
// biases (2H−1, 2W−1), added before, and kernel (2H−1, 2W−1), added after the softmax; size; i.
// What is mended with the kernel after it is divided by the row sum of a pixel far from any edge.

const biased = (x, form, table, size, content, strength, operators) => {
  const bias = operators.biasMatrix(table.map((v) => strength * v), ...x.shape);
  return likeness(x, size, content, bias, form, operators);
};
const [before, after] = [remembered(biased), remembered(biased)];

function prepost({ noisy, clean, biases, kernel, content, strength, size, i }, operators) {
  const pre = before(noisy, "pre", biases, size, content, strength, operators);
  const post = after(noisy, "post", kernel, size, content, strength, operators);
  const sums = remembered(() => operators.weightedSum(post, noisy.map(() => 1)));
  const mendedPre = remembered(() => operators.weightedSum(pre, noisy));
  const mendedPost = remembered(() => operators.weightedSum(post, noisy).map((v, k) => v / sums()[k]));
  return {
    noisy: () => noisy,
    pre: () => row(pre, i, noisy.length),
    post: () => row(post, i, noisy.length),
    mendedPre,
    mendedPost,
    psnrPre: () => psnr(mendedPre(), clean),
    psnrPost: () => psnr(mendedPost(), clean),
  };
}

// ---- widen one channel, bend, come back ------------------------------------------------------------
// noisy, clean (H, W); kernels (N, 3, 3) and shifts (N,), of which n are used; bend 0 none, 1 GELU; backs
// (widths × 2, N + 1): for each of `widths`, without and with the bend, a weight for each kernel, and a constant.

const bent = remembered((noisy, kernels, shifts, back, n, bend, { patches, erf }) => {
  const [N, near] = [noisy.length, patches(noisy, noisy.shape, 3)];
  const y = noisy.map((v) => v + back[back.length - 1]);
  const reads = Float32Array.from({ length: 9 * N }, (_, k) => (k % 9 === 4 ? 1 : 0)); // the shortcut
  for (let i = 0; i < N; i++) {
    for (let c = 0; c < n; c++) {
      let v = shifts[c];
      for (let t = 0; t < 9; t++) v += near[9 * i + t] * kernels[9 * c + t];
      const phi = (1 + erf(v * Math.SQRT1_2)) / 2;
      const slope = bend ? phi + (v * Math.exp((-v * v) / 2)) / Math.sqrt(2 * Math.PI) : 1;
      y[i] += back[c] * (bend ? v * phi : v);
      for (let t = 0; t < 9; t++) reads[9 * i + t] += back[c] * slope * kernels[9 * c + t];
    }
  }
  return { y, reads };
});
const backOf = remembered((backs, place) => row(backs, place, backs.shape[1]));

function bend({ noisy, clean, kernels, shifts, backs, widths, n, bend, i }, operators) {
  const back = backOf(backs, 2 * widths.indexOf(n) + bend);
  const { y, reads } = bent(noisy, kernels, shifts, back, n, bend, operators);
  return {
    mended: () => y,
    own: () => y.map((_, k) => reads[9 * k + 4]),
    around: () => row(reads, i, 9).map((v) => Math.round(100 * v) / 100),
    psnr: () => psnr(y, clean),
  };
}

// ---- attention in windows, one layer or two --------------------------------------------------------
// noisy, clean (H, W); window, the side of one; layers 0 one, 1 two with the same windows, 2 two, the
// second's shifted by half a window; temperature; size of the patches; i. Both layers compare patches
// of the noisy picture.

// The numbers of cheaper.window_of.
const windowOf = ([H, W], side, shift) => Array.from({ length: H * W }, (_, i) =>
  Math.floor((Math.floor(i / W) + shift) / side) * (W + 1) + Math.floor(((i % W) + shift) / side));

const inWindows = (x, side, shift, temperature, size, operators) => {
  const [of, N] = [windowOf(x.shape, side, shift), x.length];
  const mask = Float32Array.from({ length: N * N }, (_, k) =>
    of[Math.floor(k / N)] === of[k % N] ? 0 : -Infinity);
  return likeness(x, size, 1 / temperature, mask, "pre", operators);
};
const [plain, shifted] = [remembered(inWindows), remembered(inWindows)];

function windows({ noisy, clean, window, layers, temperature, size, i }, operators) {
  const N = noisy.length;
  const first = plain(noisy, window, 0, temperature, size, operators);
  const half = Math.floor(window / 2);
  const last = layers < 2 ? first : shifted(noisy, window, half, temperature, size, operators);
  const once = remembered(() => operators.weightedSum(first, noisy));
  const mended = remembered(() => (layers ? operators.weightedSum(last, once()) : once()));
  const weights = remembered(() =>
    layers ? operators.weightedSum(row(last, i, N), first, N) : row(first, i, N));
  return {
    noisy: () => noisy,
    weights,
    mended,
    psnr: () => psnr(mended(), clean),
    believed: () => weights().reduce((count, v) => count + (v > 0), 0),
  };
}

// ---- the network that reads a drawing --------------------------------------------------------------
// drawing (32, 32) of 0 and 1; network { config, weights }; layer and block, the attention and the
// depthwise layer by their places; head 0 for the mean of all; i on the grid of the first attention
// layer; channels0, channels1, ...: which channels of each depthwise layer are shown.

// live.counts: how many pixels of each 4×4 block hold ink, 0 to 16.
function counts(drawing, [H, W], block) {
  const count = new Uint8Array((H * W) / block ** 2);
  drawing.forEach((ink, k) => {
    count[Math.floor(k / W / block) * (W / block) + Math.floor((k % W) / block)] += ink >= 0.5;
  });
  return count;
}

// Pillow's bicubic resize of 8-bit grey pixels along one axis of (count, from) → (to, count): weights
// of 22 bits, and bytes again after each axis.
function resized(pixels, from, to) {
  const cubic = (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0);
  const count = pixels.length / from;
  const out = new Uint8Array(count * to);
  for (let o = 0; o < to; o++) {
    const centre = ((o + 0.5) * from) / to;
    const first = Math.max(0, Math.floor(centre - 1.5)), end = Math.min(from, Math.floor(centre + 2.5));
    const taps = Array.from({ length: end - first }, (_, t) => cubic(Math.abs(t + first - centre + 0.5)));
    const sum = taps.reduce((a, b) => a + b, 0);
    const whole = taps.map((w) => Math.trunc((w / sum) * 2 ** 22 + (w < 0 ? -0.5 : 0.5)));
    for (let c = 0; c < count; c++) {
      const value = whole.reduce((s, w, t) => s + w * pixels[c * from + first + t], 2 ** 21);
      out[o * count + c] = Math.min(Math.max(Math.floor(value / 2 ** 22), 0), 255);
    }
  }
  return out;
}

// live.enlarge, and images.normalize: counts (8, 8) → the network's input (size · size) in −1..1.
function asInput(count, size) {
  const side = Math.sqrt(count.length);
  const grey = Uint8Array.from(count, (c) => Math.round((c * 255) / 16));
  const enlarged = resized(resized(grey, side, size), side, size); // across, then down
  return Float32Array.from(enlarged, (v) => v / 127.5 - 1);
}

const seen = remembered((drawing, { config, weights }, { coatnet }) =>
  coatnet(asInput(counts(drawing, drawing.shape, 4), config.image_size[0]), config, weights));

// live.row_of: the weights of the position that holds cell i of a grid of H rows, on that grid.
function rowOf({ heads, W, weights }, i, head, H) {
  const [N, factor] = [W * W, H / W];
  const at = (cell) => Math.floor(Math.floor(cell / H) / factor) * W + Math.floor((cell % H) / factor);
  const chosen = head ? [head - 1] : [...Array(heads).keys()];
  return Float32Array.from({ length: H * H }, (_, j) =>
    chosen.reduce((sum, h) => sum + weights[(h * N + at(i)) * N + at(j)], 0) / chosen.length);
}

// live.mosaic: channels of a grid { x (N, D), H, W } side by side, 48 pixels each way.
function mosaic({ x, H, W, D }, channels) {
  const columns = 48 / W;
  return Float32Array.from({ length: 48 * 48 }, (_, k) => {
    const [row, column] = [Math.floor(k / 48), k % 48];
    const tile = Math.floor(row / H) * columns + Math.floor(column / W);
    return x[((row % H) * W + (column % W)) * D + channels[tile]];
  });
}

function network({ drawing, network: stored, layer, head, block, i, ...others }, operators) {
  const { logits, attention, responses } = seen(drawing, stored, operators);
  const maps = Object.values(attention);
  return {
    drawing: () => drawing,
    probabilities: () => operators.softmax(logits),
    attention: () => rowOf(maps[layer], i, head, maps[0].H),
    responses: () => mosaic(Object.values(responses)[block], others[`channels${block}`]),
  };
}

// ---- the heads of the trained network, before and after the bias -------------------------------------
// drawing and network as above; head counts the heads of all attention layers on the first one's grid;
// times, the factor on the learned table; i on that grid. The table's bias is divided out of the weights
// that the network computed, which leaves what the content alone would weigh.

function heads({ drawing, network: stored, head, times, i }, operators) {
  const maps = Object.entries(seen(drawing, stored, operators).attention);
  const { heads: count, H, W } = maps[0][1];
  const [[name, { weights }], h, N] = [maps[Math.floor(head / count)], head % count, H * W];
  const [stage, block] = name.split(".");
  const table = stored.weights.stages[stage][block].attention.relative_bias_table;
  const size = table.length / count;
  const bias = row(operators.biasMatrix(table.subarray(h * size, (h + 1) * size), H, W), i, N);
  const scores = row(weights, h * N + i, N).map((w, j) => Math.log(w) - bias[j]);
  const [before, after] = [0, times].map((t) => operators.softmax(scores.map((s, j) => s + t * bias[j])));
  const apart = (j) => Math.max(Math.abs(Math.floor(i / W) - Math.floor(j / W)), Math.abs((i % W) - (j % W)));
  const near = (A) => 100 * A.reduce((sum, w, j) => sum + (apart(j) < 2 ? w : 0), 0);
  return {
    drawing: () => drawing,
    before: () => before,
    bias: () => bias.map((v) => times * v),
    after: () => after,
    nearBefore: () => near(before),
    nearAfter: () => near(after),
  };
}

// ---- parts of the trained network, left out ----------------------------------------------------------
// drawing and network as above; of, which row of `layers` and `units` (groups, parts): the place of a
// block's branch and the part in it; part, which column, from 1; silence 0 nothing, 1 that part, 2 all of the row,
// 3 all parts of the stages that the row's parts are in.

const without = remembered((drawing, { config, weights }, silent, { coatnet }) =>
  coatnet(asInput(counts(drawing, drawing.shape, 4), config.image_size[0]), config, weights, silent));

// inside.added: at each position, the norm of what one part of a branch adds.
function addedBy({ x, H, W, D, parts }, U, unit) {
  const [width, out] = [D / parts, U.shape[0]];
  return Float32Array.from({ length: H * W }, (_, n) => {
    let square = 0;
    for (let o = 0; o < out; o++) {
      let sum = 0;
      for (let d = unit * width; d < (unit + 1) * width; d++) sum += U[o * D + d] * x[n * D + d];
      square += sum * sum;
    }
    return Math.sqrt(square);
  });
}

const silentOf = remembered((layers, units, of, part, silence, branches) => {
  if (!silence) return {};
  const [names, silent] = [Object.keys(branches), {}];
  const [rows, places] = [row(layers, of, layers.shape[1]), row(units, of, layers.shape[1])];
  rows.forEach((layer, k) => {
    if (silence === 2 || k === part - 1) (silent[names[layer]] ??= []).push(places[k]);
  });
  if (silence < 3) return silent;
  const stages = [...rows].map((layer) => names[layer].split(".")[0]);
  const all = names.filter((name) => stages.includes(name.split(".")[0]));
  return Object.fromEntries(all.map((name) => [name, [...Array(branches[name].parts).keys()]]));
});

function silence({ drawing, network: stored, layers, units, of, part, silence: how }, operators) {
  const { logits, branches } = seen(drawing, stored, operators);
  const silent = silentOf(layers, units, of, part, how, branches);
  const left = how ? without(drawing, stored, silent, operators).logits : logits;
  const [name, branch] = Object.entries(branches)[layers[of * layers.shape[1] + part - 1]];
  const [stage, block] = name.split(".");
  const made = stored.weights.stages[stage][block];
  const { weight } = (made.attention ?? { out: made.project }).out;
  const side = Object.values(branches)[0].H; // of the finest grid
  const read = logits.indexOf(Math.max(...logits));
  return {
    drawing: () => drawing,
    adds: () => {
      const [factor, norms] = [side / branch.H, addedBy(branch, weight, units[of * layers.shape[1] + part - 1])];
      return Float32Array.from({ length: side * side }, (_, k) =>
        norms[Math.floor(Math.floor(k / side) / factor) * branch.W + Math.floor((k % side) / factor)]);
    },
    probabilities: () => operators.softmax(left),
    change: () => left.map((score, k) => score - logits[k]),
    before: () => 100 * operators.softmax(logits)[read],
    after: () => 100 * operators.softmax(left)[read],
  };
}

export default { mend, products, qkv, shares, prepost, bend, windows, network, heads, silence };
