"""The report in a real browser: every section is shown, nothing is asked of the network."""

import html
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def browse(page: Path, *options: str) -> str:
    """Return what headless Chromium prints about a page; names of the network lead nowhere."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={page.parent / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND", *options]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=300, check=True)
    return done.stdout


def asked_by(page: Path) -> set[str]:
    """Return the addresses that a page asks the network for, as Chromium logs it; its own errands are left out."""
    log = page.parent / "net.json"
    browse(page, "--dump-dom", f"--log-net-log={log}")
    parameters = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    return {
        one["url"]
        for one in parameters
        if str(one.get("url", "")).startswith("http") and one.get("initiator", "not an origin") != "not an origin"
    }


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_report_opens_in_a_browser(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "inspect"
    options = ["--num-images", "32", "--minibatch", "16", "--shots", "2", "--seeds", "1", "--num-workers", "0"]
    result = run_cli("inspect", "all", "--model", "demo", *options, "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    analyses = document["analyses"]
    verdicts = {(one["analysis"], one["claim"]): one["holds"] for one in document["verdicts"]}
    learnt = [holds for (analysis, _), holds in verdicts.items() if analysis in ("filters", "pos-embed", "cka")]
    assert learnt == [True] * 6  # the demo weights against random ones
    assert verdicts["distance", "heads leave even attention, at which random weights stay"]
    page = out / "report.html"
    shown = browse(page, "--dump-dom")
    for analysis in analyses.values():
        assert html.escape(analysis["title"]) in shown
    assert shown.count("data:image/png;base64,") >= len(analyses)
    assert asked_by(page) == set()
    screenshot = tmp_path / "report.png"
    browse(page, f"--screenshot={screenshot}", "--window-size=1300,6000")
    pixels = np.asarray(Image.open(screenshot).convert("RGB"))
    assert pixels.shape[:2] == (6000, 1300)
    for top in range(0, 6000, 1000):  # every part shows something, and maps are in colour
        assert len(np.unique(pixels[top : top + 1000].reshape(-1, 3), axis=0)) > 50
    assert (pixels.max(axis=2).astype(int) - pixels.min(axis=2) > 80).mean() > 0.02


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_page_that_asks_the_network_is_caught(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("<!doctype html><title>x</title><img src='http://example.test/x.png'>")
    assert asked_by(page) == {"http://example.test/x.png"}
