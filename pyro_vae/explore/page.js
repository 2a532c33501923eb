// What the page does. S is all that it knows; what is drawn follows from it.

const fixed = (v, digits = 2) => (v === null ? "not finite" : String(v.toFixed(digits)).replace(/^-(?=0(\.0*)?$)/, "").replace("-", "−"));
const $ = (id) => document.getElementById(id);
const S = { run: 0, learning: false, plane: null, u: null, datum: null, number: 0, original: null, q: null, post: null,
  decoded: null, pen: "high", brush: 1, cursor: 0, way: null, strip: [], history: [] };
const latencies = []; // milliseconds from an event that moves the point to its picture, drawn
window.explorer = { S, latencies };

// Questions

async function ask(name, values = {}) {
  if (FROZEN) return { pictures: values.u.map(thawed) };
  let answer;
  try {
    answer = await fetch(`/${name}`, { method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ token: TOKEN, run: S.run, learning: S.learning, ...values }) });
  } catch {
    throw new Error("The explorer has ended, or is busy beyond patience: start it again (pyro-vae explore RUN).");
  }
  const found = await answer.json();
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

function tell(message) { $("error").textContent = message; $("error").hidden = false; }
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

// The plane

function planeNow() {
  const { origin, directions, dim } = S.state;
  if (!S.plane) return { origin, directions };
  return { origin: new Array(dim).fill(0), directions: S.plane.map((d) => origin.map((_, k) => +(k === d))) };
}

const dot = (a, b) => a.reduce((sum, v, k) => sum + v * b[k], 0);
const flat = (u, { origin, directions } = planeNow()) => directions.map((w) => dot(w, u) - dot(w, origin));

function moved(point) { // the latents, of which only the part in the plane is changed
  const { directions } = planeNow(), now = flat(S.u);
  return S.u.map((v, k) => v + directions[0][k] * (point[0] - now[0]) + directions[1][k] * (point[1] - now[1]));
}

function axisNames() {
  const { site, dim, shares, names } = S.state;
  if (names) return names;
  if (S.plane) return S.plane.map((d) => `${site}[${d}]`);
  if (dim < 3) return [`${site}[0]`, dim > 1 ? `${site}[1]` : "(spread out)"];
  return shares.map((share, i) => `principal component ${i + 1} (${Math.round(100 * share)} %)`);
}

function setPlane() { // what hangs on it: places of all codes, and the box around them
  const plane = planeNow(), { codes, dim, latents } = S.state;
  S.places = codes.map((u, n) => { const p = flat(u, plane); return dim > 1 ? p : [p[0], ((n * 0.618034) % 1) - 0.5]; });
  const ends = (d) => latents.find((l) => l.index === d) || { low: 0, high: 0 }; // what the prior reaches
  const [a, b] = (S.plane || [0, 1]).map(ends), all = dim > 2 && !S.plane ? [...S.places] : [...S.places, [a.low, dim > 1 ? b.low : -1.5], [a.high, dim > 1 ? b.high : 1.5]];
  const box = [0, 1].flatMap((k) => {
    let low = Infinity, high = -Infinity;
    for (const p of all) { low = Math.min(low, p[k]); high = Math.max(high, p[k]); }
    const margin = 0.08 * (high - low) + 0.2;
    return [low - margin, high + margin];
  });
  if (!S.learning || !S.box) S.box = box;
  else S.box = S.box.map((v, k) => (k % 2 ? Math.max(v, box[k]) : Math.min(v, box[k]))); // it does not jump while it learns
  S.ground = null;
}

function colourOf(n) {
  const { labels, numbers } = S.state, label = labels && labels[n];
  if (!labels) return css("--accent");
  if (label === null) return css("--soft");
  return numbers ? numberColour((label - S.ends[0]) / (S.ends[1] - S.ends[0] || 1)) : classColour(S.classes.indexOf(label), S.classes.length);
}

