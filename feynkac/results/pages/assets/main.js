// The page: its state, and what changes it.

const results = JSON.parse(byId("data").textContent).results.map(readResult);

const state = { tree: null, result: 0, population: 0, step: 0, playing: false, zoom: 0, pinned: -1, hovered: -1, limit: ROWS };
const filter = { show: "all", least: 0, island: 0, query: "" };
let view, plots, ranked, mass, lit, found, colours, measure, pictures, asked = false;

// --- what is shown --------------------------------------------------------------------------------------------------

/** Begin with a result, or with another population of it. */
function open(result, population) {
  stop();
  Object.assign(state, { result, population, pinned: -1, hovered: -1, limit: ROWS });
  const now = results[result];
  fillChoices(byId("population"), now.populations.map((each) => each.label), population);
  byId("run").hidden = !now.populations.length;
  byId("island-choice").hidden = now.islands < 2;
  fillChoices(byId("island"), ["all islands", ...Array.from({ length: now.islands }, (_, i) => `island ${i + 1}`)], filter.island = 0);
  ranked = rankSamples(now);
  pictures = loadPictures(now);
  showHead(now);
  state.tree = null;
  if (now.populations.length) {
    const grown = state.tree = growTree(now, now.populations[population]);
    plots = listPlots(grown);
    byId("step").max = grown.steps - 1;
    // Words are read at once where there is room for all of them.
    state.zoom = Number(now.kind !== "images" && Boolean(now.pieces) && grown.widest <= 32);
    byId("key").hidden = !now.log_probs;
    byId("run").classList.toggle("still", grown.steps < 2);
    goTo(grown.steps - 1);
    layAll();
    pin(findBest(grown));
  }
  applyFilter();
}

/** The heaviest particle of the likeliest sample; the heaviest of all where the population's samples are not known. */
function findBest(grown) {
  const end = grown.first[grown.steps - 1], from = grown.population.first_row;
  let best = -1;
  grown.ends.forEach((share, i) => {
    const other = from !== null && ranked.length && ranked[0].share > 0 && !ranked[0].rows.includes(from + i);
    if (share > 0 && !other && (best < 0 || share > grown.ends[best])) best = i;
  });
  if (best < 0) grown.ends.forEach((share, i) => { if (share > 0 && (best < 0 || share > grown.ends[best])) best = i; });
  return best < 0 ? -1 : end + best;
}

/** Whether there is nothing to play: no history, or a single step. */
function isStill() {
  return !state.tree || state.tree.steps < 2;
}

function fillChoices(select, labels, chosen) {
  select.replaceChildren(...labels.map((label, i) => { const option = make("option", "", label); option.value = i; return option; }));
  select.value = chosen;
  select.hidden = labels.length < 2;
}

/** The pictures of the samples, each drawn as soon as it is decoded. */
function loadPictures(now) {
  if (now.kind !== "images" && !now.samples.some((sample) => sample.picture)) return null;
  return now.samples.map((sample) => {
    const image = new Image();
    image.onload = ask;
    if (sample.picture) image.src = sample.picture;
    return image;
  });
}

function pictureOf(slot) {
  const from = state.tree.population.first_row;
  if (!pictures || from === null || state.step < state.tree.steps - 1) return null;
  const image = pictures[results[state.result].sample_of[from + slot]];
  return image.complete && image.naturalWidth ? image : null;
}

/** Fit the tree into its place; the step in sight stays there. */
function layAll() {
  if (isStill()) return;
  const place = byId("tree"), before = view ? (place.scrollLeft + place.clientWidth / 2) / view.width : 0;
  measure = measure || makeRuler();
  const height = Math.min(620, Math.max(260, 0.62 * window.innerHeight));
  view = lay(state.tree, place.clientWidth, height, state.zoom, measure);
  view.measure = measure;
  place.style.height = `${Math.min(view.height, height) + (view.width > place.clientWidth + 1 ? 14 : 0)}px`;
  byId("room").style.width = `${view.width}px`;
  byId("room").style.height = `${view.height}px`;
  place.scrollLeft = before * view.width - place.clientWidth / 2;
  byId("zoom").value = state.zoom;
  ask();
}

