"""How long a picture takes to follow the point that is dragged, in a real browser, decoder and all.

    python tests/explore/latency.py RUN

From the event that moves the point to its picture, drawn: the question, the answer and the drawing. Moves
come 16 ms apart, as of a screen; those that come while one is asked are left out, but the latest.
"""

from __future__ import annotations

import sys

from chrome import driver, served, told, wait

MOVES = 300
DRAG = f"""
const plane = document.getElementById("plane"), box = plane.getBoundingClientRect();
const send = (kind, k) => plane.dispatchEvent(new PointerEvent(kind, {{
  pointerId: 1,
  clientX: box.x + box.width * (0.5 + 0.3 * Math.cos(k / 20)),
  clientY: box.y + box.height * (0.5 + 0.3 * Math.sin(k / 17)) }}));
plane.setPointerCapture = () => {{}}; // of a pointer that is none
window.explorer.latencies.length = 0;
let k = 0;
send("pointerdown", 0);
const timer = setInterval(() => {{
  send("pointermove", ++k);
  if (k < {MOVES}) return;
  clearInterval(timer);
  send("pointercancel", k);
  window.done = true;
}}, 16);
"""


def main(run: str) -> None:
    browser = driver()
    try:
        with served(run) as (_, url):
            browser.get(url)
            wait(browser, "document.body.dataset.ready")
            wait(browser, "window.explorer.S.post")
            browser.execute_script(DRAG)
            wait(browser, "window.done", 120)
            print(told(browser.execute_script("return window.explorer.latencies")))
    finally:
        browser.quit()


if __name__ == "__main__":
    main(sys.argv[1])
