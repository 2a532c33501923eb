"""The map within a report, in a real browser, from a file and without a network."""

import pytest
from explore.chrome import driver, wait

import pyro_vae as pv
from pyro_vae.report import page, sections

pytestmark = pytest.mark.slow
NETS = {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8)}


def test_the_map_of_a_report_is_dragged(digits, tmp_path, monkeypatch):
    from selenium.webdriver import ActionChains

    monkeypatch.setattr(page, "SECTIONS", [s for s in sections.SECTIONS if "latents" in s.title])
    vae = pv.ConditionalVAE(digits.event_shape, given={"y": 10}, latent_dim=2, **NETS)
    run = pv.fit(vae, digits, epochs=1, progress=False)
    path = pv.report(run, output=tmp_path / "r.html", num_data=20, progress=False)
    browser = driver()
    try:
        browser.execute_cdp_cmd("Network.enable", {})
        nothing = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", nothing)
        browser.get(path.as_uri())
        frame = browser.find_element("css selector", "iframe")
        browser.execute_script("arguments[0].scrollIntoView()", frame)
        browser.switch_to.frame(frame)
        wait(browser, "document.body.dataset.ready")
        label = digits.test.batch([0])["y"].item()
        told = f"Given throughout, as of datum 0: y = {label}."
        assert browser.find_element("id", "decoded-told").text.endswith(told)
        picture = "document.getElementById('decoded').toDataURL()"
        before = browser.execute_script(f"return {picture}")
        plane = browser.find_element("id", "plane")
        ActionChains(browser).drag_and_drop_by_offset(plane, 60, 40).perform()
        wait(browser, f"{picture} !== '{before}'")
        assert not browser.get_log("browser")
    finally:
        browser.quit()