function drawPlane() {
  const canvas = $("plane"), ratio = 0.92, { pen, width, height } = sized(canvas, ratio), view = viewOf(S.box, width, height);
  S.view = view;
  if (!S.ground || S.ground.width !== canvas.width) { // the dots, which a drag does not move
    S.ground = document.createElement("canvas");
    S.ground.width = canvas.width; S.ground.height = canvas.height;
    const inner = S.ground.getContext("2d"), scale = canvas.width / width;
    inner.setTransform(scale, 0, 0, scale, 0, 0);
    drawAxes(inner, view, width, height, axisNames());
    inner.globalAlpha = 0.75;
    S.places.forEach((p, n) => drawDots(inner, view, [p], colourOf(n), S.places.length > 600 ? 3 : 4.2));
  }
  pen.save(); pen.setTransform(1, 0, 0, 1, 0, 0); pen.drawImage(S.ground, 0, 0); pen.restore();
  if (S.way) {
    pen.strokeStyle = css("--soft"); pen.setLineDash([7, 5]); pen.lineWidth = 2; pen.beginPath();
    pen.moveTo(...view.to(flat(S.way[0]))); pen.lineTo(...view.to(flat(S.way[1]))); pen.stroke(); pen.setLineDash([]);
  }
  if (S.post && S.post.grid) drawGrid(pen, view, S.post.grid);
  if (S.q && S.q.covariance) {
    for (const p of [0.5, 0.9]) drawEllipse(pen, view, flat(S.q.mean), S.q.covariance, p, css("--q"));
  }
  const [x, y] = view.to(flat(S.u));
  for (const [colour, line] of [[css("--paper"), 6], [css("--point"), 2.6]]) {
    pen.strokeStyle = colour; pen.lineWidth = line; pen.beginPath(); pen.arc(x, y, 9, 0, 7);
    for (const [a, b] of [[0, -1], [0, 1], [-1, 0], [1, 0]]) { pen.moveTo(x + 6 * a, y + 6 * b); pen.lineTo(x + 15 * a, y + 15 * b); }
    pen.stroke();
  }
}

function nearest(point) {
  let best = 0, least = Infinity;
  S.places.forEach((p, n) => { const d = Math.hypot(p[0] - point[0], p[1] - point[1]); if (d < least) [best, least] = [n, d]; });
  return [best, least];
}

function labelOf(n) {
  const { labels, classes, numbers } = S.state, label = labels && labels[n];
  if (!labels) return "";
  if (label === null) return "label not known";
  return numbers ? `label ${label}` : `class ${classes ? classes[label] : label}`;
}

// From z to x

const decode = latest(async (u, when) => {
  const { pictures } = await ask("decode", { u: [u], datum: S.datum });
  S.decoded = pictures[0];
  drawDecoded();
  if (when) {
    latencies.push(performance.now() - when);
    if (latencies.length > 5000) latencies.shift();
  }
});

let waiting = false;
function drawPoint() { // once a frame, however often it is moved
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; drawPlane(); showSliders(); });
}

function move(u, when) { // the point, and all that follows it
  S.u = u;
  drawPoint();
  const place = u.length > 1 ? flat(u).map((v) => fixed(v)).join(", ") : fixed(u[0]);
  $("where").textContent = `the point: ${place}`;
  say(`point at ${place}`);
  return decode(u, when);
}

function drawValue(canvas, picture) {
  const { kind, shape } = S.state;
  if (kind === "image") drawImage(canvas, typeof picture === "string" ? bytes(picture) : picture, shape);
  if (kind === "curve") drawCurves(canvas, [{ values: picture, colour: "--accent" }], shape, S.wide);
}

function drawDecoded() {
  const { kind, columns } = S.state, picture = S.decoded;
  if (!picture) return;
  if (kind === "image" || kind === "curve") drawValue($("decoded"), picture);
  else if (kind === "table") rows($("decoded-rows"), ["column", "at the point"], columns.map((c, k) => [named(c), shown(c, picture[k])]));
  else bars($("decoded-rows"), picture);
}

const named = (column) => column.name + (column.unit ? ` (${column.unit})` : "");

function shown(column, value) {
  if (value === null || value === undefined) return "not known";
  if (column.levels.length) return column.levels[Math.max(0, Math.min(column.levels.length - 1, Math.round(value)))];
  return String(+value.toPrecision(4));
}

function rows(place, head, cells) {
  const table = document.createElement("table"), top = table.createTHead().insertRow(), body = table.createTBody();
  for (const text of head) { const th = document.createElement("th"); th.scope = "col"; th.textContent = text; top.append(th); }
  for (const row of cells) {
    const line = body.insertRow();
    row.forEach((cell, k) => {
      const td = k ? line.insertCell() : line.appendChild(Object.assign(document.createElement("th"), { scope: "row" }));
      if (cell instanceof Node) td.append(cell); else td.textContent = cell;
    });
  }
  place.replaceChildren(table);
}

function bars(place, values) { // of counts: the largest, beside those of the datum
  const order = values.map((_, k) => k).sort((a, b) => values[b] - values[a]).slice(0, 20), names = S.state.columns;
  rows(place, ["highest means", "at the point", "counted in the datum"], order.map((k) => [
    names.length ? named(names[k]) : `number ${k}`, values[k].toPrecision(3),
    S.datum && S.datum.x[k] !== null ? String(S.datum.x[k]) : "not known"]));
}

