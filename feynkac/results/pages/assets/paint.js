// The tree on its canvas. Lines of one look are one path, so that a hundred thousand of them are a few strokes.

const DEAD = 0, DIM = 1, ALIVE = 2;

/** Draw the part of the tree that `box` (left, top, width, height) shows, up to step `until`. */
function paintTree(context, tree, view, box, { until, mass, lit, found, colours }) {
  const lookOf = (node) => (lit && !lit[node] ? DIM : mass[node] > 0 ? ALIVE : DEAD);
  const tints = {
    [DEAD]: colours[view.words || view.dense ? "dead-soft" : "dead"],
    [DIM]: colours.dim,
    [ALIVE]: colours[view.words ? "ribbon-soft" : "ribbon"],
  };
  context.save();
  context.translate(-box.left, -box.top);
  paintGuides(context, tree, view, box, until, colours);
  if (view.dense) paintGround(context, tree, view, until, lookOf, tints);
  const groups = new Map();
  for (const line of listLines(tree, view, box, until, view.dense && ((node) => lookOf(node) === ALIVE))) {
    const look = lookOf(line.node);
    const width = look === ALIVE ? view.thin + Math.round(2 * view.thick * mass[line.node]) / 2 : view.thin;
    const key = look * 1000 + width;
    if (!groups.has(key)) groups.set(key, { look, width, path: new Path2D() });
    traceLine(groups.get(key).path, line, view, view.sink(width));
  }
  context.lineJoin = "round";
  for (const [, { look, width, path }] of [...groups].sort((a, b) => a[0] - b[0])) {
    context.strokeStyle = tints[look];
    context.lineWidth = width;
    context.stroke(path);
  }
  if (found) paintFinds(context, tree, view, box, until, found, colours);
  if (view.words) paintWords(context, tree, view, box, until, colours, (node) => Number(lookOf(node) === ALIVE));
  context.restore();
}

/** Where lines stand too close to be told apart, those that matter less are one picture with a pixel for each node. */
function paintGround(context, tree, view, until, lookOf, tints) {
  const canvas = document.createElement("canvas"), { steps, widest, slotAt } = tree;
  canvas.width = until + 1;
  canvas.height = widest;
  const pen = canvas.getContext("2d"), picture = pen.createImageData(until + 1, widest);
  const dots = new Uint32Array(picture.data.buffer), inks = { [DEAD]: readInk(tints[DEAD]), [DIM]: readInk(tints[DIM]) };
  for (let t = 0; t <= Math.min(until, steps - 1); t++) {
    for (let lane = 0; lane < widest; lane++) {
      const node = slotAt[t * widest + lane];
      if (node >= 0) dots[lane * (until + 1) + t] = inks[lookOf(node)] || 0;
    }
  }
  pen.putImageData(picture, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(canvas, view.leftOf(0), view.yOf(-0.5), view.column * (until + 1), view.row * widest);
}

/** A colour "#rrggbb" as the number that a picture has for it. */
function readInk(colour) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return (255 << 24 | b << 16 | g << 8 | r) >>> 0;
}

/** Where a step began with a resampling, and where one island ends and the next begins. */
function paintGuides(context, tree, view, box, until, colours) {
  const { islands, resampled } = tree.result, [from, to] = seenSteps(view, box, until);
  context.fillStyle = colours.faint;
  for (const step of resampled) {
    const t = step - tree.population.start;
    if (t >= from && t <= to && view.column >= 5) context.fillRect(view.leftOf(t), box.top, 1, box.height);
  }
  for (let i = 1; i < islands; i++) {
    context.fillRect(box.left, view.yOf((i * tree.widest) / islands - 0.5) - 0.5, box.width, 1);
  }
}

/** A line for each slot from one change of the tree to the next: where it comes from, and how far it goes. */
function* listLines(tree, view, box, until, keep) {
  const { events, first, parent, place } = tree;
  const [from, to] = seenSteps(view, box, until);
  for (let e = 0; e < events.length; e++) {
    const start = events[e], end = Math.min(events[e + 1] ?? tree.steps, until + 1);
    if (start > to || end <= from || start >= end) continue;
    for (let node = first[start]; node < first[start + 1]; node++) {
      if (keep && !keep(node)) continue;
      const y = view.yOf(place[node]), before = start ? view.yOf(place[parent[node]]) : y;
      if (Math.max(y, before) < box.top - 20 || Math.min(y, before) > box.top + box.height + 20) continue;
      yield { node, before, y, start, end };
    }
  }
}

/** The first and the last step in sight. */
function seenSteps(view, box, until) {
  const step = (x) => Math.floor((x - MARGIN.left) / view.column);
  return [Math.max(0, step(box.left)), Math.min(until, step(box.left + box.width))];
}

/** A bend where slots change, straight on to the end. */
function traceLine(path, line, view, sink) {
  const { start, end } = line, x = view.leftOf(start), before = line.before + sink, y = line.y + sink;
  path.moveTo(x, before);
  if (before !== y) {
    if (view.link < 5) path.lineTo(x + view.link, y);
    else path.bezierCurveTo(x + 0.5 * view.link, before, x + 0.5 * view.link, y, x + view.link, y);
  }
  path.lineTo(view.leftOf(end), y);
}

