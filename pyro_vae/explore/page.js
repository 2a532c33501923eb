// The page: a run that is loaded, and what its controls do.

async function load(run = S.run) { // all anew, and at once, so that nothing of another run is asked or drawn
  const before = { datum: S.datum === S.original ? null : S.datum, shape: S.state ? S.state.shape.join() : "" };
  const state = FROZEN ? FROZEN.state : await ask("state", { run });
  Object.assign(S, { run, state, plane: null, box: null, datum: null, original: null, decoded: null, q: null, post: null, prior: null, way: null, strip: [] });
  if (!S.brush || state.shape.join() !== before.shape) S.brush = [1, 1, 2, 2, 3, 4, 4][Math.min(6, Math.floor((state.shape[state.shape.length - 1] || 1) / 10))];
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
    $(`axis-${k}`).replaceChildren(...state.latents.map((l) => new Option(l.name, l.index)));
    if (state.latents.length > 1) $(`axis-${k}`).value = state.latents[k].index;
  }
  $("draw").textContent = `draw z from ${state.densities.drawn}`;
  $("prior-told").textContent = `show draws of ${state.densities.drawn}, ×`;
  $("decoded-told").textContent = `The ${state.centre} of ${state.densities.decoder} at the ${state.dim ? "point" : "values chosen"}.${state.weights ? ` Its weights w are latent, and here at their mean${FROZEN ? "" : ", as in the ELBO and the posterior"}.` : ""}${state.held?.length ? ` Given throughout, as of datum 0: ${state.held.join("; ")}.` : ""}`;
  $("h-post").textContent = `${state.densities.guide} and the true posterior`;
  $("guide-told").textContent = `${state.densities.guide}, regions of 50 % and 90 %`;
  for (const id of ["number", "from", "to"]) $(id).max = state.codes.length - 1;
  $("decoded-rows").replaceChildren();
  $("decoded").hidden = $("strip").hidden = !["image", "curve"].includes(state.kind);
  legend();
  S.u = state.codes[Math.min(S.number, state.codes.length - 1)];
  makeStates(); setPlane(); makeSliders(); makeTools();
  await choose(S.number);
  if ($("show-prior").checked) prior();
  if (before.datum && fits(before)) await edited(before.datum); // what was drawn is shown to the next run, too
  between(null);
}

function fits({ datum, shape }) {
  const { state } = S, same = Object.keys(datum).join() === Object.keys(S.original).join() && shape === state.shape.join();
  return same && state.kind !== "table" && (!state.whole || datum.x.every((v) => v === null || v % 1 === 0));
}

function legend() {
  const { labels, numbers, classes } = S.state;
  if (!labels) { $("legend").replaceChildren(); return; }
  const entries = numbers ? [0, 0.5, 1].map((t) => [minus(+(S.ends[0] + t * (S.ends[1] - S.ends[0])).toPrecision(3)), numberColour(t)])
    : S.classes.length > 30 ? [[`${S.classes.length} classes, each in its colour: tap a dot to read which`, "transparent"]] : S.classes.map((c, i) => [classes ? classes[c] : c, classColour(i, S.classes.length)]);
  if (labels.includes(null)) entries.push(["not known", css("--soft"), "ring"]);
  $("legend").replaceChildren(...entries.map(([text, colour, className = ""]) => {
    const span = Object.assign(document.createElement("span"), { textContent: text, className });
    span.style.setProperty("--c", colour);
    return span;
  }));
}

function redraw() {
  if (!S.state) return;
  S.ground = null;
  drawPlane(); drawDecoded(); drawStrip(); drawThumbs();
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

const safely = (work) => (...args) => Promise.resolve(work(...args)).catch((error) => tell(error.message));

function wire() {
  wirePlane();
  wireStates();
  wireDatum();
  $("runs").addEventListener("change", safely(() => { leaveLearning(); return load(+$("runs").value); }));
  for (const id of ["plane-kind", "axis-0", "axis-1"]) $(id).addEventListener("change", safely(replane));
  $("number").addEventListener("change", safely(() => choose(+$("number").value)));
  $("random").addEventListener("click", safely(() => choose(Math.floor(Math.random() * S.state.codes.length))));
  $("restore").addEventListener("click", safely(() => choose(S.number)));
  for (const id of ["from", "to"]) $(id).addEventListener("change", () => between(+$("along").value));
  $("along").addEventListener("input", (event) => between(+$("along").value, event.timeStamp));
  for (const id of ["from", "to"]) $(`${id}-here`).addEventListener("click", () => { $(id).value = S.number; between(+$("along").value); });
  $("draw").addEventListener("click", safely((event) => draw(event.timeStamp)));
  $("show-prior").addEventListener("change", safely(() => { S.ground = null; return $("show-prior").checked && !S.prior ? prior() : drawPlane(); }));
  $("anew").addEventListener("click", safely(() => begin(true)));
  $("go-on").addEventListener("click", safely(() => begin(false)));
  $("step-1").addEventListener("click", () => learn({ steps: 1 }));
  $("step-10").addEventListener("click", () => learn({ steps: 10 }));
  $("play").addEventListener("click", () => { play(!playing); keepOn(); });
  $("stop").addEventListener("click", safely(() => { leaveLearning(); return load(); }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (S.state) legend(); redraw(); });
  addEventListener("resize", redraw);
  new ResizeObserver(redraw).observe(document.body);
  if (!FROZEN) {
    setInterval(() => ask("here").catch((error) => tell(error.message)), 60000);
    addEventListener("pagehide", () => navigator.sendBeacon("/leave", JSON.stringify({ token: TOKEN })));
    addEventListener("pageshow", (event) => { if (event.persisted) ask("here"); });
  }
}

for (const span of document.querySelectorAll("[style-c]")) span.style.setProperty("--c", `var(--${span.getAttribute("style-c")})`);
for (const id of ["truth-told", "p-told"]) $(id).style.setProperty("--c", "rgb(var(--truth))");
if (FROZEN) {
  document.body.classList.add("frozen");
  for (const part of document.querySelectorAll("[data-live]")) part.hidden = true;
  FROZEN.grid.pictures = thaw(FROZEN.grid);
}

wire();
load().then(() => { document.body.dataset.ready = "true"; }).catch((error) => tell(error.message));
