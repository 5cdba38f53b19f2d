"""The page at /, in a real browser: asked by hand, by file, by camera; and when the service misbehaves."""

import base64
import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import browser_kit
from extras import AXE, NEEDED
from page_kit import Visit, picture
from service.access.keys import new_key
from service_kit import ROOT, Server, serving
from tiny_nets import digits_net, nudged, pair_net, write_bundle, write_unproved

pytestmark = pytest.mark.skipif(browser_kit.WHY_NOT is not None, reason=str(browser_kit.WHY_NOT))
SEVEN = ROOT / "docs/seven.png"
BYTES = f"Uint8Array.from({[*SEVEN.read_bytes()]})"  # in JavaScript


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "models"
    net = digits_net()
    write_bundle(folder / "digits" / "1", net)
    write_bundle(folder / "digits" / "2", net, graph=nudged(net))
    write_bundle(folder / "pair" / "1", pair_net())
    write_unproved(folder / "unproved" / "1", pair_net(), "no rows suit it")
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    with serving(models, "--model-control", "--queue-rows", "64", "--allow-unproved") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browser_kit.chromium() as opened:
        yield opened


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Visit]:
    opened = Visit(browser, server.url)
    yield opened
    opened.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_drawing_gets_a_label_and_nothing_is_wrong_with_the_page(
    browser: Any, server: Server, theme: str, width: int
) -> None:
    visit = Visit(browser, server.url, viewport={"width": width, "height": 900}, color_scheme=theme)
    try:
        visit.choose("digits")
        visit.draw_a_seven()
        assert visit.page.locator("#bars li").count() == 5
        assert visit.page.evaluate("document.getElementById('row').naturalWidth") == 28
        assert "what the net received: 1×28×28" in visit.page.inner_text("#row-text")
        assert " waiting, " in visit.page.inner_text("#timing")
        assert "of it)" in visit.page.inner_text("#proof")
        visit.page.wait_for_selector("#live .tile")
        assert visit.page.evaluate("document.documentElement.scrollWidth") == width
        state = visit.page.locator("#models td:nth-child(3)").first.bounding_box()
        assert state["width"] > 250, "a sentence can be read, on a phone too"
        assert visit.errors == []
        assert visit.hosts <= {server.url.split("/")[2], ""}
        if AXE is not None:
            assert browser_kit.violations(visit.page) == []
    finally:
        visit.context.close()


@pytest.mark.skipif(AXE is None, reason=f"axe-core is {NEEDED}")
def test_axe_finds_a_planted_fault(visit: Visit) -> None:
    visit.page.evaluate("document.querySelector('main').append(document.createElement('img'))")
    assert any(found.startswith("image-alt") for found in browser_kit.violations(visit.page))


def test_a_rotated_jpeg_is_turned_as_its_camera_says(visit: Visit, server: Server) -> None:
    upright = Image.fromarray(np.asarray(Image.open(SEVEN).convert("L")).repeat(8, 0).repeat(8, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    upright.rotate(90, expand=True).save(buffer := io.BytesIO(), "JPEG", exif=exif, quality=95)
    visit.choose("digits")
    visit.page.set_input_files("#file", picture(buffer.getvalue()))
    visit.page.wait_for_selector("#answer:not([hidden])")
    expected = httpx.post(f"{server.url}/predict?model=digits", content=buffer.getvalue()).json()
    assert visit.page.inner_text("#message").startswith(expected["predictions"][0]["label"] + ", ")
    shown = visit.page.evaluate("document.getElementById('row').src.split(',')[1]")
    row = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown))), float)
    assert np.abs(row - np.asarray(Image.open(SEVEN).convert("L").resize((28, 28)), float)).mean() < 12


