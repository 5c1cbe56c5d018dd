// The parts of the page that are text: what the result says of itself, one particle, the samples.

const ROWS = 50, EXCERPT = 600;

/** The head of the page: prompt, facts, warnings. */
function showHead(result) {
  document.title = `feynkac: ${result.title}`;
  byId("title").textContent = result.title;
  byId("prompt").replaceChildren(...result.prompt.map(({ role, text }) => {
    const turn = make("p", "turn");
    if (role) turn.append(make("span", "role", role));
    turn.append(make("span", "said", text));
    return turn;
  }));
  byId("facts").replaceChildren(...result.facts.map(({ name, value, note }) => {
    const fact = make("div", "fact");
    fact.append(make("dt", "", name), make("dd", "value", value), make("dd", "note", note));
    return fact;
  }));
  byId("warnings").hidden = !result.warnings.length;
  byId("warnings").replaceChildren(...result.warnings.map((warning) => make("li", "", warning)));
}

/** One particle, or one line that died: its whole text, token by token. */
function showParticle(tree, node) {
  const { result, population, steps } = tree, end = tree.first[steps - 1];
  const panel = byId("particle");
  if (node < 0) {
    panel.replaceChildren(make("p", "hint", "Click a line of the tree, or a sample below, to pin it here."));
    return;
  }
  const slot = node >= end ? node - end : -1, row = slot >= 0 && population.first_row !== null ? population.first_row + slot : -1;
  const share = slot >= 0 ? tree.ends[slot] : 0;
  const head = make("div", "particle-head");
  const name = slot >= 0 ? `Particle ${slot}` : `Line that ended at step ${tree.stepOf[node]}`;
  head.append(make("h2", "", name), make("span", "weight", slot < 0 ? "no descendants" : share > 0 ? formatShare(share) : "dead"));
  const { picture, body, notes } = tellSample(tree, node, row);
  const list = make("dl", "details");
  for (const [term, value] of describe(tree, node, row)) list.append(make("dt", "", term), make("dd", "", value));
  panel.replaceChildren(head, ...(picture ? [picture] : []), body, ...notes, list);
}

/** The sample of a node as a picture or as tokens, and what is to be said of them. */
function tellSample(tree, node, row) {
  const { result } = tree, told = readPath(tree, tracePath(tree, node));
  const sample = row >= 0 ? result.samples[result.sample_of[row]] : null;
  const body = make("p", "text"), notes = [];
  const picture = sample && sample.picture ? makePicture(sample) : null;
  const joined = told.tokens.map((token) => token.text).join("");
  const tokens = row >= 0 && result.tokens ? result.tokens(row) : told.rewritten ? [] : told.tokens;
  const same = tokens.map((token) => token.text).join("");
  if (same && (!sample || same.startsWith(sample.text))) {
    body.append(...makeTokens(sample ? cutTokens(tokens, sample.text.length) : tokens));
  } else {
    if (sample && !picture) body.textContent = sample.text;
    if (joined) {
      const steps = make("p", "text steps");
      steps.append(...makeTokens(told.tokens));
      notes.push(make("p", "hint", told.rewritten ? "Added since a move wrote the text anew:" : "What its steps added:"), steps);
    }
  }
  if (!picture && !body.textContent) body.append(make("span", "hint", sample || result.pieces ? "(empty)" : "Its text is not in the history."));
  return { picture, body, notes };
}

/** The tokens of the first `length` characters: what a stop string cut off is no part of the sample. */
function cutTokens(tokens, length) {
  let left = length;
  const cut = tokens.map((token) => {
    const text = token.text.slice(0, left);
    left -= text.length;
    return { ...token, text };
  });
  return cut.filter((token) => token.text !== "");
}


function makePicture(sample) {
  const image = make("img", "picture");
  image.src = sample.picture;
  image.alt = sample.text;
  image.onload = () => image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) <= 64);
  return image;
}

/** Names and values of what is known about a node, and of its sample if it has a row. */
function describe(tree, node, row) {
  const { result, base } = tree, told = readPath(tree, tracePath(tree, node)), facts = [];
  const total = row >= 0 && result.totals ? result.totals[row] : told.rewritten ? NaN : told.tokens.reduce((sum, token) => sum - token.nats, 0);
  if (total && !Number.isNaN(total)) facts.push(["log-probability", `${formatNats(total)} nats`]);
  if (told.tokens.length) facts.push(["tokens", `${told.tokens.length}${told.rewritten ? " since the last move" : ""}`]);
  if (result.levels) facts.push(["level", `${formatNats(result.levels[base + node])} nats`]);
  if (result.log_weights) facts.push(["log-weight", `${formatNats(result.log_weights[base + node])} nats`]);
  if (result.islands > 1) facts.push(["island", `${islandOf(tree, node)} of ${result.islands}`]);
  if (killerOf(tree, node)) facts.push(["rejected by", killerOf(tree, node)]);
  return facts;
}

/** The potential that gave a node weight zero; "" for those that none did, or where it is not known. */
function killerOf(tree, node) {
  return tree.result.killers ? tree.result.killers.at(tree.base + node) : "";
}

