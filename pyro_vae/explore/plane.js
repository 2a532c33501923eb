// The plane: the codes of the data, and the point that is dragged.

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
  const { dim, shares, names, latents } = S.state;
  if (names) return names;
  const called = (d) => (latents.find((l) => l.index === d) || { name: "(spread out)" }).name;
  if (S.plane || dim < 3) return (S.plane || [0, 1]).map(called);
  return shares.map((share, i) => `principal component ${i + 1} (${Math.round(100 * share)} %)`);
}

function spread(u, n, plane = planeNow()) { // a place; of a single latent, spread out over the other direction
  const p = flat(u, plane);
  return S.state.dim > 1 ? p : [p[0], ((n * 0.618034) % 1) - 0.5];
}

function setPlane() { // what hangs on it: places of all codes, and the box around them
  const plane = planeNow(), { codes, dim, latents } = S.state;
  S.places = codes.map((u, n) => spread(u, n, plane));
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
  if (!S.state.dim) return;
  const { pen, width, height } = sized($("plane"), 0.92, S.learning ? 0.42 : 0.5), canvas = $("plane"), view = viewOf(S.box, width, height);
  S.view = view;
  if (!S.ground || S.ground.width !== canvas.width) { // the dots, which a drag does not move
    S.ground = document.createElement("canvas");
    S.ground.width = canvas.width; S.ground.height = canvas.height;
    const inner = S.ground.getContext("2d"), scale = canvas.width / width;
    inner.setTransform(scale, 0, 0, scale, 0, 0);
    drawAxes(inner, view, width, height, axisNames());
    const draws = S.prior && $("show-prior").checked ? S.prior.draws.map((u, n) => spread(u, n)) : [];
    inner.globalAlpha = draws.length ? 0.35 : 0.75;
    const { labels } = S.state, radius = S.places.length > 600 ? 3 : 4.2;
    S.places.forEach((p, n) => (labels && labels[n] === null ? drawRing(inner, view, p, colourOf(n), radius) : drawDots(inner, view, [p], colourOf(n), radius)));
    inner.globalAlpha = 1;
    drawCrosses(inner, view, draws, css("--ink"), 4);
  }
  pen.save(); pen.setTransform(1, 0, 0, 1, 0, 0); pen.drawImage(S.ground, 0, 0); pen.restore();
  if (S.way) {
    pen.strokeStyle = css("--soft"); pen.setLineDash([7, 5]); pen.lineWidth = 2; pen.beginPath();
    pen.moveTo(...view.to(flat(S.way[0]))); pen.lineTo(...view.to(flat(S.way[1]))); pen.stroke(); pen.setLineDash([]);
  }
  pen.globalAlpha = 0.6; // the codes shine through
  if (S.post && S.post.grid) drawGrid(pen, view, S.post.grid);
  pen.globalAlpha = 1;
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

function wirePlane() {
  const plane = $("plane");
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
}