// Sliders

function makeSliders() {
  const { latents, site, dim, names, mapped } = S.state, most = Math.max(0.01, ...latents.map((l) => l.kl || 0));
  const dead = latents.filter((l) => l.collapsed).length;
  const parts = [];
  if (latents.some((l) => l.kl !== null)) parts.push("KL in nats per datum, the largest first");
  else if (!names) parts.push("No KL of each latent alone: they are not independent in guide and prior");
  if (dead) parts.push(`${dead} collapsed (grey): they say nothing of x`);
  if (dim > latents.length) parts.push(`${latents.length} of ${dim} latents`);
  if (mapped) parts.push(`${site} lies on a part of the reals; shown is where it is mapped onto all of them`);
  $("sliders-told").textContent = parts.length ? `${parts.join(". ")}.` : "";
  $("sliders").replaceChildren(...latents.map((latent) => {
    const row = document.createElement("label"), name = names ? `PC ${latent.index + 1}` : `${site}[${latent.index}]`;
    row.className = `slider${latent.collapsed ? " collapsed" : ""}`;
    const input = Object.assign(document.createElement("input"), { type: "range", min: latent.low, max: latent.high, step: (latent.high - latent.low) / 200 });
    input.dataset.latent = latent.index;
    input.addEventListener("input", (event) => move(S.u.map((v, k) => (k === latent.index ? +input.value : v)), event.timeStamp));
    const kl = document.createElement("span"), bar = document.createElement("i");
    kl.className = "kl";
    if (latent.kl !== null) { bar.style.width = `${(100 * latent.kl) / most}%`; kl.append(bar, latent.collapsed ? "collapsed" : `KL ${latent.kl.toFixed(2)}`); }
    else if (latent.collapsed) kl.append("collapsed");
    row.append(name, input, document.createElement("output"), kl);
    return row;
  }));
}

function showSliders() {
  for (const input of $("sliders").querySelectorAll("input")) {
    const value = S.u[+input.dataset.latent];
    if (document.activeElement !== input) input.value = value;
    input.nextSibling.textContent = fixed(value);
  }
}

// Between two data

const between = latest(async (t, when) => {
  const codes = S.state.codes, [a, b] = [$("from"), $("to")].map((e) => codes[Math.max(0, Math.min(codes.length - 1, +e.value || 0))]);
  if (t !== null) S.way = [a, b];
  const at = (s) => a.map((v, k) => (1 - s) * v + s * b[k]);
  if (t !== null) move(at(t), when);
  if (!["image", "curve"].includes(S.state.kind)) { drawPlane(); return; }
  const { pictures } = await ask("decode", { u: Array.from({ length: 9 }, (_, i) => at(i / 8)), datum: S.datum });
  S.strip = pictures;
  drawStrip(); drawPlane();
});

function drawStrip() {
  const { kind, shape } = S.state;
  if (!S.strip.length) return;
  const [h, w] = kind === "image" ? imageShape(shape) : [0.62, 1], { pen, width } = sized($("strip"), h / w / 9), each = width / 9;
  S.strip.forEach((picture, i) => {
    let one;
    if (kind === "image") one = imageOf(typeof picture === "string" ? bytes(picture) : picture, shape);
    else { one = $("scrap") || Object.assign(document.createElement("canvas"), { width: 200, height: 124 }); small(one, picture, shape); }
    pen.imageSmoothingEnabled = kind === "curve";
    pen.drawImage(one, i * each + 1, 0, each - 2, (each - 2) * (h / w));
  });
}

function small(canvas, values, shape) { // a curve without its axes
  const pen = canvas.getContext("2d"), each = shape.length > 1 ? shape[1] : 1, place = curvePlace(200, 124, shape[0], S.wide);
  pen.clearRect(0, 0, 200, 124);
  pen.lineWidth = 4;
  for (let d = 0; d < each; d++) {
    pen.strokeStyle = each > 1 ? classColour(d, each) : css("--accent"); pen.beginPath();
    for (let t = 0; t < shape[0]; t++) pen.lineTo(place.x(t), place.y(values[t * each + d]));
    pen.stroke();
  }
}

// From x to z

const infer = latest(async (follow) => {
  const found = await ask("infer", { datum: S.datum, plane: S.plane });
  S.q = found; S.post = null;
  if (follow) move(found.mean); else drawPlane();
  drawDatum(); drawNear(); showBound();
  posterior();
});