/** Draw once, at the next frame. */
function ask() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; draw(); });
}

function sight() {
  const place = byId("tree");
  return { left: place.scrollLeft, top: place.scrollTop, width: place.clientWidth, height: place.clientHeight };
}

function draw() {
  if (isStill()) return;
  const now = state.tree, box = sight(), context = clear(byId("base"), box.width, box.height);
  const given = { until: state.step, mass, lit, found, colours };
  paintTree(context, now, view, box, given);
  paintEnds(context, now, view, box, { ...given, pictures: pictures && pictureOf });
  drawOver();
}

/** What follows the pointer, on a canvas of its own: the tree below stays as it is. */
function drawOver() {
  if (isStill()) return;
  const now = state.tree, box = sight(), context = clear(byId("over"), box.width, box.height);
  const given = { mass, colours, until: state.step };
  const mark = (node, colour, under) => node >= 0 && paintPath(context, now, view, box, tracePath(now, node), { ...given, colour, under });
  mark(state.pinned, colours.accent, colours["accent-soft"]);
  if (state.hovered !== state.pinned) mark(state.hovered, colours.ink, colours.faint);
  const hovered = state.hovered < 0 ? null : now.stepOf[state.hovered];
  paintTraces(byId("traces"), now, plots, view, box, { until: state.step, hovered, colours });
}

// --- what changes it ------------------------------------------------------------------------------------------------

function goTo(step) {
  if (!state.tree) return;
  state.step = Math.max(0, Math.min(state.tree.steps - 1, step));
  mass = sumShares(state.tree, state.step);
  byId("step").value = state.step;
  byId("step-label").textContent = `step ${state.step} of ${state.tree.steps - 1}`;
  document.body.dataset.step = state.step;
  ask();
}

