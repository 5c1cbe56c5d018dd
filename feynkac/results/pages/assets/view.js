// Where everything of a tree stands: steps from left to right, slots from top to bottom, at a zoom from 0 to 1.

const MARGIN = { left: 14, top: 10, right: 92, bottom: 10 };
const WORD = { row: 27, least: 44, most: 150, font: 12.5 };

/** The length of `text` in the page's font, remembered. */
function makeRuler() {
  const context = document.createElement("canvas").getContext("2d"), known = new Map();
  context.font = font(WORD.font);
  return (text) => {
    if (!known.has(text)) known.set(text, context.measureText(text).width);
    return known.get(text);
  };
}

/** The width of a column in which nine of ten words have room. */
function findWordWidth(tree, measure) {
  if (!tree.result.pieces) return WORD.least;
  const lengths = [...new Set(tree.result.pieces.which.subarray(tree.base, tree.base + tree.size))]
    .map((i) => measure(flatten(tree.result.pieces.words[i]).slice(0, 40)))
    .sort((a, b) => a - b);
  const most = lengths[Math.floor(0.9 * (lengths.length - 1))] || 0;
  return Math.min(WORD.most, Math.max(WORD.least, most + 26));
}

/** Columns and rows: at zoom 0 all is seen at once, at zoom 1 words can be read. */
function lay(tree, width, height, zoom, measure) {
  const pictures = tree.result.kind === "images";
  const fitColumn = (width - MARGIN.left - MARGIN.right) / tree.steps;
  const fitRow = (height - MARGIN.top - MARGIN.bottom) / tree.widest;
  const readColumn = Math.max(fitColumn, pictures ? 24 : findWordWidth(tree, measure));
  const readRow = pictures ? 44 : WORD.row;
  const row = Math.min(fitRow, readRow) * Math.pow(readRow / Math.min(fitRow, readRow), zoom);
  const column = fitColumn * Math.pow(readColumn / fitColumn, zoom);
  const words = Boolean(tree.result.pieces) && column >= 26 && row >= 13;
  return {
    column, row, words, pictures,
    dense: row < 6 || column < 6,
    link: Math.min(column, words ? Math.min(18, 0.4 * column) : 40),
    width: MARGIN.left + column * tree.steps + MARGIN.right,
    height: MARGIN.top + row * tree.widest + MARGIN.bottom,
    thin: Math.min(1, row / 3),
    thick: words ? row - 6 : Math.min(16, Math.max(5, row * 0.8)),
    leftOf: (t) => MARGIN.left + t * column,
    yOf: (place) => MARGIN.top + (place + 0.5) * row,
    // Below words a line stands on the bottom of its row and grows upwards: thin ones underline, thick ones are a ground.
    sink: (thickness) => (words ? 0.5 * row - 3 - thickness / 2 : 0),
  };
}

/** The node below a point of the tree, up to step `until`; -1 for none. */
function findNode(tree, view, x, y, until) {
  const t = Math.min(Math.floor((x - MARGIN.left) / view.column), until);
  const place = Math.floor((y - MARGIN.top) / view.row);
  if (t < 0 || place < 0 || place >= tree.widest || x > view.leftOf(until + 1) + MARGIN.right) return -1;
  return tree.slotAt[t * tree.widest + place];
}