const askPosterior = latest(async () => {
  const asked = S.datum, found = await ask("posterior", { datum: asked, plane: S.plane });
  if (asked !== S.datum) return; // it is of a datum that is no more
  if (found.grid) found.grid.levels = bytes(found.grid.density);
  S.post = found;
  drawPlane(); drawDatum(); drawNear(); showBound();
});
const posterior = later(askPosterior, 200);

function edited(values, follow = true) { // a new datum, on which all else hangs
  S.datum = { ...S.datum, ...values };
  drawDatum();
  return infer(follow);
}

async function choose(number) {
  S.number = Math.max(0, Math.min(S.state.codes.length - 1, number));
  $("number").value = S.number;
  if (FROZEN) return move(S.state.codes[S.number]);
  const { datum } = await ask("datum", { number: S.number });
  S.datum = S.original = datum;
  showGiven();
  $("label-of").textContent = labelOf(S.number);
  say(`datum ${S.number}, ${labelOf(S.number)}`);
  makeCells();
  return infer(true);
}

const missing = () => S.datum.x.some((v) => v === null);
const level = (v) => (v === null ? null : (255 * (v - S.state.range[0])) / (S.state.range[1] - S.state.range[0]));

function drawDatum() {
  const { kind, shape } = S.state, filled = missing() && S.post && S.post.completion, second = filled || (S.q && S.q.reconstruction);
  $("datum-told").textContent = `x, datum ${S.number}${S.datum === S.original ? "" : " as changed"}`;
  $("second-told").textContent = filled ? "completed: mean of p(what is missing | what is known)" : `its reconstruction, the ${S.state.centre} of p(x|z) at q's centre`;
  if (kind === "image") {
    drawImage($("datum"), S.datum.x.map(level), shape);
    if (document.activeElement === $("datum")) cursorBox();
    if (second) drawValue($("second"), second);
  } else if (kind === "curve") {
    drawCurves($("datum"), [{ values: S.datum.x, dots: true, colour: "--ink" }], shape, S.wide);
    if (second) drawCurves($("second"), [{ values: S.datum.x, dots: true, colour: "--soft" }, { values: second, dashed: true, colour: "--q" }], shape, S.wide);
  } else if (kind === "table") showCells();
  $("gaps").textContent = !missing() ? "" : S.state.masks
    ? "Its encoder sees which values are not known: it was trained on data with gaps."
    : "This program was trained without gaps: its encoder takes what is not known for its average, and q need not widen. The true posterior, and what completes the datum, are of what is known alone.";
}

function cursorBox() {
  const canvas = $("datum"), [h, w] = imageShape(S.state.shape), pen = canvas.getContext("2d"), size = canvas.clientWidth / w;
  pen.strokeStyle = css("--q"); pen.lineWidth = 2;
  pen.strokeRect((S.cursor % w) * size, Math.floor(S.cursor / w) * size, size, size);
}

function paint(i, value) { // one place of an image or curve; of its channels all
  const { kind, shape, range, whole } = S.state, x = S.datum.x.slice();
  if (kind === "image") {
    const [h, w, channels] = imageShape(shape), r = S.brush - 1, [row, column] = [Math.floor(i / w), i % w];
    for (let a = row - Math.floor(r / 2); a <= row + Math.ceil(r / 2); a++) for (let b = column - Math.floor(r / 2); b <= column + Math.ceil(r / 2); b++) {
      if (a < 0 || b < 0 || a >= h || b >= w) continue;
      for (let c = 0; c < channels; c++) x[c * h * w + a * w + b] = S.pen === "erase" ? null : S.pen === "high" ? range[1] : range[0];
    }
  } else x[i] = S.pen === "erase" ? null : whole ? Math.round(value) : value;
  edited({ x });
}

function makeTools() {
  const { kind } = S.state, editable = kind === "image" || kind === "curve";
  $("datum").classList.toggle("editable", editable);
  $("pictures").hidden = !editable;
  if (!editable) { $("tools").replaceChildren(); return; }
  const pens = kind === "image" ? { high: "paint", low: "wipe", erase: "not known" } : { high: "draw", erase: "not known" };
  const nodes = Object.entries(pens).map(([name, text]) => {
    const label = document.createElement("label"), input = Object.assign(document.createElement("input"), { type: "radio", name: "pen", value: name, checked: name === S.pen });
    input.addEventListener("change", () => { S.pen = name; });
    label.append(input, text);
    return label;
  });
  if (kind === "image") {
    const label = document.createElement("label"), select = document.createElement("select");
    for (const size of [1, 2, 3, 4, 6]) select.append(new Option(size, size, false, size === S.brush));
    select.addEventListener("change", () => { S.brush = +select.value; });
    label.append("pen's width", select);
    nodes.push(label, button("blank", () => edited({ x: S.datum.x.map(() => S.state.range[0]) })));
  }
  nodes.push(button("half not known", () => edited({ x: S.datum.x.map((v, k) => (half(k) ? null : v)) })));
  nodes.push(button("nothing known", () => edited({ x: S.datum.x.map(() => null) })));
  $("tools").replaceChildren(...nodes);
}

