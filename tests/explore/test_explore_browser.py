"""The page in a real browser: what is dragged, drawn, erased and typed is answered, and nothing is left."""

import json
import os
import signal
import threading
import time

import pytest
import torch
from explore.chrome import driver, screen, served, told, wait

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.explore import frozen
from pyro_vae.explore.answers import Answers
from pyro_vae.explore.page import _html
from pyro_vae.explore.server import Server
from pyro_vae.explore.subjects import entries

pytestmark = pytest.mark.slow
NETS = {"encoder": pv.nets.mlp(32), "decoder": pv.nets.mlp(32)}
X = "window.explorer.S"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A comparison of two models of digits on a latent plane."""
    folder = tmp_path_factory.mktemp("explored") / "two"
    digits = pv.data.load("digits", binarize="dynamic")
    torch.manual_seed(0)
    parts = {"priors": ["Normal", "MixtureOfNormals(3)"], "likelihoods": ["Bernoulli"]}
    pv.compare(digits, **parts, latent_dim=2, epochs=30, folder=folder, progress=False, compile=False, **NETS)
    return folder


@pytest.fixture(scope="module")
def page(runs):
    browser = driver()
    try:
        with served(runs) as (_, url):
            browser.get(url)
            wait(browser, "document.body.dataset.ready")
            wait(browser, f"{X}.post")
            yield browser
            assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    finally:
        browser.quit()


def pixels(browser, name):
    return browser.execute_script(f"return document.getElementById('{name}').toDataURL()")


def element(browser, name):
    found = browser.find_element("id", name)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
    return found


def actions(browser):
    from selenium.webdriver import ActionChains

    return ActionChains(browser, duration=10)


def keys(browser, name, *typed):
    browser.execute_script(f"document.getElementById('{name}').focus()")
    actions(browser).send_keys(*typed).perform()


def test_it_loads_from_itself_alone(page):
    origin = page.execute_script("return location.origin")
    loaded = page.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert loaded
    assert all(name.startswith(origin) for name in loaded)
    assert "MixtureOfNormals_components=3_Bernoulli" in page.find_element("id", "title").text
    assert "prior" in page.find_element("id", "parts").text
    assert page.execute_script("return document.querySelectorAll('#legend span').length") == 10


def test_a_dragged_point_is_followed(page):
    plane, before = element(page, "plane"), pixels(page, "decoded")
    page.execute_script("window.explorer.latencies.length = 0")
    chain = actions(page).move_to_element(plane).click_and_hold()
    for i in range(60):
        chain.move_by_offset(2 if i < 30 else -2, 1 if i % 2 else -2)
    chain.release().perform()
    wait(page, "window.explorer.latencies.length > 4")
    print(f"\n{told(page.execute_script('return window.explorer.latencies'))}")
    assert pixels(page, "decoded") != before
    assert page.execute_script(f"return {X}.decoded") is not None


def test_a_dot_that_is_tapped_is_chosen(page):
    n = 7
    place = page.execute_script(f"return {X}.view.to({X}.places[{n}])")
    plane = element(page, "plane")
    size = plane.size
    actions(page).move_to_element_with_offset(
        plane, place[0] - size["width"] / 2, place[1] - size["height"] / 2
    ).click().perform()
    wait(page, f"{X}.number !== 0")
    chosen = page.execute_script(f"return {X}.number")
    codes = page.execute_script(f"return {X}.state.codes")
    distance = lambda k: sum((a - b) ** 2 for a, b in zip(codes[k], codes[n], strict=True))  # noqa: E731
    assert distance(chosen) < 0.02
    wait(page, f"Math.abs({X}.q.mean[0] - {codes[chosen][0]}) < 1e-3")
    wait(page, f"{X}.u.join() === {X}.q.mean.join()")


def test_drawing_moves_q(page):
    datum = element(page, "datum")
    before = page.execute_script(f"return [{X}.q.mean, {X}.datum.x]")
    chain = actions(page).move_to_element(datum).click_and_hold()
    for _ in range(8):
        chain.move_by_offset(6, 0)
    chain.release().perform()
    wait(page, f"{X}.post && JSON.stringify({X}.q.mean) !== '{str(before[0]).replace(' ', '')}'")
    x = page.execute_script(f"return {X}.datum.x")
    assert sum(a != b for a, b in zip(x, before[1], strict=True)) >= 1
    assert set(x) <= {0, 1}
    element(page, "restore").click()
    wait(page, f"JSON.stringify({X}.datum.x) === '{str(before[1]).replace(' ', '')}'")


def test_what_is_erased_widens_the_posterior_and_is_completed(page):
    element(page, "restore").click()
    mean = f"{X}.post.draws.reduce((s, p) => s + p[i], 0) / {X}.post.draws.length"
    spread = f"[0, 1].reduce((t, i) => t + {X}.post.draws.reduce((s, p) => s + (p[i] - {mean}) ** 2, 0), 0)"
    narrow = wait(page, f"{X}.post && {spread}")  # a question that is open still may make it null again
    page.find_element("xpath", "//button[text()='half not known']").click()
    wait(page, f"{X}.post && {X}.post.completion")
    assert page.execute_script(f"return {X}.datum.x.filter((v) => v === null).length") == 32
    wait(page, f"{X}.post && {spread} > {narrow}")
    assert "trained without gaps" in page.find_element("id", "gaps").text
    assert "completed" in page.find_element("id", "second-told").text
    page.find_element("xpath", "//label[contains(., 'not known')]/input[@value='erase']").click()
    actions(page).move_to_element_with_offset(element(page, "datum"), 0, -60).click().perform()
    wait(page, f"{X}.datum.x.filter((v) => v === null).length === 33")
    page.find_element("css selector", "input[value='high']").click()
    element(page, "restore").click()
    wait(page, f"{X}.post && !{X}.post.completion")
    assert page.find_element("id", "gaps").text == ""


def test_a_quick_stroke_has_no_gaps(page):
    page.find_element("xpath", "//button[text()='blank']").click()
    wait(page, f"{X}.post && !{X}.datum.x.includes(1)")
    datum = element(page, "datum")
    size = datum.size["width"] / 8
    chain = actions(page).move_to_element_with_offset(datum, -3.5 * size, -3.5 * size).click_and_hold()
    chain.move_by_offset(int(6.9 * size), int(6.9 * size)).release().perform()
    wait(page, f"{X}.datum.x.filter((v) => v === 1).length > 6")
    x = page.execute_script(f"return {X}.datum.x")
    assert all(x[9 * k] for k in range(7))
    assert sum(x) <= 8


def test_what_was_drawn_is_shown_to_a_copy_that_learns_and_to_the_next_run(page):
    page.find_element("xpath", "//button[text()='blank']").click()
    wait(page, f"{X}.post && !{X}.datum.x.includes(1)")
    drawn = page.execute_script(f"return {X}.datum.x.join()")
    assert "as changed" in page.find_element("id", "datum-told").text
    element(page, "go-on").click()
    wait(page, f"{X}.learning && {X}.history.length === 1 && {X}.datum.x.join() === '{drawn}'")
    element(page, "stop").click()
    wait(page, f"!{X}.learning && {X}.post && {X}.datum.x.join() === '{drawn}'")
    for k in (1, 0):
        page.execute_script(f"$('runs').value = {k}; $('runs').dispatchEvent(new Event('change'))")
        wait(page, f"{X}.run === {k} && {X}.post && {X}.datum.x.join() === '{drawn}'")
    element(page, "restore").click()
    wait(page, f"{X}.post && {X}.datum === {X}.original")


def test_latents_are_drawn_from_the_prior(page):
    button = element(page, "draw")
    assert button.text == "draw z from p(z)"
    wait(page, f"{X}.post")
    page.execute_script(f"{X}.prior = null")
    button.click()
    wait(page, f"{X}.prior && {X}.u.join() === {X}.prior.draws[0].join()")
    assert len(page.execute_script(f"return {X}.prior.draws")) == 300
    button.click()
    wait(page, f"{X}.u.join() === {X}.prior.draws[1].join()")
    plane = pixels(page, "plane")
    element(page, "show-prior").click()
    wait(page, f"document.getElementById('plane').toDataURL() !== '{plane}'")
    draws = page.execute_script(f"return {X}.prior.draws[0].join()")
    run = page.execute_script(f"return {X}.run")
    for k in (1 - run, run):  # those of another run are another's
        page.execute_script(f"$('runs').value = {k}; $('runs').dispatchEvent(new Event('change'))")
        wait(page, f"{X}.run === {k} && {X}.post && {X}.prior")
        assert (page.execute_script(f"return {X}.prior.draws[0].join()") == draws) == (k == run)
    element(page, "show-prior").click()


def test_the_bound_adds_up(page):
    numbers = "[...document.querySelectorAll('#bound td + td')].map((e) => e.innerText)"
    fit, kl, total, elbo, gap, evidence = (
        float(text.replace("\u2212", "-")) for text in wait(page, f"{X}.post && {numbers}")
    )
    assert elbo == total == pytest.approx(fit - kl, abs=0.02)
    assert evidence == pytest.approx(elbo + gap, abs=0.02)
    assert gap > 0


def test_all_by_the_keyboard(page):
    from selenium.webdriver.common.keys import Keys

    u = page.execute_script(f"return {X}.u")
    keys(page, "plane", Keys.ARROW_RIGHT, Keys.ARROW_UP)
    wait(page, f"{X}.u[0] > {u[0]} && {X}.u[1] > {u[1]}")
    keys(page, "plane", Keys.ENTER)
    wait(page, f"{X}.u.join() === {X}.q.mean.join()")
    x = page.execute_script(f"return {X}.datum.x")
    keys(page, "datum", Keys.ARROW_RIGHT, Keys.DELETE)
    wait(page, f"{X}.datum.x.includes(null)")
    element(page, "restore").click()
    wait(page, f"{X}.datum.x.join() === '{','.join(map(str, x))}'")
    slider = page.find_element("css selector", "#sliders input")
    page.execute_script("arguments[0].focus()", slider)
    before = page.execute_script(f"return {X}.u")
    actions(page).send_keys(Keys.ARROW_RIGHT).perform()
    wait(page, f"{X}.u.join() !== '{','.join(map(str, before))}'")


def test_tab_reaches_everything_and_everything_has_a_name(page):
    from selenium.webdriver.common.keys import Keys

    all_of = "[...document.querySelectorAll('button, select, input, [tabindex]')]"
    visible = f"{all_of}.filter((e) => e.offsetParent && !e.disabled)"
    page.execute_script(f"{visible}.forEach((e, k) => (e.dataset.k = k)); document.activeElement.blur()")
    number = page.execute_script(f"return {visible}.length")
    radios = page.execute_script(f"return {visible}.filter((e) => e.type === 'radio').length")
    reached = set()
    for _ in range(number + 3):
        actions(page).send_keys(Keys.TAB).perform()
        reached.add(page.execute_script("return document.activeElement.dataset.k"))
    assert len(reached - {None}) == number - radios + 1  # a group of radio buttons is one stop
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    focusable = [n for n in nodes if {"focusable"} & {p["name"] for p in n.get("properties", ())}]
    nameless = [n for n in focusable if not n.get("name", {}).get("value")]
    assert {n["role"]["value"] for n in nameless} <= {"RootWebArea"}


def test_a_finger_moves_the_point(page):
    plane = element(page, "plane")
    box = page.execute_script("return arguments[0].getBoundingClientRect().toJSON()", plane)
    before = page.execute_script(f"return {X}.u")
    at = {"x": box["x"] + box["width"] * 0.3, "y": box["y"] + box["height"] * 0.6}
    for kind, points in (
        ("touchStart", [at]),
        ("touchMove", [{"x": at["x"] + 30, "y": at["y"] + 20}]),
        ("touchEnd", []),
    ):
        page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    wait(page, f"{X}.u.join() !== '{','.join(map(str, before))}'")


def test_one_datum_turns_into_another(page):
    from selenium.webdriver.common.keys import Keys

    codes = page.execute_script(f"return {X}.state.codes")
    page.execute_script(
        "const e = document.getElementById('to'); e.value = 5; e.dispatchEvent(new Event('change'))"
    )
    keys(page, "along", Keys.END)
    wait(page, f"Math.abs({X}.u[0] - {codes[5][0]}) < 1e-6 && {X}.strip.length === 9")
    assert page.execute_script(f"return {X}.u") == pytest.approx(codes[5])


def test_it_learns_step_by_step_on_a_copy(page):
    own = page.execute_script(f"return {X}.state.codes.flat()")
    element(page, "anew").click()
    wait(page, f"{X}.learning && {X}.history.length === 1 && document.getElementById('step-10').offsetParent")
    codes = page.execute_script(f"return {X}.state.codes")
    element(page, "step-1").click()
    wait(page, f"{X}.history.length === 2")
    for k in range(3):
        element(page, "step-10").click()
        wait(page, f"{X}.history.length === {3 + k}")
    history = page.execute_script(f"return {X}.history")
    assert [row["step"] for row in history] == [0, 1, 11, 21, 31]
    assert history[-1]["elbo"] > history[0]["elbo"]
    assert page.execute_script(f"return {X}.state.codes") != codes
    element(page, "play").click()
    wait(page, f"{X}.history.length > 6")
    element(page, "stop").click()  # in the middle of a step
    wait(page, f"!{X}.learning && !{X}.state.codes.flat().some((v, k) => v !== {own}[k]) && {X}.post")
    assert "copy" not in page.find_element("id", "title").text
    assert page.find_element("id", "learnt").text == ""
    assert page.find_element("id", "play").get_attribute("aria-pressed") == "false"


def test_another_run_is_shown(page):
    from selenium.webdriver.support.ui import Select

    codes = page.execute_script(f"return {X}.state.codes")
    menu = Select(page.find_element("id", "runs"))
    assert [o.text.split(": ")[1] for o in menu.options] == [
        "MixtureOfNormals(components=3), Bernoulli()",
        "Normal(), Bernoulli()",
    ]
    other = 1 - int(menu.first_selected_option.get_attribute("value"))
    menu.select_by_index(other)
    wait(page, f"{X}.run === {other} && {X}.state.codes[0][0] !== {codes[0][0]} && {X}.post", 60)
    assert page.find_element("id", "parts").text.startswith("prior ")


def test_runs_of_other_kinds_follow_each_other(tmp_path):
    """Images, a table, counts: of each other's data nothing is asked or drawn, however fast they change."""
    pd = pytest.importorskip("pandas")
    x = torch.rand(40, 5, generator=torch.Generator().manual_seed(0))
    table, counts = pv.data.load(pd.DataFrame(x.numpy(), columns=list("abcde"))), (9 * x).round()
    kinds = [
        (pv.VAE((1, 8, 8), 2, **NETS), torch.rand(40, 1, 8, 8).round()),
        (pv.VAE(table.event_shapes, 3, likelihood="auto", **NETS), table),
        (pv.CountVAE((5,), latent_dim=2, **NETS), pv.data.load(counts)),
    ]
    every = [entry for program, data in kinds for entry in entries(program, data)]
    server = Server(lambda token, nonce: _html(None, token, nonce), Answers(every).by_name)
    thread = threading.Thread(target=server.serve)
    thread.start()
    browser = driver()
    try:
        browser.get(server.address)
        wait(browser, "document.body.dataset.ready", 60)
        for k, left in ((1, False), (0, True), (2, False), (0, False)):
            browser.execute_script(
                f"const m = document.getElementById('runs'); m.value = {k};"
                "m.dispatchEvent(new Event('change')); window.dispatchEvent(new Event('resize'));"
                "document.body.style.width = `${90 + Math.random()}%`"
            )
            if not left:  # before it is there
                wait(browser, f"{X}.run === {k} && {X}.post && {X}.decoded", 60)
                assert not browser.find_element("id", "error").is_displayed()
        assert browser.find_element("id", "decoded-rows").text == ""
        browser.execute_script(  # while a run is being loaded there is no datum
            f"{X}.datum = null; document.getElementById('along').dispatchEvent(new Event('input'))"
        )
        time.sleep(1)
        assert not browser.find_element("id", "error").is_displayed()
        assert not browser.get_log("browser")
    finally:
        browser.quit()
        server.ends_at = 0.0
        thread.join(20)
    assert not thread.is_alive()


