// The family tree of one population: a node is a slot of a step, numbered from the first slot of the first step.

/** The tree of the steps `population.start` to `population.end` of a result. */
function growTree(result, population) {
  const { start, end } = population;
  const base = result.offsets[start];
  const first = Array.from(result.offsets.subarray(start, end + 1), (offset) => offset - base);
  const steps = end - start, size = first[steps];
  const stepOf = new Int32Array(size), parent = new Int32Array(size).fill(-1);
  for (let t = 0; t < steps; t++) {
    stepOf.fill(t, first[t], first[t + 1]);
    // A slot beyond those of the step before is always told its parent.
    for (let k = first[t]; t > 0 && k < first[t + 1]; k++) parent[k] = k - first[t] + first[t - 1];
  }
  const events = new Set([0]);
  result.changed.forEach((k, i) => {
    const node = k - base;
    if (node < first[1] || node >= size) return;
    parent[node] = first[stepOf[node] - 1] + result.parents[i];
    events.add(stepOf[node]);
  });
  for (let t = 1; t < steps; t++) if (first[t + 1] - first[t] !== first[t] - first[t - 1]) events.add(t);
  const tree = { result, population, base, first, steps, size, stepOf, parent };
  tree.events = [...events].sort((a, b) => a - b);
  tree.widest = Math.max(1, ...first.slice(1).map((next, t) => next - first[t]));
  followLines(tree);
  placeSlots(tree);
  return tree;
}

/**
 * `place`: the lane of each slot. Of several children the one that leads furthest stays in its parent's lane, the others
 * take the nearest free ones, the most lasting first: what lives on is straight. Islands keep to lanes of their own.
 * `slotAt`: the slot in each lane of each step, -1 where there is none.
 */
function placeSlots(tree) {
  const { first, parent, steps, heir, last, widest } = tree;
  const place = new Int32Array(tree.size), slotAt = new Int32Array(steps * widest).fill(-1);
  const changed = new Set(tree.events);
  for (let t = 0; t < steps; t++) {
    const here = slotAt.subarray(t * widest, (t + 1) * widest), n = first[t + 1] - first[t], others = [];
    const take = (k, lane) => { place[k] = lane; here[lane] = k; };
    for (let k = first[t]; k < first[t + 1]; k++) {
      if (!t) take(k, Math.floor(((k + 0.5) * widest) / n));
      else if (heir[k] === heir[parent[k]]) take(k, place[parent[k]]);
      else others.push(k);
    }
    if (!changed.has(t)) continue;
    others.sort((a, b) => last[b] - last[a] || a - b);
    for (const k of others) take(k, findLane(here, place[parent[k]], n === widest ? tree.result.islands : 1));
  }
  Object.assign(tree, { place, slotAt });
}

/** The free lane nearest to `lane`, of those of its island. */
function findLane(here, lane, islands) {
  const size = here.length / islands, low = Math.floor(lane / size) * size, high = low + size;
  for (let by = 1; by < here.length; by++) {
    if (lane - by >= low && here[lane - by] < 0) return lane - by;
    if (lane + by < high && here[lane + by] < 0) return lane + by;
  }
  return here.indexOf(-1);
}

/** `last`: the last step that a node has a descendant in, and `heir`: its descendant there, the heaviest of several. */
function followLines(tree) {
  const { first, parent, steps, stepOf } = tree;
  const last = stepOf.slice(), heir = Int32Array.from(last, (_, k) => k);
  const ends = tree.ends = findShares(tree, steps - 1);
  const weightOf = (node) => (node >= first[steps - 1] ? ends[node - first[steps - 1]] : 0);
  for (let k = tree.size - 1; k >= first[1]; k--) {
    const p = parent[k];
    if (last[k] > last[p] || (last[k] === last[p] && weightOf(heir[k]) > weightOf(heir[p]))) {
      last[p] = last[k];
      heir[p] = heir[k];
    }
  }
  Object.assign(tree, { last, heir });
}

/** The normalised weight of each slot of step `t`: of the samples at the end, else as the run had it; alike if unknown. */
function findShares(tree, t) {
  const { result, first, steps, base, population } = tree;
  const n = first[t + 1] - first[t];
  const shares = new Float64Array(n);
  if (t === steps - 1 && population.first_row !== null) {
    shares.set(result.weights.subarray(population.first_row, population.first_row + n));
  } else if (result.log_weights) {
    const own = result.log_weights.subarray(base + first[t], base + first[t + 1]);
    const top = own.reduce((a, b) => Math.max(a, b), -Infinity);
    if (top > -Infinity) own.forEach((value, i) => { shares[i] = Math.exp(value - top); });
  } else {
    shares.fill(1);
  }
  const total = shares.reduce((a, b) => a + b, 0);
  return total > 0 ? shares.map((share) => share / total) : shares;
}