function half(k) { // the lower half of an image, the later one of a curve
  const { kind, shape } = S.state;
  if (kind !== "image") return k >= S.datum.x.length / 2;
  const [h, w] = imageShape(shape);
  return Math.floor((k % (h * w)) / w) >= h / 2;
}

function button(text, work) {
  const made = Object.assign(document.createElement("button"), { textContent: text, type: "button" });
  made.addEventListener("click", () => Promise.resolve(work()).catch((error) => tell(error.message)));
  return made;
}

function makeCells() { // of a table: a field for each column
  const { kind, columns } = S.state;
  $("cells").hidden = kind !== "table" && kind !== "bars";
  if (kind === "bars") $("cells").textContent = "Counts are not drawn by hand: choose another datum.";
  if (kind !== "table") return;
  rows($("cells"), ["column", "value", "reconstruction", "completed"], columns.map((column, k) => {
    let field;
    if (column.levels.length) {
      field = document.createElement("select");
      field.append(new Option(column.given ? "not known (it is given)" : "not known", ""));
      column.levels.forEach((text, i) => field.append(new Option(text, i)));
    } else field = Object.assign(document.createElement("input"), { type: "number", step: "any", placeholder: "not known" });
    field.setAttribute("aria-label", named(column));
    field.dataset.column = k;
    field.addEventListener("change", () => edited({ x: S.datum.x.map((v, j) => (j === k ? (field.value === "" ? null : +field.value) : v)) }));
    return [named(column) + (column.given ? ", given" : ""), field, "", ""];
  }));
}

function showCells() {
  const { columns } = S.state;
  $("cells").querySelectorAll("[data-column]").forEach((field) => {
    const k = +field.dataset.column, value = S.datum.x[k], line = field.closest("tr");
    if (document.activeElement !== field) field.value = value === null ? "" : columns[k].levels.length ? String(value) : +value.toPrecision(6);
    if (S.q) line.cells[2].textContent = columns[k].given ? "" : shown(columns[k], S.q.reconstruction[k]);
    const filled = value === null && S.post && S.post.completion;
    line.cells[3].textContent = filled ? shown(columns[k], S.post.completion[k]) : "";
    line.cells[3].className = filled ? "filled" : "";
  });
}

function showGiven() { // controls of labels and numbers that the model is given
  const { given, classes } = S.state;
  $("given").replaceChildren(...given.filter((g) => g.classes || g.size <= 8).flatMap((g) => Array.from({ length: g.size }, (_, k) => {
    const label = document.createElement("label"), value = S.datum[g.site][k];
    let field;
    if (g.classes) {
      field = document.createElement("select");
      for (let c = 0; c < g.classes; c++) field.append(new Option(g.site === "y" && classes ? classes[c] : c, c, false, c === value));
      field.append(new Option("not known", "", false, value === null));
    } else field = Object.assign(document.createElement("input"), { type: "number", step: "any", value: value === null ? "" : value });
    field.addEventListener("change", () => edited({ [g.site]: S.datum[g.site].map((v, j) => (j === k ? (field.value === "" ? null : +field.value) : v)) }, false).then(() => decode(S.u)));
    label.append(`given ${g.site}${g.size > 1 ? `[${k}]` : ""} =`, field);
    return label;
  })));
}

function drawNear() { // q and the posterior, close by
  if (!S.q) return;
  const { pen, width, height } = sized($("near"), 0.8), mean = flat(S.q.mean), c = S.q.covariance;
  const reach = [0, 1].map((k) => 2.6 * Math.sqrt(Math.max(c[k][k], 1e-8))), box = [mean[0] - reach[0], mean[0] + reach[0], mean[1] - reach[1], mean[1] + reach[1]];
  const widen = ([a, b]) => { box[0] = Math.min(box[0], a); box[1] = Math.max(box[1], a); box[2] = Math.min(box[2], b); box[3] = Math.max(box[3], b); };
  if (S.post && S.post.grid) {
    const { side, levels, low, high } = S.post.grid;
    levels.forEach((v, i) => { if (v > 8) widen([low[0] + (((i % side) + 0.5) / side) * (high[0] - low[0]), low[1] + ((Math.floor(i / side) + 0.5) / side) * (high[1] - low[1])]); });
  } else if (S.post) S.post.draws.forEach(widen);
  const margin = 0.06 * Math.max(box[1] - box[0], box[3] - box[2]), view = viewOf([box[0] - margin, box[1] + margin, box[2] - margin, box[3] + margin], width, height);
  drawAxes(pen, view, width, height, axisNames());
  if (S.post && S.post.grid) drawGrid(pen, view, S.post.grid);
  else if (S.post) drawDots(pen, view, S.post.draws, `rgba(${css("--truth")}, .55)`, 3.5);
  for (const p of [0.5, 0.9]) drawEllipse(pen, view, mean, c, p, css("--q"));
}