def test_a_conditional_page_says_what_is_given(tmp_path):
    """Live and frozen: p(x|z, y), and nowhere p(x|z) or q(z|x)."""
    data = pv.data.load({"x": torch.rand(40, 1, 8, 8).round(), "y": torch.arange(40) % 3})
    program = pv.ConditionalVAE((1, 8, 8), given={"y": 3}, latent_dim=2, **NETS)
    program.initialize(data.train)
    (tmp_path / "page.html").write_text(frozen(program, data))
    server = Server(lambda token, nonce: _html(None, token, nonce), Answers(entries(program, data)).by_name)
    thread = threading.Thread(target=server.serve)
    thread.start()
    browser = driver()
    try:
        for address in (server.address, (tmp_path / "page.html").as_uri()):
            browser.get(address)
            wait(browser, "document.body.dataset.ready", 60)
            if address == server.address:
                wait(browser, f"{X}.post", 60)
                text = browser.execute_script("return document.body.innerText")
                for name in ("q(z|x, y)", "E[log p(x|z, y)]", "KL(q‖p(z))", "log p(x|y)", "KL(q‖p(z|x, y))"):
                    assert name in text
                options = browser.find_elements("css selector", "#given option")
                assert [option.text for option in options] == ["0", "1", "2"]  # y is always given
                browser.find_element("id", "anew").click()
                wait(browser, f"{X}.learning && {X}.history.length === 1", 60)
            text = browser.execute_script("return document.body.innerText")
            assert "p(x|z, y)" in text
            for name in ("p(x|z)", "q(z|x)", "p(z|x)", "log p(x) "):
                assert name not in text
    finally:
        browser.quit()
        server.ends_at = 0.0
        thread.join(20)


