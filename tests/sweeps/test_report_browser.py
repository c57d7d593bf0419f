"""The report in a browser: nothing scrolls sideways, nothing is broken, nothing is loaded, no text is too small."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.core.paths import RunPaths
from sweeps.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--virtual-time-budget=8000",
)  # fmt: skip

_MEASURE = """<!doctype html><title>measuring</title><iframe id=f style="border:0;width:{width}px;height:900px"
srcdoc="{page}"></iframe><script>
const frame = document.getElementById('f');
frame.onload = () => {{
  const page = frame.contentDocument;
  const broken = [...page.images].filter(i => !i.complete || !i.naturalWidth).length;
  document.title = JSON.stringify({{
    scroll: page.documentElement.scrollWidth, inner: frame.contentWindow.innerWidth,
    table1: page.querySelectorAll('#table1 tbody tr[data-model]').length, broken, images: page.images.length,
    smallest: Math.min(...[...page.body.querySelectorAll('*')].filter(e => e.innerText)
      .map(e => parseFloat(frame.contentWindow.getComputedStyle(e).fontSize))),
    loaded: frame.contentWindow.performance.getEntriesByType('resource')
      .filter(entry => !entry.name.startsWith('data:')).length,
  }});
}};
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page_whole(fabricated_run: Callable[[Path], RunPaths], tmp_path: Path, width: int) -> None:
    """The page is put in a frame of the width: a headless window itself cannot be made as narrow as a phone."""
    run = fabricated_run(tmp_path / "run")
    page = write_report(run, run.root).read_text()
    frame = tmp_path / "frame.html"
    frame.write_text(_MEASURE.format(width=width, page=html.escape(page, quote=True)))
    profile = tmp_path / "profile"
    command = [
        str(CHROMIUM),
        *FLAGS,
        f"--user-data-dir={profile}",
        "--window-size=1400,1000",
        "--dump-dom",
        frame.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title, done.stderr[-2000:]
    seen = json.loads(html.unescape(title[1]))
    assert seen["inner"] == width and seen["scroll"] <= width, "the page scrolls sideways"
    assert seen["table1"] == 20
    assert seen["smallest"] >= 11, "text too small to read"
    assert seen["images"] > 40 and seen["broken"] == 0
    assert seen["loaded"] == 0, "the page fetched something"
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]