const count = (v) => (v < 10 ? v.toFixed(1) : Math.round(v));

function showBound() {
  if (!S.q) return;
  const { elbo, fit, kl } = S.q, grid = S.post && S.post.grid, parts = [];
  if (elbo !== null) parts.push(`ELBO ${fixed(elbo)} = E[log p(x|z)] ${fixed(fit)} − KL(q‖p(z)) ${fixed(kl)} nats.`);
  if (grid && grid.evidence !== null && elbo !== null) parts.push(`log p(x) ${fixed(grid.evidence)} on the grid: the gap, KL(q‖p(z|x)), is ${fixed(grid.evidence - elbo)}.`);
  $("bound").textContent = parts.join(" ");
  $("truth-told").textContent = S.state.exact ? "p(z|x), normalised on a grid" : "draws of p(z|x)";
  $("posterior-told").textContent = !S.post ? "The posterior is being computed." : S.post.moved
    ? `Draws of p(z|x): importance samples, of which ${count(S.post.effective)} of 1000 count, moved on by Hamiltonian Monte Carlo.`
    : `Draws of p(z|x)${S.state.exact ? ", for the completion," : ""} by importance samples, of which ${count(S.post.effective)} of 1000 count.`;
}

// It learns

const learn = latest(async (values) => {
  const found = await ask("learn", values);
  S.history.push(found.row);
  S.state.codes = found.codes; S.state.latents = found.latents; S.state.origin = found.origin; S.state.directions = found.directions;
  setPlane(); drawPlane(); makeSliders(); showSliders(); drawCharts();
  const { step, elbo, reconstruction, kl } = found.row;
  $("learnt").textContent = `step ${step}: ELBO ${fixed(elbo)} = fit ${fixed(reconstruction === null ? null : -reconstruction)} − KL ${fixed(kl)} nats per held-out datum (${found.told})`;
  say(`step ${step}, ELBO ${fixed(elbo)}`);
  await decode(S.u);
  await infer(false);
});

async function begin(anew) {
  play(false);
  S.learning = false;
  await ask("learn", { anew });
  S.learning = true; S.history = []; S.box = null;
  await load();
  $("stepping").hidden = false; $("charts").hidden = false;
  await learn({});
}

let playing = false;
function play(on) {
  playing = on;
  $("play").setAttribute("aria-pressed", String(on));
  $("play").textContent = on ? "Pause" : "Play";
}

async function keepOn() {
  while (playing && S.learning) await learn({ steps: 10 });
}

function drawCharts() {
  const steps = S.history.map((row) => row.step);
  drawChart($("chart-elbo"), "ELBO", steps, S.history.map((row) => row.elbo));
  drawChart($("chart-fit"), "fit, E[log p(x|z)]", steps, S.history.map((row) => (row.reconstruction === null ? null : -row.reconstruction)));
  drawChart($("chart-kl"), "KL(q‖p(z))", steps, S.history.map((row) => row.kl));
}

// The page