def test_choices_are_tapped(tmp_path):
    """Live and frozen: a tap decodes the value, bars are q and the exact posterior, and a draw goes there."""
    torch.manual_seed(0)
    data = pv.data.load("digits", binarize="dynamic")
    program = pv.VAE(data.event_shape, 3, prior=pv.priors.Bernoulli(), **NETS)
    pv.fit(program, data, epochs=5, compile=False, progress=False)
    program.eval()
    (tmp_path / "page.html").write_text(frozen(program, data))
    server = Server(lambda token, nonce: _html(None, token, nonce), Answers(entries(program, data)).by_name)
    thread = threading.Thread(target=server.serve)
    thread.start()
    browser = driver()
    try:
        for live in (True, False):
            browser.get(server.address if live else (tmp_path / "page.html").as_uri())
            wait(browser, "document.body.dataset.ready", 60)
            wait(
                browser,
                f"{X}.thumbs.length === 6 && {X}.decoded && {'true' if not live else f'{X}.post'}",
                60,
            )
            assert not browser.find_element("id", "s-plane").is_displayed()
            cards = browser.find_elements("css selector", ".level")
            assert len(cards) == 6
            bits = browser.execute_script("return levelsNow()")
            pressed = [card.get_attribute("aria-pressed") == "true" for card in cards]
            assert pressed == [level == bits[k] for k in range(3) for level in (0, 1)]
            browser.execute_script("arguments[0].click()", cards[2 + 1 - bits[1]])  # the other one
            bits[1] = 1 - bits[1]
            wait(browser, f"levelsNow().join() === '{','.join(map(str, bits))}'")
            expected = program.decode(torch.tensor([bits], dtype=torch.float32)).mean.reshape(-1)
            levels = "(typeof S.decoded === 'string' ? [...bytes(S.decoded)] : S.decoded)"
            wait(browser, f"Math.abs({levels}[27] / 255 - {expected[27].item()}) < 3e-3")
            shown = torch.tensor(browser.execute_script(f"return {levels}")) / 255
            assert (shown - expected).abs().max() < 3e-3
            if not live:
                continue
            x = torch.tensor(browser.execute_script(f"return {X}.datum.x")).reshape(1, 1, 8, 8).float()
            every = torch.cartesian_prod(*[torch.arange(2)] * 3).float()
            log_p = program.prior().log_prob(every) + program.decode(every).log_prob(x)
            found = [card.find_element("css selector", ".true").text for card in cards[1::2]]
            for text, share in zip(found, (log_p.softmax(0) @ every).tolist(), strict=True):
                assert text == "< 1 %" or abs(int(text.split()[0]) - 100 * share) < 0.6
            assert "posterior" in cards[0].get_attribute("aria-label")
            browser.find_element("id", "draw-states").click()
            wait(browser, f"{X}.prior && levelsNow().join() === {X}.prior.states[0].join()")
            browser.find_element("id", "likeliest").click()
            wait(browser, f"levelsNow().join() === {X}.q.now.join()")
            keys(browser, "anew", "\n")
            wait(browser, f"{X}.learning && {X}.history.length === 1", 60)
            wait(browser, "document.getElementById('step-1').offsetParent")
            browser.execute_script("document.getElementById('step-1').click()")
            wait(browser, f"{X}.history.length === 2 && {X}.post && {X}.thumbs.length === 6", 60)
            assert "TraceEnum_ELBO" in browser.find_element("id", "learnt").text
        assert not browser.get_log("browser")
    finally:
        browser.quit()
        server.ends_at = 0.0
        thread.join(20)


