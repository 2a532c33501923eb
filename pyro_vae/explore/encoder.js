// From x to z: a datum that is chosen, drawn or erased, q(z|x) and the posterior.

const infer = latest(async (follow) => {
  const found = await ask("infer", { datum: S.datum, plane: S.plane });
  S.q = found; S.post = null;
  if (follow) move(found.mean); else drawPlane();
  drawDatum(); drawNear(); showBound(); showStates();
  posterior();
});

const askPosterior = latest(async () => {
  const asked = S.datum, found = await ask("posterior", { datum: asked, plane: S.plane });
  if (asked !== S.datum) return; // it is of a datum that is no more
  if (found.grid) found.grid.levels = bytes(found.grid.density);
  S.post = found;
  drawPlane(); drawDatum(); drawNear(); showBound(); showStates();
});
const posterior = later(askPosterior, 200);

function edited(values, follow = true) { // a new datum, on which all else hangs
  S.datum = { ...S.datum, ...values };
  S.chosen = S.chosen.map(() => null); // as q has it, of the new one
  drawDatum();
  return infer(follow);
}

async function choose(number) {
  S.chosen = S.chosen.map(() => null);
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
  if (!S.datum) return;
  const { kind, shape } = S.state, filled = missing() && S.post && S.post.completion, second = filled || (S.q && S.q.reconstruction);
  $("datum-told").textContent = `x, datum ${S.number}${S.datum === S.original ? "" : " as changed"}`;
  $("second-told").textContent = filled ? "completed: mean of p(what is missing | what is known)" : `its reconstruction, the ${S.state.centre} of ${S.state.densities.decoder} at q's centre`;
  if (kind === "image") {
    drawImage($("datum"), S.datum.x.map(level), shape, 0.24);
    if (document.activeElement === $("datum")) cursorBox();
    if (second) drawValue($("second"), second);
  } else if (kind === "curve") {
    drawCurves($("datum"), [{ values: S.datum.x, dots: true, colour: "--ink" }], shape, S.wide);
    if (second) drawCurves($("second"), [{ values: S.datum.x, dots: true, colour: "--soft" }, { values: second, dashed: true, colour: "--q" }], shape, S.wide);
  } else if (kind === "table") showCells();
  $("gaps").textContent = !missing() ? "" : S.state.masks
    ? "Its encoder sees which values are not known: it was trained on data with gaps."
    : "It was trained without gaps: its encoder takes what is not known for its average, and its q need not widen. The true posterior and the completion are of what is known alone.";
}

function cursorBox() {
  const canvas = $("datum"), [h, w] = imageShape(S.state.shape), pen = canvas.getContext("2d"), size = canvas.clientWidth / w;
  pen.strokeStyle = css("--q"); pen.lineWidth = 2;
  pen.strokeRect((S.cursor % w) * size, Math.floor(S.cursor / w) * size, size, size);
}

function paint(places) { // of an image or curve [place, value], the pen's own value in an image; of its channels all
  if (!S.datum) return;
  const { kind, shape, range, whole } = S.state, x = S.datum.x.slice();
  if (kind === "image") {
    const [h, w, channels] = imageShape(shape), r = S.brush - 1;
    for (const [row, column] of places.map(([i]) => [Math.floor(i / w), i % w])) for (let a = row - Math.floor(r / 2); a <= row + Math.ceil(r / 2); a++) for (let b = column - Math.floor(r / 2); b <= column + Math.ceil(r / 2); b++) {
      if (a < 0 || b < 0 || a >= h || b >= w) continue;
      for (let c = 0; c < channels; c++) x[c * h * w + a * w + b] = S.pen === "erase" ? null : S.pen === "high" ? range[1] : range[0];
    }
  } else for (const [i, value] of places) x[i] = S.pen === "erase" ? null : whole ? Math.round(value) : value;
  edited({ x });
}

function stroke(from, to, w) { // the places of a line, which a quick pen would leave gaps in
  const place = (i) => [Math.floor(i / w), i % w], [a, b] = [place(from), place(to)];
  const steps = Math.max(1, ...[0, 1].map((k) => Math.abs(b[k] - a[k])));
  return Array.from({ length: steps }, (_, k) => {
    const [row, column] = [0, 1].map((d) => Math.round(b[d] + ((a[d] - b[d]) * k) / steps));
    return [row * w + column];
  });
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
    label.append("width", select);
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
  rows($("cells"), ["column", "value", "recon\u00adstruction", "com\u00adpleted"], columns.map((column, k) => {
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
  $("cells").classList.toggle("whole", !missing());
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
      if (g.open) field.append(new Option("not known", "", false, value === null)); // else the model was never asked so
    } else field = Object.assign(document.createElement("input"), { type: "number", step: "any", value: value === null ? "" : value, required: !g.open });
    field.addEventListener("change", () => field.checkValidity() && edited({ [g.site]: S.datum[g.site].map((v, j) => (j === k ? (field.value === "" ? null : +field.value) : v)) }, false).then(() => decode(S.u)));
    label.append(`given ${g.site}${g.size > 1 ? `[${k}]` : ""} =`, field);
    return label;
  })));
}