/** A dot where a search was first met. */
function paintFinds(context, tree, view, box, until, found, colours) {
  const path = new Path2D();
  for (let k = 0; k < tree.first[until + 1]; k++) {
    if (!found[k] || (tree.parent[k] >= 0 && found[tree.parent[k]])) continue;
    const x = view.leftOf(tree.stepOf[k]) + view.link, y = view.yOf(tree.place[k]);
    if (x < box.left || x > box.left + box.width || y < box.top || y > box.top + box.height) continue;
    path.moveTo(x + 3.5, y);
    path.arc(x, y, 3.5, 0, 7);
  }
  context.fillStyle = colours.accent;
  context.fill(path);
}

/** The words in sight, on a tint where they are surprising. */
function paintWords(context, tree, view, box, until, colours, strengthOf) {
  const [from, to] = seenSteps(view, box, until);
  const rows = [Math.floor((box.top - MARGIN.top) / view.row), Math.ceil((box.top + box.height - MARGIN.top) / view.row)];
  prepareWords(context);
  for (let t = from; t <= to; t++) {
    for (let place = Math.max(0, rows[0]); place < Math.min(tree.widest, rows[1]); place++) {
      const node = tree.slotAt[t * tree.widest + place];
      if (node >= 0) paintWord(context, tree, view, node, colours, strengthOf(node));
    }
  }
}

function prepareWords(context) {
  context.font = font(WORD.font);
  context.textBaseline = "middle";
  context.direction = "ltr";
}

function paintWord(context, tree, view, node, colours, strength) {
  const room = view.column - view.link - 4;
  const text = shortenWord(flatten(pieceOf(tree, node)), room, view.measure);
  if (!text) return;
  const x = view.leftOf(tree.stepOf[node]) + view.link + 3, y = view.yOf(tree.place[node]) - 1;
  const heat = findHeat(surpriseOf(tree, node));
  if (heat && strength) {
    context.fillStyle = colours[`heat-${heat}`];
    context.beginPath();
    context.roundRect(x - 3, y - 8.5, Math.min(view.measure(text), room) + 6, 17, 4);
    context.fill();
  }
  context.fillStyle = strength ? colours.ink : colours["dead-ink"];
  context.fillText(text, x, y + 0.5);
}

/** As much of a word as has room. */
function shortenWord(text, room, measure) {
  if (measure(text) <= room) return text;
  let length = Math.min(text.length, Math.floor(room / 3));
  const letters = Array.from(text.slice(0, length));
  while (letters.length > 1 && measure(letters.join("") + "…") > room) letters.pop();
  return letters.join("") + "…";
}

/** A path drawn over the tree, as wide as its share of the weight, its words included. */
function paintPath(context, tree, view, box, path, { colour, under, mass, colours, until }) {
  const shown = path.filter((node) => tree.stepOf[node] <= until), [from, to] = seenSteps(view, box, until);
  context.save();
  context.translate(-box.left, -box.top);
  context.lineJoin = "round";
  context.strokeStyle = view.words ? under : colour;
  let line = new Path2D(), thick = 0;
  const flush = () => { context.lineWidth = thick; context.stroke(line); line = new Path2D(); };
  shown.forEach((node, i) => {
    const t = tree.stepOf[node], y = view.yOf(tree.place[node]);
    if (t < from - 1 || t > to) return;
    const width = Math.max(view.words ? 3 : 2, view.thin + Math.round(2 * view.thick * mass[node]) / 2);
    if (width !== thick) { flush(); thick = width; }
    traceLine(line, { before: i ? view.yOf(tree.place[shown[i - 1]]) : y, y, start: t, end: t + 1 }, view, view.sink(width));
  });
  flush();
  prepareWords(context);
  for (const node of shown) {
    if (view.words && tree.stepOf[node] >= from && tree.stepOf[node] <= to) paintWord(context, tree, view, node, colours, 1);
  }
  context.restore();
}

/** Behind the last step: the weight of each particle, or its picture. */
function paintEnds(context, tree, view, box, { until, colours, lit, pictures }) {
  const shares = findShares(tree, until), start = tree.first[until];
  const most = Math.max(...shares, 1e-9), left = view.leftOf(until + 1) + 8;
  context.save();
  context.translate(-box.left, -box.top);
  context.font = font(11);
  context.textBaseline = "middle";
  shares.forEach((share, i) => {
    const node = start + i, y = view.yOf(tree.place[node]);
    if (y < box.top - 30 || y > box.top + box.height + 30) return;
    const faded = lit && !lit[node], picture = pictures && pictures(i);
    const length = 34 * share / most, thick = Math.max(1, Math.min(10, view.row - 1));
    context.fillStyle = faded ? colours.dim : colours.ribbon;
    context.fillRect(left, y - thick / 2, length, thick);
    if (picture) {
      const side = Math.min(40, view.row - 3);
      context.imageSmoothingEnabled = picture.naturalHeight > side;
      context.globalAlpha = share > 0 && !faded ? 1 : 0.3;
      context.drawImage(picture, left + 38, y - side / 2, side * picture.naturalWidth / picture.naturalHeight, side);
      context.globalAlpha = 1;
    } else if (view.row >= 12 && share > 0) {
      context.fillStyle = faded ? colours.dim : colours.soft;
      context.fillText(formatShare(share), left + length + 5, y + 0.5);
    }
  });
  context.restore();
}