function play() {
  if (isStill()) return;
  if (state.step === state.tree.steps - 1) goTo(0);
  state.playing = true;
  byId("play").setAttribute("aria-pressed", "true");
  byId("play").setAttribute("aria-label", "Pause");
  const begun = performance.now(), from = state.step, pace = Math.max(20, Math.min(350, 12000 / state.tree.steps));
  const frame = (time) => {
    if (!state.playing) return;
    const step = from + Math.max(0, Math.floor((time - begun) / pace));
    if (step !== state.step) { goTo(step); follow(); }
    if (state.step >= state.tree.steps - 1) stop();
    else requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}

function stop() {
  state.playing = false;
  byId("play").setAttribute("aria-pressed", "false");
  byId("play").setAttribute("aria-label", "Play");
}

/** Keep the step that is shown in sight. */
function follow() {
  if (isStill()) return;
  const place = byId("tree"), x = view.leftOf(state.step + 1);
  if (x > place.scrollLeft + place.clientWidth - MARGIN.right) place.scrollLeft = x - 0.7 * place.clientWidth;
  if (x < place.scrollLeft + 40) place.scrollLeft = x - 0.3 * place.clientWidth;
}

function pin(node) {
  state.pinned = node;
  if (state.tree) showParticle(state.tree, node);
  byId("unpin").hidden = node < 0;
  markChosen();
  drawOver();
}

/** Mark the sample of the pinned particle in the list. */
function markChosen() {
  const node = state.pinned;
  const from = state.tree && state.tree.population.first_row, end = state.tree && state.tree.first[state.tree.steps - 1];
  const chosen = node >= end && from !== null ? results[state.result].sample_of[from + node - end] : -1;
  for (const item of byId("sample-list").children) item.classList.toggle("chosen", Number(item.dataset.sample) === chosen);
}

/** Pin the heaviest particle that holds a sample, in its own population. */
function pinSample(sample) {
  const now = results[state.result], row = sample.rows.reduce((a, b) => (now.weights[b] > now.weights[a] ? b : a));
  const n = (each) => now.sizes[each.end - 1];
  const home = now.populations.findIndex((each) => each.first_row !== null && row >= each.first_row && row < each.first_row + n(each));
  if (home < 0) return;
  if (home !== state.population) { open(state.result, home); byId("population").value = home; }
  pin(state.tree.first[state.tree.steps - 1] + row - state.tree.population.first_row);
}

/** The next particle above or below the one that is pinned. */
function pinNeighbour(by) {
  if (!state.tree) return;
  const { first, steps, widest, slotAt } = state.tree, end = first[steps - 1];
  let place = state.pinned >= end ? state.tree.place[state.pinned] : by > 0 ? -1 : widest;
  for (place += by; place >= 0 && place < widest; place += by) {
    const node = slotAt[(steps - 1) * widest + place];
    if (node < 0 || (lit && !lit[node])) continue;
    pin(node);
    if (isStill()) return;
    const y = view.yOf(place), box = byId("tree");
    if (y < box.scrollTop + view.row || y > box.scrollTop + box.clientHeight - view.row) box.scrollTop = y - box.clientHeight / 2;
    return;
  }
}

/** What is left of the tree and of the samples under the filter and the search. */
function applyFilter() {
  const now = results[state.result], grown = state.tree, { show, least, island, query } = filter;
  const keepRow = (row, share) => share >= least && (show !== "alive" || share > 0) && (show !== "dead" || !(share > 0)) && (show !== "done" || (share > 0 && now.done[row]));
  const inSample = (row) => now.samples[now.sample_of[row]].lower.includes(query.toLowerCase());
  lit = found = null;
  if (grown) {
    const from = grown.population.first_row, end = grown.first[grown.steps - 1];
    const plain = show === "all" && !(least > 0) && !island;
    const onIsland = (node) => !island || islandOf(grown, node) === island;
    if (!plain) {
      const keep = (slot) => onIsland(end + slot) && keepRow(from === null ? -1 : from + slot, grown.ends[slot]);
      lit = markLines(grown, keep, (tip) => onIsland(tip) && !(least > 0) && (show === "dead" || show === "all"));
    }
    if (query) {
      const sought = searchTree(grown, query, (slot) => from !== null && inSample(from + slot));
      found = sought.found;
      lit = lit ? lit.map((kept, k) => kept & sought.lit[k]) : sought.lit;
      if (!plain) found = found.map((hit, k) => hit & lit[k]);
    }
  }
  listSamples(keepRow, inSample);
  ask();
}

function listSamples(keepRow, inSample) {
  const now = results[state.result], { island, query } = filter;
  const here = (row) => {
    if (!island || !state.tree || state.tree.population.first_row === null) return true;
    const slot = row - state.tree.population.first_row, end = state.tree.first[state.tree.steps - 1];
    return slot >= 0 && end + slot < state.tree.size && islandOf(state.tree, end + slot) === island;
  };
  const share = (row) => (state.tree && now.populations.length > 1 ? now.weights[row] * now.populations.filter((each) => each.first_row !== null).length : now.weights[row]);
  const keep = (sample) => sample.rows.some((row) => here(row) && keepRow(row, share(row)) && (!query || inSample(row)));
  const more = () => { state.limit += ROWS; applyFilter(); };
  showSamples(now, ranked, { keep, limit: state.limit, pin: pinSample, more, query });
  const matching = now.sample_of.reduce((sum, sample, row) => sum + (here(row) && keepRow(row, share(row)) && (!query || inSample(row)) ? 1 : 0), 0);
  const all = matching === now.sample_of.length && !query;
  byId("found").textContent = all ? "" : `${matching} of ${now.sample_of.length} particles`;
  markChosen();
}