def test_a_picture_is_pasted_dropped_and_photographed(visit: Visit) -> None:
    visit.choose("digits")
    give = f"""(name) => {{
      const data = new DataTransfer();
      data.items.add(new File([{BYTES}], "seven.png", {{ type: "image/png" }}));
      const event = name === "paste" ? new ClipboardEvent(name, {{ clipboardData: data, bubbles: true }})
        : new DragEvent(name, {{ dataTransfer: data, bubbles: true, cancelable: true }});
      document.body.dispatchEvent(event);
    }}"""

    for name in ("paste", "drop"):
        visit.page.evaluate(give, name)
        visit.wait_for("seven.png", "#code")
        visit.page.wait_for_selector("#answer:not([hidden])")
    visit.page.click("#photograph")
    visit.page.wait_for_function("() => document.getElementById('video').videoWidth > 0")
    visit.page.click("#take")
    visit.wait_for("photograph.jpg", "#code")
    visit.wait_for("%")
    assert visit.errors == []


def test_a_digit_is_drawn_with_the_keyboard(visit: Visit) -> None:
    visit.choose("digits")
    visit.page.focus("#draw-open")
    visit.page.keyboard.press("Enter")
    visit.page.focus("#canvas")
    visit.page.keyboard.press(" ")
    for _ in range(7):
        visit.page.keyboard.press("ArrowDown")
    visit.page.focus("#draw-send")
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_selector("#answer:not([hidden])")


def test_what_is_refused_is_a_sentence(visit: Visit) -> None:
    visit.choose("digits")
    visit.page.set_input_files("#file", picture(b"no picture"))
    assert visit.wait_for("The body is not a JPEG, PNG or WebP picture.")
    assert not visit.page.is_visible("#answer")
    visit.choose("pair")
    assert visit.page.locator("#message.soft").count() == 1, "another model has refused nothing"


def test_of_several_labels_all_that_apply_are_told(visit: Visit) -> None:
    top = [{"label": "cat", "probability": 0.999964}, {"label": "dog", "probability": 0.4}]
    row = {"png": "data:,", "shape": [1, 1, 1], "minimum": 0, "maximum": 1}
    answer = {"model_name": "digits", "model_version": "1"}
    visit.choose("digits")
    for labels, told in ((top, "cat, 99.99 %; dog, 40.0 %"), (top[:0], "No label is likely enough.")):
        document = {**answer, "predictions": [{"labels": labels, "top": top, "row": row}]}
        visit.page.route(
            "**/predict*", partial(lambda document, route: route.fulfill(json=document), document)
        )
        visit.page.set_input_files("#file", picture(SEVEN.read_bytes()))
        visit.wait_for(told)


def test_a_model_without_pictures_is_asked_with_zeros(visit: Visit) -> None:
    visit.choose("pair")
    assert "takes no pictures" in visit.page.inner_text("#model-note")
    visit.page.click("#zeros")
    visit.wait_for("[1, ")
    assert visit.errors == []


def test_every_version_has_its_state_and_why_it_is_not_served(visit: Visit) -> None:
    visit.page.wait_for_selector("#models tbody tr")
    rows = [row.split("\t") for row in visit.page.inner_text("#models tbody").splitlines()]
    assert [row[:2] for row in rows] == [["digits", "1"], ["digits", "2"], ["pair", "1"], ["unproved", "1"]]
    assert rows[0][2].startswith("ready: proved here on ")
    assert rows[1][2].startswith("refused: ")
    assert "differs" in rows[1][2]
    assert rows[3][2] == "ready: unproved: no rows suit it"
    assert visit.page.locator("#models .wait").inner_text() == "ready", "not in the colour of what is proved"
    visit.choose("unproved")
    assert "Unproved: nothing shows it" in visit.page.inner_text("#proof")
    visit.choose("pair")
    assert "Yes. Before its first request" in visit.page.inner_text("#proof")


