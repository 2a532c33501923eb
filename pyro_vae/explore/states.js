// Switches: latents of few values each, what x would be at each of them, and how probable they are.

const MOST_THUMBS = 64;

// The level of each switch: that which was chosen, or else the likeliest of q.
const levelsNow = () => S.chosen.map((v, k) => v ?? (S.q ? S.q.now[k] : 0));

// Levels that decoding is asked for; none where all are as q has them, which the program knows itself.
function asChosen(rows) {
  return FROZEN || S.chosen.some((v) => v !== null) ? { states: Array.from({ length: rows }, levelsNow) } : {};
}

function makeStates() {
  const { switches, densities, dim, summed, kind } = S.state, all = decoding().reduce((sum, s) => sum + s.levels.length, 0);
  S.chosen = switches.map(() => null);
  S.thumbs = [];
  $("s-states").hidden = !switches.length;
  $("s-plane").hidden = $("s-sliders").hidden = $("s-between").hidden = $("near").hidden = $("near-legend").hidden = !dim;
  if (!switches.length) return;
  const pictured = ["image", "curve"].includes(kind) && all > 0 && all <= MOST_THUMBS;
  $("h-states").textContent = dim ? "Each choice" : "The latents: choices";
  $("states-told").textContent = `${pictured ? `Each picture is the ${S.state.centre} of ${densities.decoder} were that switch alone at that value. ` : ""}${all ? "Tap a value to go there." : ""}${
    FROZEN ? "" : ` Bars: how probable it is, ${summed ? `the true posterior by a sum over all ${summed} joint values` : "the true posterior by importance samples"}.`}`;
  $("likeliest").hidden = FROZEN || !all;
  $("draw-states").textContent = `draw from ${densities.drawn}`;
  $("draw-states").hidden = Boolean(dim); // as the point's own button does
  $("q-told").textContent = dim ? "q" : densities.guide;
  $("p-told").textContent = dim ? "true posterior" : densities.posterior;
  $("states").replaceChildren(...switches.map((one, k) => {
    const block = document.createElement("div"), name = document.createElement("h3"), cards = document.createElement("div");
    const dead = one.kl !== null && one.kl < 0.01;
    block.className = `switch${dead ? " collapsed" : ""}`;
    if (one.levels.length > 4 || switches.length < 3) block.classList.add("wide");
    block.setAttribute("role", "group"); block.setAttribute("aria-label", one.name);
    name.textContent = `${one.name}${one.kl === null ? "" : dead ? ", collapsed" : `, KL ${one.kl.toFixed(2)}`}${one.decodes ? "" : `; ${densities.decoder} does not depend on it`}`;
    cards.className = "cards";
    cards.append(...one.levels.map((level, l) => {
      const card = button("", () => { S.chosen[k] = S.chosen[k] === l ? null : l; return goThere(); });
      card.className = "level"; card.dataset.at = `${k},${l}`;
      const told = Object.assign(document.createElement("b"), { textContent: level });
      card.disabled = !one.decodes;
      if (pictured && one.decodes) card.append(document.createElement("canvas"));
      card.append(told);
      if (!FROZEN) for (const what of ["likely", "true"]) card.append(Object.assign(document.createElement("span"), { className: `bar ${what}` }));
      return card;
    }));
    block.append(name, cards);
    return block;
  }));
  showStates();
}

function goThere() { // to the levels that are chosen
  showStates();
  say(`at ${levelsNow().map((l, k) => `${S.state.switches[k].name} = ${S.state.switches[k].levels[l]}`).join(", ")}`);
  return decode(S.u);
}

function showStates() { // which is on, and how probable each is
  if (!S.state.switches.length) return;
  const now = levelsNow();
  for (const card of $("states").querySelectorAll(".level")) {
    const [k, l] = card.dataset.at.split(",").map(Number), { name, levels } = S.state.switches[k];
    if (!card.disabled) card.setAttribute("aria-pressed", String(now[k] === l));
    const shares = { likely: S.q && S.q.likely[k][l], true: S.post && S.post.likely[k][l] };
    for (const [what, share] of Object.entries(shares)) {
      const bar = card.querySelector(`.${what}`);
      if (!bar) continue;
      bar.style.setProperty("--share", `${100 * (share || 0)}%`);
      bar.textContent = share === null ? "…" : percent(share);
    }
    const told = FROZEN || !S.q ? "" : `: q ${percent(shares.likely)}${S.post ? `, posterior ${percent(shares.true)}` : ""}`;
    card.setAttribute("aria-label", `${name} = ${levels[l]}${told}`);
  }
  thumbs();
}

const decoding = () => S.state.switches.filter((one) => one.decodes); // those that x hangs on
const percent = (share) => (share > 0 && share < 0.005 ? "< 1 %" : `${Math.round(100 * share)} %`);

const askThumbs = latest(async () => { // what x would be, were one switch at another level
  const { switches } = S.state, now = levelsNow();
  const rows = switches.flatMap((s, k) => (s.decodes ? s.levels : []).map((_, l) => now.map((v, j) => (j === k ? l : v))));
  if (!$("states").querySelector("canvas")) return;
  const { pictures } = await ask("decode", { u: rows.map(() => S.u), states: rows, datum: S.datum });
  S.thumbs = pictures;
  drawThumbs();
});
const thumbs = later(askThumbs, 150); // once it has rested: a drag is not to wait for them

function drawThumbs() {
  $("states").querySelectorAll("canvas").forEach((canvas, i) => { if (S.thumbs[i]) drawValue(canvas, S.thumbs[i]); });
}

function wireStates() {
  $("draw-states").addEventListener("click", safely((event) => draw(event.timeStamp)));
  $("likeliest").addEventListener("click", safely(() => { S.chosen = S.chosen.map(() => null); return goThere(); }));
}