def test_a_label_that_is_not_known_is_a_ring_and_taken_for_the_likeliest(tmp_path):
    """In the legend and on the plane; what is decoded is of the class that vae.classify finds."""
    torch.manual_seed(0)
    digits = pv.data.load("digits", binarize="dynamic").train
    labels = torch.where(torch.arange(200) % 2 == 0, digits.labels[:200].double(), torch.nan)
    data = pv.data.load({"x": digits[:200], "y": labels})
    program = pv.SemiSupervisedVAE(
        (1, 8, 8), num_classes=10, latent_dim=2, classifier=pv.nets.mlp(32), **NETS
    )
    pv.fit(program, data, epochs=10, compile=False, progress=False)
    program.eval()
    server = Server(lambda token, nonce: _html(None, token, nonce), Answers(entries(program, data)).by_name)
    thread = threading.Thread(target=server.serve)
    thread.start()
    browser = driver()
    try:
        browser.get(server.address)
        wait(browser, "document.body.dataset.ready", 60)
        assert browser.find_element("css selector", "#legend .ring").text == "not known"
        number = browser.execute_script(f"return {X}.state.labels.indexOf(null)")
        browser.execute_script(f"choose({number})")
        code = browser.execute_script(f"return {X}.state.codes[{number}][0]")
        wait(browser, f"{X}.datum.y[0] === null && {X}.post && Math.abs({X}.q.mean[0] - {code}) < 1e-3")
        wait(browser, f"{X}.u.join() === {X}.q.mean.join()")
        x = torch.tensor(browser.execute_script(f"return {X}.datum.x")).reshape(1, 1, 8, 8).float()
        found = torch.tensor(browser.execute_script(f"return {X}.q.likely[0]"))
        torch.testing.assert_close(found, program.classify(x)[0], atol=1e-3, rtol=0)
        likeliest = int(program.classify(x).argmax())
        u = torch.tensor([browser.execute_script(f"return {X}.u")])
        expected = program.decode(u, torch.tensor([likeliest])).mean.reshape(-1)
        levels = json.dumps((255 * expected).tolist())
        for picture in ("S.decoded", f"S.thumbs[{likeliest}]"):
            wait(browser, f"[...bytes({picture})].every((v, k) => Math.abs(v - {levels}[k]) < 0.8)")
        options = browser.find_elements("css selector", "#given option")
        assert [option.text for option in options] == [*map(str, range(10)), "not known"]
        pressed = browser.find_elements("css selector", ".level[aria-pressed=true]")
        assert [card.get_attribute("data-at") for card in pressed] == [f"0,{likeliest}"]
        assert "KL(q‖p(y, z))" in browser.find_element("id", "bound").text
    finally:
        browser.quit()
        server.ends_at = 0.0
        thread.join(20)


