// From z to x: what a point decodes to, by itself, by each latent, and on the way between two data.

const decode = latest(async (u, when) => {
  const { pictures } = await ask("decode", { u: [u], datum: S.datum, ...asChosen(1) });
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
  requestAnimationFrame(() => { waiting = false; drawPlane(); showSliders(); showStates(); });
}

const prior = latest(async () => { // draws that the page shows, or moves the point to, one after another
  const found = await ask("prior", { datum: S.datum });
  S.prior = { draws: found.draws, states: found.states, next: 0 };
  S.ground = null;
  drawPlane();
});

async function draw(when) {
  if (!S.prior) await prior();
  const { draws, states } = S.prior, i = S.prior.next++ % draws.length;
  S.chosen = S.chosen.map((_, k) => states[i][k]);
  return move(draws[i], when);
}

function move(u, when) { // the point, and all that follows it
  S.u = u;
  drawPoint();
  if (!u.length) return goThere();
  const place = u.length > 1 ? flat(u).map((v) => fixed(v)).join(", ") : fixed(u[0]);
  $("where").textContent = `the point: ${place}`;
  say(`point at ${place}`);
  return decode(u, when);
}

function drawValue(canvas, picture) {
  const { kind, shape } = S.state;
  if (kind === "image") drawImage(canvas, typeof picture === "string" ? bytes(picture) : picture, shape, canvas.id === "decoded" ? 0.36 : 0.24);
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
  const counted = (k) => (S.datum.x[k] !== null ? String(S.datum.x[k]) : "not known");
  rows(place, ["highest means", "at the point", ...(S.datum ? ["counted in the datum"] : [])], order.map((k) => [
    names.length ? named(names[k]) : `number ${k}`, values[k].toPrecision(3), ...(S.datum ? [counted(k)] : [])]));
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
    const row = document.createElement("label");
    row.className = `slider${latent.collapsed ? " collapsed" : ""}`;
    const input = Object.assign(document.createElement("input"), { type: "range", min: latent.low, max: latent.high, step: (latent.high - latent.low) / 200 });
    input.dataset.latent = latent.index;
    input.addEventListener("input", (event) => move(S.u.map((v, k) => (k === latent.index ? +input.value : v)), event.timeStamp));
    const kl = document.createElement("span"), bar = document.createElement("i");
    kl.className = "kl";
    if (latent.kl !== null) { bar.style.width = `${(100 * latent.kl) / most}%`; kl.append(bar, latent.collapsed ? "collapsed" : `KL ${latent.kl.toFixed(2)}`); }
    else if (latent.collapsed) kl.append("collapsed");
    row.append(latent.name, input, document.createElement("output"), kl);
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
  for (const id of ["from", "to"]) $(`${id}-label`).textContent = labelOf(Math.max(0, Math.min(codes.length - 1, +$(id).value || 0)));
  if (!S.state.dim) return;
  if (t !== null) S.way = [a, b];
  const at = (s) => a.map((v, k) => (1 - s) * v + s * b[k]);
  if (t !== null) move(at(t), when);
  if (!["image", "curve"].includes(S.state.kind)) { drawPlane(); return; }
  const { pictures } = await ask("decode", { u: Array.from({ length: 9 }, (_, i) => at(i / 8)), datum: S.datum, ...asChosen(9) });
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
