// What the reader does, by mouse, touch and keys.

function whenPointed(event) {
  const place = byId("tree"), bounds = place.getBoundingClientRect();
  const x = event.clientX - bounds.left + place.scrollLeft, y = event.clientY - bounds.top + place.scrollTop;
  return findNode(state.tree, view, x, y, state.step);
}

function listenToTree() {
  const place = byId("tree"), tip = byId("tip");
  place.addEventListener("pointermove", (event) => {
    const node = whenPointed(event);
    if (node === state.hovered) return;
    state.hovered = node;
    if (node < 0) tip.hidden = true;
    else showTip(tip, state.tree, node, event.clientX, event.clientY);
    drawOver();
  });
  place.addEventListener("pointerleave", () => { state.hovered = -1; tip.hidden = true; drawOver(); });
  place.addEventListener("click", (event) => {
    const node = whenPointed(event);
    if (node >= 0) pin(state.tree.heir[node]);
  });
  place.addEventListener("scroll", () => { tip.hidden = true; ask(); }, { passive: true });
  let wide = 0;
  new ResizeObserver(([entry]) => {
    if (entry.contentRect.width === wide) return;  // heights are what laying out changes itself
    wide = entry.contentRect.width;
    requestAnimationFrame(layAll);
  }).observe(byId("stage"));
  window.addEventListener("resize", layAll);
}

function listenToControls() {
  byId("play").addEventListener("click", () => (state.playing ? stop() : play()));
  byId("step").addEventListener("input", (event) => { stop(); goTo(Number(event.target.value)); follow(); });
  byId("zoom").addEventListener("input", (event) => zoomTo(Number(event.target.value)));
  byId("zoom-in").addEventListener("click", () => zoomTo(state.zoom + 0.25));
  byId("zoom-out").addEventListener("click", () => zoomTo(state.zoom - 0.25));
  byId("result").addEventListener("change", (event) => open(Number(event.target.value), 0));
  byId("population").addEventListener("change", (event) => open(state.result, Number(event.target.value)));
  byId("show").addEventListener("change", (event) => { filter.show = event.target.value; applyFilter(); });
  byId("island").addEventListener("change", (event) => { filter.island = Number(event.target.value); applyFilter(); });
  byId("least").addEventListener("input", (event) => { filter.least = Number(event.target.value) / 100 || 0; applyFilter(); });
  byId("search").addEventListener("input", (event) => { filter.query = event.target.value; state.limit = ROWS; applyFilter(); });
  byId("unpin").addEventListener("click", () => pin(-1));
  byId("scheme").addEventListener("click", () => recolour(isDark() ? "light" : "dark"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => recolour());
}

function zoomTo(zoom) {
  state.zoom = Math.max(0, Math.min(1, zoom));
  layAll();
}

function isDark() {
  return document.documentElement.dataset.scheme === "dark";
}

/** As the reader chose, or else as the system has it. */
function recolour(chosen) {
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.scheme = dark ? "dark" : "light";
  colours = readColours();
  byId("scheme").textContent = dark ? "Light" : "Dark";
  ask();
}

const KEYS = {
  " ": () => (state.playing ? stop() : play()),
  ArrowLeft: () => { stop(); goTo(state.step - 1); follow(); },
  ArrowRight: () => { stop(); goTo(state.step + 1); follow(); },
  Home: () => { stop(); goTo(0); follow(); },
  End: () => { stop(); goTo(Infinity); follow(); },
  ArrowUp: () => pinNeighbour(-1),
  ArrowDown: () => pinNeighbour(1),
  "+": () => zoomTo(state.zoom + 0.25),
  "=": () => zoomTo(state.zoom + 0.25),
  "-": () => zoomTo(state.zoom - 0.25),
  0: () => zoomTo(0),
  "/": () => byId("search").focus(),
};

function listenToKeys() {
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input:not([type=range]), select, textarea");
    if (event.key === "Escape") {
      if (typing) event.target.blur();
      byId("search").value = filter.query = "";
      byId("tip").hidden = true;
      pin(-1);
      applyFilter();
      return;
    }
    const pressed = event.target.matches("button, input") && event.key === " ";
    if (typing || pressed || event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
    event.preventDefault();
    KEYS[event.key]();
  });
}

recolour();
fillChoices(byId("result"), results.map((result, i) => `${i + 1}. ${result.title}`), 0);
open(0, 0);
listenToTree();
listenToControls();
listenToKeys();
document.body.dataset.ready = "true";