@pytest.mark.parametrize("width", [420, 900])
def test_nothing_is_wider_than_the_screen(page, width):
    screen(page, width, 800)
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        screen(page, 1500, 1000)


def test_a_frozen_page_opens_from_a_file_without_a_network(runs, tmp_path, capsys):
    run = next(path for path in sorted(runs.iterdir()) if path.is_dir())
    assert cli.main(["explore", str(run), "--output", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")
    browser = driver()
    try:
        browser.execute_cdp_cmd("Network.enable", {})
        nothing = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", nothing)
        browser.get((tmp_path / "page.html").as_uri())
        wait(browser, "document.body.dataset.ready")
        before = pixels(browser, "decoded")
        actions(browser).move_to_element(element(browser, "plane")).click_and_hold().move_by_offset(
            60, 40
        ).release().perform()
        wait(browser, f"document.getElementById('decoded').toDataURL() !== '{before}'")
        assert not browser.find_element("id", "inward").is_displayed()
        vae, data = pv.load(run), pv.data.load("digits", binarize="dynamic")
        u = browser.execute_script(f"return {X}.u")
        shown = torch.tensor(browser.execute_script(f"return {X}.decoded")) / 255
        exact = vae.decode(torch.tensor([u])).mean.reshape(-1)
        assert (shown - exact).abs().max() < 0.05
        codes = torch.tensor(browser.execute_script(f"return {X}.state.codes"))
        assert torch.allclose(codes, vae.encode(data.test[:]).mean, atol=1e-3)
        assert not browser.get_log("browser")
    finally:
        browser.quit()


def ended(process, seconds=60.0):
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return process.poll()


def test_closing_the_page_leaves_no_process(runs):
    browser = driver()
    try:
        with served(runs) as (process, url):
            browser.get(url)
            wait(browser, "document.body.dataset.ready")
            browser.refresh()
            wait(browser, "document.body.dataset.ready")
            time.sleep(6)
            assert process.poll() is None
            browser.get("about:blank")
            assert ended(process) == 0
            with pytest.raises(ProcessLookupError):
                os.killpg(process.pid, 0)
    finally:
        browser.quit()


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 0), (signal.SIGHUP, -signal.SIGHUP), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_it_ends_with_its_terminal(runs, sent, code):
    with served(runs) as (process, _):
        process.send_signal(sent)
        assert ended(process) == code
