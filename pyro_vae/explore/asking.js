// What is known, and what is asked: S is all that the page knows; what is drawn follows from it.

const fixed = (v, digits = 2) => (v === null ? "not finite" : String(Math.abs(v) < 1e7 ? v.toFixed(digits) : v.toExponential(digits)).replace(/^-(?=0(\.0*)?$)/, "").replace("-", "−"));
const $ = (id) => document.getElementById(id);
const S = { run: 0, learning: false, plane: null, u: null, datum: null, number: 0, original: null, q: null, post: null,
  decoded: null, chosen: [], thumbs: [], pen: "high", brush: 0, prior: null, cursor: 0, way: null, strip: [], history: [] };
const latencies = []; // milliseconds from an event that moves the point to its picture, drawn
window.explorer = { S, latencies };

// Questions

async function ask(name, values = {}) {
  if (FROZEN) return { pictures: values.u.map((u, i) => (FROZEN.grid.levels ? jointly(values.states[i]) : thawed(u))) };
  if (values.datum === null) throw new Error(""); // a run is being loaded
  const { state } = S;
  let answer;
  try {
    answer = await fetch(`/${name}`, { method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ token: TOKEN, run: S.run, learning: S.learning, ...values }) });
  } catch {
    throw new Error("The explorer has ended, or is busy beyond patience: start it again (pyro-vae explore RUN).");
  }
  const found = await answer.json();
  if (state !== S.state && name !== "state") throw new Error(""); // it is of a run that is no longer shown
  if (!answer.ok) throw new Error(found.error);
  return found;
}

// Asks one at a time; of those that come meanwhile the latest is asked next, and the others never. The promise is
// kept when nothing is left to ask.
function latest(work) {
  let running = null, next = null;
  const all = async () => {
    while (next) {
      const now = next;
      next = null;
      try { await work(...now); $("error").hidden = true; } catch (error) { tell(error.message); }
    }
    running = null;
  };
  return (...args) => { next = args; return (running ??= all()); };
}

function later(work, delay) { // once it has rested
  let timer = 0;
  return (...args) => { clearTimeout(timer); timer = setTimeout(() => work(...args), delay); };
}

function tell(message) { if (message) { $("error").textContent = message; $("error").hidden = false; } }
const say = later((text) => { $("said").textContent = text; }, 600);

// Of a frozen page: between four pictures of its grid.
function thawed(u) {
  const { low, high, side, pictures, size } = FROZEN.grid;
  const at = u.map((v, k) => Math.max(0, Math.min(side - 1.000001, ((v - low[k]) / (high[k] - low[k])) * (side - 1))));
  const [i, j] = at.map(Math.floor), [f, g] = [at[0] - i, at[1] - j];
  const corner = (a, b) => pictures.subarray(((j + b) * side + i + a) * size, ((j + b) * side + i + a + 1) * size);
  const corners = [[corner(0, 0), (1 - f) * (1 - g)], [corner(1, 0), f * (1 - g)], [corner(0, 1), (1 - f) * g], [corner(1, 1), f * g]];
  const nearest = corners.reduce((one, other) => (other[1] > one[1] ? other : one))[0];
  const columns = S.state.columns;
  return Array.from({ length: size }, (_, k) => (columns.length && columns[k].levels.length ? nearest[k] : corners.reduce((sum, [c, w]) => sum + w * c[k], 0)));
}

function jointly(levels) { // of choices alone: the picture of their joint value
  const { pictures, size } = FROZEN.grid, place = levels.reduce((sum, level, k) => sum * FROZEN.grid.levels[k] + level, 0);
  return Array.from(pictures.subarray(place * size, (place + 1) * size));
}

function thaw({ values, dtype }) {
  const found = bytes(values);
  return dtype === "uint8" ? found : new Float32Array(found.buffer);
}
