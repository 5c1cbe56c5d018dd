// What the file holds, unpacked. Arrays are little-endian bytes in base64: see packing.py.

const ARRAYS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array, f8: Float64Array };
const PLAIN = ["weights", "totals", "sample_of", "sizes", "changed", "parents"];
const BY_SLOT = ["levels", "log_probs", "increments", "log_weights", "rewritten"];

/** The typed array that `packed` stands for; null for what is not known. */
function unpack(packed) {
  if (!packed) return null;
  const text = atob(packed.data);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new ARRAYS[packed.kind](bytes.buffer);
}

/** Texts by number: `at(i)` is the text of entry i. Null for what is not known. */
function readWords(packed) {
  if (!packed) return null;
  const which = unpack(packed.which), words = packed.words;
  return { words, which, at: (i) => words[which[i]] };
}

/** A result with its arrays unpacked; entry offsets[t] + k of those by slot belongs to slot k of step t. */
function readResult(packed) {
  const arrays = Object.fromEntries([...PLAIN, ...BY_SLOT].map((name) => [name, unpack(packed[name])]));
  const traces = Object.fromEntries(Object.entries(packed.traces).map(([name, each]) => [name, unpack(each)]));
  const samples = packed.samples.map((sample) => ({ ...sample, lower: sample.text.toLowerCase() }));
  const [pieces, killers] = [readWords(packed.pieces), readWords(packed.killers)];
  return { ...packed, ...arrays, traces, samples, pieces, killers, tokens: readTokens(packed.tokens), offsets: addUp(arrays.sizes) };
}

/** The tokens of each sample by its row, where the steps do not tell them; else null. */
function readTokens(packed) {
  if (!packed) return null;
  const texts = readWords(packed.texts), logProbs = unpack(packed.log_probs), offsets = addUp(unpack(packed.lengths));
  return (row) => {
    const tokens = [];
    for (let i = offsets[row]; i < offsets[row + 1]; i++) if (texts.at(i)) tokens.push({ text: texts.at(i), nats: -logProbs[i] });
    return tokens;
  };
}

/** Where each of parts of these lengths begins, and where the last one ends. */
function addUp(lengths) {
  const offsets = new Uint32Array(lengths.length + 1);
  lengths.forEach((length, i) => { offsets[i + 1] = offsets[i] + length; });
  return offsets;
}
