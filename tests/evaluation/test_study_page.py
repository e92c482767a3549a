"""The page of a study in a real browser: a whole study by keys, another by touch on a phone."""

import csv
import json
import re
import time

import pytest
from browser import CHROMIUM, DRIVER, browsing
from command_line import gen1
from study_files import evaluation

from gen1_jax.evaluation.study.answers import read_answers
from gen1_jax.evaluation.study.drawing import draw

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"
)
EVIL = "</script><img src=x onerror=\"document.title='caught'\"> a 'ring' & more"
READY = "document.querySelector('.choice').getAttribute('aria-disabled') === 'false'"
PROGRESS = "return document.getElementById('progress').textContent"
ENDED = "!document.getElementById('end').hidden"


def shown_in(browser) -> str:
    return browser.run("return document.querySelector('main:not([hidden])').id")


def download(browser, folder, ending: str):
    browser.run(f"document.getElementById('{ending}').focus()")
    browser.press("enter")  # without a person's act, browsers refuse a second download
    end = time.monotonic() + 10
    while not (found := list(folder.glob(f"study-*.{ending}"))):
        assert time.monotonic() < end, "nothing was downloaded"
        time.sleep(0.02)
    return found[0]


@pytest.fixture
def study(tmp_path, capsys):
    results = evaluation(tmp_path / "results", captions=("a red ball", EVIL, "a green cross"))
    folder = tmp_path / "study"
    code, _, err = gen1(capsys, "study", "make", results, "-o", folder, "--checks", 1)
    assert code == 0, err
    (tmp_path / "downloads").mkdir()
    return folder


def test_a_whole_study_by_keys_and_its_tally(study, tmp_path, capsys):
    page, key = study / "page/index.html", json.loads((study / "key.json").read_text())
    order = draw(key, "7")
    wanted = ["right" if n % 2 else "left" for n in range(len(order))]
    with browsing(tmp_path / "downloads", (1280, 800)) as browser:
        browser.open(page, "?participant=7")
        assert shown_in(browser) == "intro"
        browser.run("document.getElementById('begin').focus()")
        browser.press("enter")
        browser.press("2")  # nothing has been seen yet
        assert browser.run(PROGRESS) == "1 of 4"
        times = "[...document.querySelectorAll('video')].map((video) => video.currentTime)"
        moving = browser.wait_for(f"(t => t.length === 3 && Math.min(...t) > 0 && t)({times})")
        assert max(moving) - min(moving) < 0.1, "the videos do not run together"
        browser.wait_for(READY)
        browser.press(wanted[0])
        browser.wait_for(READY)
        browser.press("left" if wanted[1] == "right" else "right")  # a slip, taken back
        assert browser.run(PROGRESS) == "3 of 4"
        browser.press("backspace")
        browser.wait_for(READY)
        browser.press("2" if wanted[1] == "right" else "1")
        browser.open(page, "?participant=7")  # closed and opened again
        browser.wait_for("document.getElementById('begin').textContent === 'Go on'")
        browser.run("document.getElementById('begin').click()")
        assert browser.run(PROGRESS) == "3 of 4"
        captions = set()
        for side in wanted[2:]:
            captions.add(browser.run("return document.getElementById('caption').textContent"))
            browser.wait_for(READY)
            browser.press(side)
        browser.wait_for(ENDED)
        file, data = (download(browser, tmp_path / "downloads", e) for e in ("csv", "json"))
        assert browser.run("return document.title") == "Comparing edited videos"
        assert browser.run("return document.images.length") == 0
        asked = "performance.getEntriesByType('resource').map((entry) => entry.name)"
        assert all(name.startswith("file:") for name in browser.run(f"return {asked}"))
        assert browser.log() == []
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["pair"], row["side"]) for row in rows] == [
        (pair, side) for (pair, _), side in zip(order, wanted, strict=True)
    ]
    results = {}
    for name, answers in {"a": file, "b": data}.items():
        out = tmp_path / f"tally-{name}"
        code, _, err = gen1(capsys, "study", "tally", study / "key.json", answers, "-o", out)
        assert code == 0 and err == "", err
        results[name] = json.loads((out / "results.json").read_text())
    assert results["a"] == results["b"] and results["a"]["participants"]["all"] == 1


def test_a_study_by_touch_on_a_phone(study, tmp_path):
    page, key = study / "page/index.html", json.loads((study / "key.json").read_text())
    (checked,) = (check["clip"] for check in key["checks"].values())  # made of one of its edits
    broken = next(p for p, entry in key["pairs"].items() if entry["clip"] != checked)
    data = re.search(r'id="study">(.*?)</script>', page.read_text(), flags=re.S)[1]
    (shown,) = (pair for pair in json.loads(data)["pairs"] if pair["id"] == broken)
    rival = shown["a" if key["pairs"][broken]["b"] == "gen1" else "b"]
    (page.parent / "videos" / rival).write_bytes(b"not a video")
    with browsing(tmp_path / "downloads", (390, 844), phone=True) as browser:
        browser.open(page, "?participant=9")
        browser.touch("#begin")
        for number, (pair, _) in enumerate(draw(key, "9"), 1):
            assert browser.run(PROGRESS) == f"{number} of 4"
            if pair == broken:
                browser.wait_for("!document.getElementById('broken').hidden")
                browser.touch("#skip")
                continue
            browser.wait_for(READY)
            wide = "return document.documentElement.scrollWidth <= innerWidth"
            high = "return document.documentElement.scrollHeight <= innerHeight"
            assert browser.run(wide) and browser.run(high), "a pair does not fit on the screen"
            browser.touch(".right .choice")
        browser.wait_for(ENDED)
        file = download(browser, tmp_path / "downloads", "csv")
    answers, problems, _ = read_answers([file], key)
    assert not problems and len(answers) == 4
    assert [answer.pair for answer in answers if answer.choice == "none"] == [broken]