/** For each node up to step `t` the share of the weight of that step which descends from it. */
function sumShares(tree, t) {
  const mass = new Float64Array(tree.first[t + 1]);
  mass.set(findShares(tree, t), tree.first[t]);
  for (let k = mass.length - 1; k >= tree.first[1]; k--) mass[tree.parent[k]] += mass[k];
  return mass;
}

/** The nodes from the first step to `node`. */
function tracePath(tree, node) {
  const path = [];
  for (let k = node; k >= 0; k = tree.parent[k]) path.push(k);
  return path.reverse();
}

/** 1 for each node from which a final slot descends for which `keep(slot)`, and for the whole line if `keepDead(tip)`. */
function markLines(tree, keep, keepDead) {
  const marked = new Uint8Array(tree.size), end = tree.first[tree.steps - 1];
  for (let k = tree.size - 1; k >= 0; k--) {
    if (k >= end) marked[k] = keep(k - end) ? 1 : 0;
    else if (tree.heir[k] === k) marked[k] = keepDead(k) ? 1 : 0;
    if (marked[k] && tree.parent[k] >= 0) marked[tree.parent[k]] = 1;
  }
  return marked;
}

/** What a node added, as text. */
function pieceOf(tree, node) {
  return tree.result.pieces ? tree.result.pieces.at(tree.base + node) : "";
}

/** What a node added to its text, in nats of surprise; NaN if unknown. */
function surpriseOf(tree, node) {
  const known = tree.result.log_probs;
  return known ? -known[tree.base + node] : NaN;
}

/** The text along a path from its last move on, as tokens; `rewritten` says that a move wrote what was before anew. */
function readPath(tree, path) {
  let from = 0;
  if (tree.result.rewritten) path.forEach((node, i) => { if (tree.result.rewritten[tree.base + node]) from = i; });
  const told = path.slice(from).map((node) => ({ node, text: pieceOf(tree, node), nats: surpriseOf(tree, node) }));
  return { rewritten: from > 0, tokens: told.filter((token) => token.text !== "") };
}

/**
 * Where a query stands, whatever the case: `found` has 1 for each node by which its text holds the query, `lit` for these
 * and for all that leads there. `inSample(slot)` tells the same of the sample of a final slot.
 */
function searchTree(tree, query, inSample) {
  const { result, parent, base, size } = tree, sought = query.toLowerCase(), end = tree.first[tree.steps - 1];
  const matched = new Uint16Array(size), advance = result.pieces && makeMatcher(sought, result.pieces.words);
  const found = new Uint8Array(size);
  for (let k = 0; k < size; k++) {
    const before = parent[k] >= 0 ? matched[parent[k]] : 0;
    matched[k] = advance ? advance(before, result.pieces.which[base + k]) : before;
    if (k >= end && matched[k] < sought.length && inSample(k - end)) matched[k] = sought.length;
    found[k] = matched[k] === sought.length ? 1 : 0;
  }
  const lit = found.slice();
  for (let k = size - 1; k >= tree.first[1]; k--) if (lit[k]) lit[parent[k]] = 1;
  return { found, lit };
}

/**
 * How many letters of `sought` a text ends with, once a word is added to a text that ended with so many (Knuth, Morris,
 * Pratt 1977); all of them from the first match on. Each word is read once from each number of letters.
 */
function makeMatcher(sought, words) {
  const known = new Int16Array(words.length * (sought.length + 1)).fill(-1), border = [0];
  const step = (at, letter) => {
    while (at && sought[at] !== letter) at = border[at - 1];
    return sought[at] === letter ? at + 1 : 0;
  };
  for (let i = 1; i < sought.length; i++) border.push(step(border[i - 1], sought[i]));
  return (before, word) => {
    const key = word * (sought.length + 1) + before;
    if (known[key] < 0) {
      let at = before;
      for (const letter of words[word].toLowerCase().split("")) if (at < sought.length) at = step(at, letter);
      known[key] = at;
    }
    return known[key];
  };
}