function drawNear() { // q and the posterior, close by
  if (!S.q || !S.state.dim) return;
  const { pen, width, height } = sized($("near"), 0.8, 0.25), mean = flat(S.q.mean), c = S.q.covariance;
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
  const { elbo, fit, kl } = S.q, { densities } = S.state, evidence = S.post ? S.post.evidence : null;
  const unknown = S.state.given.some((g) => g.classes && S.datum[g.site].includes(null)), as = (name) => densities[unknown ? `${name}_unknown` : name];
  const sums = elbo === null ? [] : [[[`E[${as("fit")}]`, fit], [`− KL(q‖${as("prior")})`, kl], ["= ELBO, nats", elbo]]];
  if (sums.length && S.state.exact && (!S.post || evidence !== null)) {
    sums.push([["ELBO", elbo], [`+ gap, KL(q‖${densities.posterior})`, evidence === null ? null : evidence - elbo], [`= log ${densities.evidence}`, evidence]]);
  }
  $("bound").replaceChildren(...sums.map((lines) => {
    const sum = document.createElement("table");
    for (const [name, value] of lines) {
      const row = sum.insertRow();
      row.insertCell().textContent = name;
      row.insertCell().textContent = value === null ? "…" : fixed(value);
    }
    return sum;
  }));
  $("truth-told").textContent = S.state.exact ? `${densities.posterior}, normalised on a grid` : `draws of ${densities.posterior}`;
  $("posterior-told").hidden = S.state.exact && S.post !== null && !missing(); // no draw is shown
  $("posterior-told").textContent = !S.post ? "The posterior is being computed." : S.post.moved
    ? `Draws of ${densities.posterior}: importance samples, of which ${count(S.post.effective)} of 1000 count, moved on by Hamiltonian Monte Carlo.`
    : `Draws of ${densities.posterior}${S.state.exact ? ", for the completion," : ""} by importance samples, of which ${count(S.post.effective)} of 1000 count.`;
}

const clamped = (value) => Math.max(S.state.range[0], Math.min(S.state.range[1], value));

function wireDatum() {
  const datum = $("datum");
  let painting = false, last = null;
  const touch = (event) => {
    const [x, y] = at(datum, event), { kind, shape } = S.state;
    if (kind === "image") {
      const [h, w] = imageShape(shape), place = (v, size, n) => Math.max(0, Math.min(n - 1, Math.floor((v / size) * n)));
      S.cursor = place(y, datum.clientHeight, h) * w + place(x, datum.clientWidth, w);
      if (S.cursor !== last) paint(stroke(last ?? S.cursor, S.cursor, w));
      last = S.cursor;
    } else if (kind === "curve") {
      const place = curvePlace(datum.clientWidth, datum.clientHeight, shape[0], S.wide), each = shape.length > 1 ? shape[1] : 1, t = place.time(x), value = clamped(place.value(y));
      let d = 0; // of several curves the one that is nearest
      for (let k = 1; k < each; k++) if (Math.abs((S.datum.x[t * each + k] ?? 1e9) - value) < Math.abs((S.datum.x[t * each + d] ?? 1e9) - value)) d = k;
      const [from, first] = last ?? [t, value], steps = Math.max(1, Math.abs(t - from));
      paint(Array.from({ length: steps }, (_, k) => [(t - Math.sign(t - from) * k) * each + d, value + ((first - value) * k) / steps]));
      last = [t, value];
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
      paint([[S.cursor, clamped((S.datum.x[S.cursor] ?? S.wide[0]) + (event.key === "ArrowUp" ? step : -step))]]);
    } else if (by) {
      event.preventDefault();
      S.cursor = (S.cursor + by + count) % count;
      drawDatum();
      say(`${kind === "image" ? `row ${Math.floor(S.cursor / size[1])}, column ${S.cursor % size[1]}` : `index ${S.cursor}`}: ${S.datum.x[S.cursor] ?? "not known"}`);
    } else if ([" ", "Enter", "Delete", "Backspace"].includes(event.key)) {
      event.preventDefault();
      const kept = S.pen;
      if (event.key.length > 5) S.pen = "erase";
      paint([[S.cursor, S.datum.x[S.cursor] ?? S.wide[0]]]);
      S.pen = kept;
    }
  });
  datum.addEventListener("blur", drawDatum);
  datum.addEventListener("focus", drawDatum);
}
