// It learns: steps of SVI on a copy.

const learn = latest(async (values) => {
  const found = await ask("learn", values);
  if (!S.learning) return; // the page went back to the run meanwhile
  S.history.push(found.row);
  S.state.codes = found.codes; S.state.latents = found.latents; S.state.origin = found.origin; S.state.switches = found.switches; S.state.directions = found.directions;
  S.prior = null; // it may be learnt, too
  if ($("show-prior").checked) prior();
  setPlane(); drawPlane(); makeStates(); makeSliders(); showSliders(); drawCharts();
  const { step, elbo, reconstruction, kl } = found.row;
  $("learnt").textContent = `step ${step}: ELBO ${fixed(elbo)} = fit ${fixed(reconstruction === null ? null : -reconstruction)} − KL ${fixed(kl)} nats per held-out datum (${found.told})`;
  say(`step ${step}, ELBO ${fixed(elbo)}`);
  await decode(S.u);
  between(null); // between their new codes
  await infer(false);
});

async function begin(anew) {
  play(false);
  S.learning = false;
  await ask("learn", { anew });
  S.learning = true; S.history = [];
  document.body.classList.add("learning");
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
  drawChart($("chart-fit"), `fit, E[${S.state.densities.fit}]`, steps, S.history.map((row) => (row.reconstruction === null ? null : -row.reconstruction)));
  drawChart($("chart-kl"), `KL(q‖${S.state.densities.prior})`, steps, S.history.map((row) => row.kl));
}

function leaveLearning() {
  play(false);
  S.learning = false; S.history = [];
  document.body.classList.remove("learning");
  $("stepping").hidden = $("charts").hidden = true; $("learnt").textContent = "";
}