/** The number of an island, from 1: islands are parts of the slots, in turn. */
function islandOf(tree, node) {
  const t = tree.stepOf[node], n = tree.first[t + 1] - tree.first[t];
  return 1 + Math.floor(((node - tree.first[t]) * tree.result.islands) / n);
}

/** What the pointer is on: the text so far and how likely its last token was. */
function showTip(tip, tree, node, x, y) {
  const { result, base } = tree, told = readPath(tree, tracePath(tree, node));
  const tokens = told.tokens.slice(-60), body = make("p", "text");
  if (tokens.length < told.tokens.length || told.rewritten) body.append("…");
  body.append(...makeTokens(tokens));
  const facts = [`step ${tree.stepOf[node]}`, `slot ${node - tree.first[tree.stepOf[node]]}`], nats = surpriseOf(tree, node);
  if (Number.isFinite(nats) && pieceOf(tree, node)) facts.push(`${formatNats(nats)} nats`);
  if (result.increments && result.increments[base + node]) facts.push(`${formatNats(result.increments[base + node])} added by the model`);
  if (result.levels) facts.push(`level ${formatNats(result.levels[base + node])}`);
  const killer = killerOf(tree, node);
  if (killer) facts.push(`rejected by ${killer}`);
  else if (tree.last[node] < tree.steps - 1) facts.push(`line ends at step ${tree.last[node]}`);
  tip.replaceChildren(...(told.tokens.length ? [body] : []), make("p", "facts", facts.join("  ·  ")));
  tip.hidden = false;
  const box = tip.getBoundingClientRect(), wide = document.documentElement.clientWidth;
  tip.style.left = `${Math.max(8, Math.min(x + 14, wide - box.width - 8))}px`;
  tip.style.top = `${y + 18 + box.height > window.innerHeight ? Math.max(8, y - box.height - 14) : y + 18}px`;
}

/** The samples that `keep(sample)` lets through, the likeliest first, `limit` of them; a click calls `pin(sample)`. */
function showSamples(result, samples, { keep, limit, pin, more, query }) {
  const shown = samples.filter(keep), pictures = result.kind === "images";
  const most = Math.max(...samples.map((sample) => sample.share), 1e-12);
  const list = byId("sample-list");
  list.className = pictures ? "tiles" : "rows";
  list.replaceChildren(...shown.slice(0, limit).map((sample) => {
    const item = make("button", sample.share > 0 ? "sample" : "sample dead");
    item.type = "button";
    item.dataset.sample = sample.index;
    const bar = make("span", "bar");
    bar.append(make("span", "fill"));
    bar.firstChild.style.width = `${(100 * sample.share) / most}%`;
    const nats = result.totals ? `${formatNats(result.totals[sample.rows[0]], 1)} nats` : "";
    const count = sample.rows.length > 1 ? `×${sample.rows.length}` : "";
    const share = make("span", "share", sample.share > 0 ? formatShare(sample.share) : "dead");
    const body = sample.picture ? makePicture(sample) : markMatches(make("span", "words"), findExcerpt(sample, query), query);
    item.append(...(pictures ? [body, bar, share, make("span", "count", count)] : [share, bar, body, make("span", "count", count), make("span", "count nats", nats)]));
    item.addEventListener("click", () => pin(sample));
    return item;
  }));
  const total = shown.length === samples.length ? `${samples.length} distinct` : `${shown.length} of ${samples.length} distinct`;
  byId("sample-count").textContent = total;
  byId("more").hidden = shown.length <= limit;
  byId("more").textContent = `Show ${Math.min(ROWS, shown.length - limit)} more`;
  byId("more").onclick = more;
}

/** As much of a long sample as is seen in a row: from its start, or from before what was searched for. */
function findExcerpt(sample, query) {
  if (sample.text.length <= EXCERPT) return sample.text || "(empty)";
  const at = query ? sample.lower.indexOf(query.toLowerCase()) : 0, from = at > EXCERPT / 2 ? at - 80 : 0;
  return `${from ? "… " : ""}${sample.text.slice(from, from + EXCERPT)}${from + EXCERPT < sample.text.length ? " …" : ""}`;
}

/** `text` in `element`, with what was searched for marked. */
function markMatches(element, text, query) {
  const lower = text.toLowerCase(), sought = query.toLowerCase();
  let from = 0;
  for (let at; sought && lower.length === text.length && (at = lower.indexOf(sought, from)) >= 0; from = at + sought.length) {
    element.append(text.slice(from, at), make("mark", "", text.slice(at, at + sought.length)));
  }
  element.append(text.slice(from));
  return element;
}

/** Each distinct sample with the rows that hold it and their weight, the heaviest first. */
function rankSamples(result) {
  const ranked = result.samples.map((sample, index) => ({ ...sample, index, rows: [], share: 0 }));
  result.sample_of.forEach((sample, row) => {
    ranked[sample].rows.push(row);
    ranked[sample].share += result.weights[row];
  });
  return ranked.sort((a, b) => b.share - a.share);
}

function byId(id) {
  return document.getElementById(id);
}
