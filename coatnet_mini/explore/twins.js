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
  const gain = 1 + strength * kernel.reduce((sum, v) => sum + v, 0);
  const mendedPre = remembered(() => operators.weightedSum(pre, noisy));
  const mendedPost = remembered(() => operators.weightedSum(post, noisy).map((v) => v / gain));
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

export default { mend, products, qkv, shares, prepost };