def test_the_code_that_is_shown_runs(visit: Visit, tmp_path: Path) -> None:
    visit.choose("digits")
    visit.page.set_input_files("#file", picture(SEVEN.read_bytes(), "seven.png", "image/png"))
    visit.page.wait_for_selector("#answer:not([hidden])")
    label = visit.page.inner_text("#message").split(",")[0]
    shutil.copy(SEVEN, tmp_path / "seven.png")
    texts = {}
    for tab in ("curl", "Python", "tritonclient", "JavaScript"):
        visit.page.click(f"#tab-{tab}")
        texts[tab] = visit.page.inner_text("#code")
    shown = subprocess.run(
        texts["curl"], shell=True, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert f'"predictions":[{{"label":"{label}"' in shown.stdout
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    for tab in ("Python", "tritonclient"):
        command = [sys.executable, "-c", texts[tab]]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        if tab == "Python":
            assert done.stdout.splitlines()[0].split()[1] == label
        else:
            assert str(np.fromstring(done.stdout.strip("[]\n "), sep=" ").argmax()) == label
    # The file in the page's input stands for the one that a user has chosen.
    visit.page.evaluate(
        f"() => {{ const data = new DataTransfer(); data.items.add(new File([{BYTES}], 'seven.png'));"
        " document.getElementById('file').files = data.files; }"
    )
    with visit.page.expect_console_message() as told:
        visit.page.evaluate(f"async () => {{ {texts['JavaScript']} }}")
    assert told.value.args[0].json_value()[0]["label"] == label


def test_a_model_that_is_swapped_is_noticed(visit: Visit, models: Path, server: Server) -> None:
    visit.choose("digits")
    visit.draw_a_seven()
    write_bundle(models / "digits" / "3", digits_net(seed=3))
    assert httpx.post(f"{server.url}/v2/repository/models/digits/load", timeout=60).status_code == 200
    try:
        visit.wait_for("digits is now version 3; the answer shown is of version 1.")
        visit.page.click("#draw-send")
        visit.wait_for("digits version 3 took", "#timing")
    finally:
        shutil.rmtree(models / "digits" / "3")
        assert httpx.post(f"{server.url}/v2/repository/models/digits/load", timeout=60).status_code in (
            200,
            400,
        )


def test_overload_and_a_service_that_has_gone_are_sentences(browser: Any, tmp_path: Path) -> None:
    write_bundle(tmp_path / "digits" / "1", digits_net())
    with serving(tmp_path) as server:
        visit = Visit(browser, server.url)
        visit.choose("digits")
        visit.page.route(
            "**/predict*",
            lambda route: route.fulfill(
                status=503,
                headers={"retry-after": "2"},
                json={"error": "the queue of model 'digits' is full"},
            ),
        )
        visit.page.set_input_files("#file", picture(SEVEN.read_bytes()))
        visit.wait_for("The queue of model 'digits' is full. Try again in 2 s.")
        visit.page.unroute("**/predict*")
        server.terminate()
        server.wait()
        visit.wait_for("no connection", "#status")
        assert visit.page.locator("body.gone").count() == 1, "what was true before is dimmed"
        visit.page.set_input_files("#file", picture(SEVEN.read_bytes()))
        visit.wait_for("The service cannot be reached.")
        visit.context.close()


def test_a_key_is_asked_for_and_used(browser: Any, tmp_path: Path) -> None:
    write_bundle(tmp_path / "models" / "digits" / "1", digits_net())
    secret, line = new_key("page", "infer,metrics")
    (tmp_path / "keys").write_text(line)
    with serving(tmp_path / "models", "--api-keys", str(tmp_path / "keys")) as server:
        visit = Visit(browser, server.url)
        visit.page.fill("#key", secret)
        visit.page.click("#key-form button")
        visit.choose("digits")
        visit.draw_a_seven()
        assert "FOLDSERVE_API_KEY" in visit.page.inner_text("#code")
        assert not visit.page.is_visible("#key-form")
        visit.context.close()


def test_the_policy_lets_no_inline_script_run(visit: Visit) -> None:
    visit.page.evaluate(
        "() => { const script = document.createElement('script');"
        " script.textContent = 'window.planted = 1'; document.body.append(script); }"
    )
    assert visit.page.evaluate("window.planted") is None
    assert any("Content Security Policy" in error for error in visit.errors)
