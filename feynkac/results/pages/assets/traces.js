// How the run went below its tree, over the same steps: effective sample size, evidence, levels.

const PLOT = { height: 66, gap: 20, axis: 18 };

/** The plots of a tree: a name, the steps' values, their range. */
function listPlots(tree) {
  const { start, end } = tree.population, traces = tree.result.traces;
  const cut = (values) => values && values.subarray(start, end);
  const plots = [];
  if (traces.ess) {
    const known = { name: "effective sample size", values: cut(traces.ess), range: [0, tree.widest], area: true, decimals: 1 };
    plots.push({ ...known, other: { name: "first ancestors", values: cut(traces.ancestors) }, marks: tree.result.resampled });
  }
  // About a given path the estimate is no estimate of the evidence (particle Gibbs).
  if (traces.log_evidence && tree.result.populations.length === 1) {
    plots.push({ name: "log evidence so far, nats", values: cut(traces.log_evidence), decimals: 2 });
  }
  const levels = tree.result.levels && sumLevels(tree);
  if (levels) plots.push({ name: "level: the weight foreseen, nats", ...levels, decimals: 2 });
  return plots;
}

/** The median of the levels of the living at each step, and where 80 % of them lie; null if no level ever differs. */
function sumLevels(tree) {
  const values = [], low = [], high = [];
  let told = false;
  for (let t = 0; t < tree.steps; t++) {
    const own = tree.result.levels.slice(tree.base + tree.first[t], tree.base + tree.first[t + 1]);
    const alive = own.filter(Number.isFinite).sort();
    const at = (q) => (alive.length ? alive[Math.round(q * (alive.length - 1))] : NaN);
    told = told || alive.some((level) => level !== 0);
    values.push(at(0.5));
    low.push(at(0.1));
    high.push(at(0.9));
  }
  return told ? { values, low, high } : null;
}

/** Draw all plots, and where the pointer or the player stands. */
function paintTraces(canvas, tree, plots, view, box, { until, hovered, colours }) {
  const context = clear(canvas, box.width, plots.length * (PLOT.height + PLOT.gap) + PLOT.axis);
  const x = (t) => view.leftOf(t + 0.5) - box.left;
  plots.forEach((plot, i) => {
    const top = i * (PLOT.height + PLOT.gap) + PLOT.gap;
    const range = plot.range || findRange(plot);
    const y = (value) => top + PLOT.height - 3 - ((value - range[0]) / (range[1] - range[0] || 1)) * (PLOT.height - 8);
    context.save();
    context.beginPath();
    context.rect(0, top - 2, box.width, PLOT.height + 4);
    context.clip();
    paintPlot(context, plot, x, y, until, colours, tree, view);
    context.restore();
    paintFrame(context, plot, top, view, box, colours, hovered ?? until);
  });
  paintAxis(context, tree, view, box, plots.length * (PLOT.height + PLOT.gap) + 13, x, colours);
  const at = x(hovered ?? until);
  context.fillStyle = colours.accent;
  context.globalAlpha = 0.5;
  context.fillRect(at - 0.5, 6, 1, plots.length * (PLOT.height + PLOT.gap) - 6);
  context.globalAlpha = 1;
}

/** Numbers of steps, no closer to each other than can be read. */
function paintAxis(context, tree, view, box, y, x, colours) {
  const every = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((each) => each * view.column >= 46) || 5000;
  context.font = font(11);
  context.fillStyle = colours.soft;
  context.textAlign = "center";
  for (let t = 0; t < tree.steps; t += every) {
    if (x(t) > 14 && x(t) < box.width - 50) context.fillText(t, x(t), y);
  }
  context.textAlign = "right";
  context.fillText("step", box.width - 4, y);
  context.textAlign = "left";
}

function findRange(plot) {
  const values = [...plot.values, ...(plot.low || []), ...(plot.high || [])].filter(Number.isFinite);
  if (!values.length) return [0, 1];
  const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
  return low === high ? [low - 1, high + 1] : [low, high];
}

function paintPlot(context, plot, x, y, until, colours, tree, view) {
  const trace = (values, path = new Path2D(), backwards = false) => {
    let joined = backwards;
    for (let i = 0; i <= until; i++) {
      const t = backwards ? until - i : i;
      if (!Number.isFinite(values[t])) { joined = backwards; continue; }
      if (joined) path.lineTo(x(t), y(values[t]));
      else path.moveTo(x(t), y(values[t]));
      joined = true;
    }
    return path;
  };
  if (plot.low) {
    context.fillStyle = colours["ribbon-soft"];
    context.fill(trace(plot.low, trace(plot.high), true));
  }
  if (plot.area) {
    const path = trace(plot.values);
    path.lineTo(x(until), y(0));
    path.lineTo(x(0), y(0));
    context.fillStyle = colours["ribbon-soft"];
    context.fill(path);
  }
  context.lineJoin = "round";
  context.lineWidth = 1;
  context.strokeStyle = colours.soft;
  if (plot.other && plot.other.values) context.stroke(trace(plot.other.values));
  context.lineWidth = 1.6;
  context.strokeStyle = colours.ribbon;
  context.stroke(trace(plot.values));
  // A resampling opens its step: what it answered is the population of the step before.
  context.fillStyle = colours.ribbon;
  for (const step of view.column < 6 ? [] : plot.marks || []) {
    const t = step - tree.population.start - 1;
    if (t < 0 || t > until || t >= tree.steps) continue;
    context.beginPath();
    context.arc(x(t), y(plot.values[t]), 2.4, 0, 7);
    context.fill();
  }
}

function paintFrame(context, plot, top, view, box, colours, step) {
  context.fillStyle = colours.faint;
  context.fillRect(0, top + PLOT.height, box.width, 1);
  context.font = font(11);
  context.textBaseline = "alphabetic";
  context.textAlign = "left";
  context.fillStyle = colours.soft;
  context.fillText(plot.name, 2, top - 6);
  let from = context.measureText(plot.name).width + 10;
  context.fillStyle = colours.ink;
  context.font = font(11, 600);
  const value = formatNats(plot.values[step], plot.decimals);
  context.fillText(value, from, top - 6);
  from += context.measureText(value).width + 12;
  context.font = font(11);
  context.fillStyle = colours.soft;
  if (plot.marks && plot.marks.length && view.column >= 6) context.fillText("● resampled next", from, top - 6);
  if (plot.other && plot.other.values) {
    context.textAlign = "right";
    context.fillText(`${plot.other.name} ${plot.other.values[step]}`, box.width - 4, top - 6);
  }
  context.textAlign = "left";
}
