// Numbers and tokens as a reader wants them. Texts reach the page by textContent and fillText alone, never as markup.

const HEAT = [1, 2, 4, 7];

/** How surprising a token is: 0 below one nat or unknown, to 4 from seven nats on. */
function findHeat(nats) {
  return HEAT.filter((bound) => nats >= bound).length;
}

/** A probability in two figures, and no "0 %" for what has weight. */
function formatShare(share) {
  if (!(share > 0)) return "0 %";
  if (share < 0.001) return "<0.1 %";
  return share < 0.0995 ? `${(100 * share).toFixed(1)} %` : `${(100 * share).toFixed(0)} %`;
}

/** Nats with so many decimals; "unknown" and "−∞" for what is no number. */
function formatNats(value, decimals = 2) {
  if (value === null || value === undefined || Number.isNaN(value)) return "unknown";
  if (!Number.isFinite(value)) return value < 0 ? "−∞" : "∞";
  const text = value.toFixed(decimals).replace("-", "−");
  return Number(value.toFixed(decimals)) === 0 ? text.replace("−", "") : text;
}

/** A token on one line, without the space before it. */
function flatten(text) {
  return text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").trim();
}

/** An element with a class and a text. */
function make(tag, name = "", text = "") {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text) element.textContent = text;
  return element;
}

/** Tokens as spans, each as dark as it is surprising. */
function makeTokens(tokens) {
  return tokens.map(({ node, text, nats }) => {
    const span = make("span", `token heat-${findHeat(nats)}`, text);
    if (node !== undefined) span.dataset.node = node;
    span.title = Number.isNaN(nats) ? "probability unknown" : `${formatNats(nats)} nats, probability ${formatShare(Math.exp(-nats))}`;
    return span;
  });
}

const THEME = [
  "ink", "soft", "faint", "surface", "ribbon", "ribbon-soft", "dead", "dead-soft", "dead-ink", "dim", "accent", "accent-soft",
  "heat-1", "heat-2", "heat-3", "heat-4",
];

/** The colours of the page, for canvases. */
function readColours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(THEME.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

let family = "";

/** The page's own font at a size in pixels. */
function font(pixels, weight = 400) {
  family = family || getComputedStyle(document.body).fontFamily;
  return `${weight} ${pixels}px ${family}`;
}

/** A canvas of that size, sharp on every screen; what was on it is gone. */
function clear(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}