async function load() { // a run, all anew
  const state = FROZEN ? FROZEN.state : await ask("state");
  S.state = state; S.plane = null; S.q = S.post = null; S.way = null; S.strip = [];
  if (!S.learning) S.box = null;
  S.classes = [...new Set((state.labels || []).filter((v) => v !== null))].sort((a, b) => a - b);
  S.ends = S.classes.length ? [S.classes[0], S.classes[S.classes.length - 1]] : [0, 1];
  const room = 0.05 * (state.range[1] - state.range[0]);
  S.wide = [state.range[0] - room, state.range[1] + room];
  $("title").textContent = state.title + (S.learning ? ": a copy that learns" : "");
  document.title = `${state.title} – explorer`;
  const { parts } = state.runs[S.run] || { parts: {} };
  $("parts").textContent = Object.entries(parts).filter(([name]) => ["prior", "likelihood"].includes(name)).map(([name, text]) => `${name} ${text.length > 60 ? `${text.slice(0, 57)}…` : text}`).join(", ");
  if (!$("runs").options.length) state.runs.forEach((run, k) => $("runs").append(new Option(`${run.name}: ${run.parts.prior || ""}, ${run.parts.likelihood || ""}`, k)));
  $("runs-label").hidden = state.runs.length < 2;
  $("plane-tools").hidden = state.dim < 3;
  $("plane-kind").value = "principal"; $("pair").hidden = true;
  for (const k of [0, 1]) {
    $(`axis-${k}`).replaceChildren(...state.latents.map((l) => new Option(`${state.site}[${l.index}]`, l.index)));
    if (state.latents.length > 1) $(`axis-${k}`).value = state.latents[k].index;
  }
  $("decoded-told").textContent = `The ${state.centre} of p(x|z) at the point.`;
  for (const id of ["number", "from", "to"]) $(id).max = state.codes.length - 1;
  $("decoded").hidden = $("strip").hidden = !["image", "curve"].includes(state.kind);
  legend();
  S.u = state.codes[Math.min(S.number, state.codes.length - 1)];
  setPlane(); makeSliders(); makeTools();
  await choose(S.number);
  between(null);
}

function legend() {
  const { labels, numbers, classes } = S.state;
  if (!labels) { $("legend").replaceChildren(); return; }
  const entries = numbers ? [0, 0.5, 1].map((t) => [+(S.ends[0] + t * (S.ends[1] - S.ends[0])).toPrecision(3), numberColour(t)])
    : S.classes.length > 30 ? [] : S.classes.map((c, i) => [classes ? classes[c] : c, classColour(i, S.classes.length)]);
  $("legend").replaceChildren(...entries.map(([text, colour]) => {
    const span = Object.assign(document.createElement("span"), { textContent: text });
    span.style.setProperty("--c", colour);
    return span;
  }));
}

function redraw() {
  if (!S.state) return;
  S.ground = null;
  drawPlane(); drawDecoded(); drawStrip();
  if (!FROZEN && S.datum) { drawDatum(); drawNear(); if (S.history.length) drawCharts(); }
}

function replane() {
  const pair = $("plane-kind").value === "pair";
  $("pair").hidden = !pair;
  const axes = [+$("axis-0").value, +$("axis-1").value];
  if (pair && axes[0] === axes[1]) return tell("A plane is of two different latents.");
  S.plane = pair ? axes : null; S.box = null;
  setPlane(); drawPlane();
  return infer(false);
}

function at(canvas, event) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

function wire() {
  const plane = $("plane"), datum = $("datum"), safely = (work) => (...args) => Promise.resolve(work(...args)).catch((error) => tell(error.message));
  let start = null;
  plane.addEventListener("pointerdown", (event) => {
    plane.setPointerCapture(event.pointerId);
    start = at(plane, event);
  });
  plane.addEventListener("pointermove", (event) => {
    if (!start) return;
    const now = at(plane, event);
    if (start !== true && Math.hypot(now[0] - start[0], now[1] - start[1]) < 4) return; // a tap may shake
    start = true;
    move(moved(S.view.from(now)), event.timeStamp);
  });
  plane.addEventListener("pointerup", safely((event) => {
    const tapped = start && start !== true;
    start = null;
    if (!tapped) return null;
    const point = S.view.from(at(plane, event)), [n, distance] = nearest(point);
    return distance * S.view.scale < 9 ? choose(n) : move(moved(point), event.timeStamp);
  }));
  plane.addEventListener("pointercancel", () => { start = null; });
  plane.addEventListener("keydown", safely((event) => {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!by && event.key !== "Enter") return null;
    event.preventDefault();
    const now = flat(S.u), step = ((S.box[1] - S.box[0]) / 60) * (event.shiftKey ? 5 : 1);
    return by ? move(moved([now[0] + step * by[0], now[1] + step * by[1]]), event.timeStamp) : choose(nearest(now)[0]);
  }));

  let painting = false, last = null;
  const touch = (event) => {
    const [x, y] = at(datum, event), { kind, shape } = S.state;
    if (kind === "image") {
      const [h, w] = imageShape(shape), place = (v, size, n) => Math.max(0, Math.min(n - 1, Math.floor((v / size) * n)));
      S.cursor = place(y, datum.clientHeight, h) * w + place(x, datum.clientWidth, w);
      if (S.cursor !== last) paint(S.cursor);
      last = S.cursor;
    } else if (kind === "curve") {
      const place = curvePlace(datum.clientWidth, datum.clientHeight, shape[0], S.wide), each = shape.length > 1 ? shape[1] : 1, t = place.time(x), value = clamped(place.value(y));
      let d = 0; // of several curves the one that is nearest
      for (let k = 1; k < each; k++) if (Math.abs((S.datum.x[t * each + k] ?? 1e9) - value) < Math.abs((S.datum.x[t * each + d] ?? 1e9) - value)) d = k;
      paint(t * each + d, value);
    }
  };
  datum.addEventListener("pointerdown", (event) => { datum.setPointerCapture(event.pointerId); painting = true; last = null; touch(event); });
  datum.addEventListener("pointermove", (event) => { if (painting) for (const one of event.getCoalescedEvents?.() ?? [event]) touch(one); });
  for (const name of ["pointerup", "pointercancel"]) datum.addEventListener(name, () => { painting = false; });
  datum.addEventListener("keydown", (event) => {
    const { kind, shape } = S.state, size = kind === "image" ? imageShape(shape) : [1, S.datum.x.length];
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -size[1], ArrowDown: size[1] }[event.key], count = size[0] * size[1];
    const step = (S.wide[1] - S.wide[0]) / 20;
    if (kind === "curve" && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
      event.preventDefault();
      paint(S.cursor, clamped((S.datum.x[S.cursor] ?? S.wide[0]) + (event.key === "ArrowUp" ? step : -step)));
    } else if (by) {
      event.preventDefault();
      S.cursor = (S.cursor + by + count) % count;
      drawDatum();
      say(`${kind === "image" ? `row ${Math.floor(S.cursor / size[1])}, column ${S.cursor % size[1]}` : `index ${S.cursor}`}: ${S.datum.x[S.cursor] ?? "not known"}`);
    } else if ([" ", "Enter", "Delete", "Backspace"].includes(event.key)) {
      event.preventDefault();
      const kept = S.pen;
      if (event.key.length > 5) S.pen = "erase";
      paint(S.cursor, S.datum.x[S.cursor] ?? S.wide[0]);
      S.pen = kept;
    }
  });
  datum.addEventListener("blur", drawDatum);
  datum.addEventListener("focus", drawDatum);

  $("runs").addEventListener("change", safely(() => { leaveLearning(); S.run = +$("runs").value; return load(); }));
  for (const id of ["plane-kind", "axis-0", "axis-1"]) $(id).addEventListener("change", safely(replane));
  $("number").addEventListener("change", safely(() => choose(+$("number").value)));
  $("random").addEventListener("click", safely(() => choose(Math.floor(Math.random() * S.state.codes.length))));
  $("restore").addEventListener("click", safely(() => choose(S.number)));
  for (const id of ["from", "to"]) $(id).addEventListener("change", () => between(+$("along").value));
  $("along").addEventListener("input", (event) => between(+$("along").value, event.timeStamp));
  $("anew").addEventListener("click", safely(() => begin(true)));
  $("go-on").addEventListener("click", safely(() => begin(false)));
  $("step-1").addEventListener("click", () => learn({ steps: 1 }));
  $("step-10").addEventListener("click", () => learn({ steps: 10 }));
  $("play").addEventListener("click", () => { play(!playing); keepOn(); });
  $("stop").addEventListener("click", safely(() => { leaveLearning(); return load(); }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new ResizeObserver(redraw).observe(document.body);
  if (!FROZEN) {
    setInterval(() => ask("here").catch((error) => tell(error.message)), 60000);
    addEventListener("pagehide", () => navigator.sendBeacon("/leave", JSON.stringify({ token: TOKEN })));
    addEventListener("pageshow", (event) => { if (event.persisted) ask("here"); });
  }
}

const clamped = (value) => Math.max(S.state.range[0], Math.min(S.state.range[1], value));

function leaveLearning() {
  play(false);
  S.learning = false; S.history = []; S.box = null;
  $("stepping").hidden = $("charts").hidden = true; $("learnt").textContent = "";
}

for (const span of document.querySelectorAll("[style-c]")) span.style.setProperty("--c", `var(--${span.getAttribute("style-c")})`);
$("truth-told").style.setProperty("--c", "rgb(var(--truth))");
if (FROZEN) {
  document.body.classList.add("frozen");
  for (const part of document.querySelectorAll("[data-live]")) part.hidden = true;
  FROZEN.grid.pictures = thaw(FROZEN.grid);
}

function thaw({ values, dtype }) {
  const found = bytes(values);
  return dtype === "uint8" ? found : new Float32Array(found.buffer);
}

wire();
load().then(() => { document.body.dataset.ready = "true"; }).catch((error) => tell(error.message));
