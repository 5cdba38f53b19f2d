"""Pictures of extreme shapes under every way to resize: no more memory than was weighed, and no more time."""

import json
import subprocess
import sys

import pytest

from service_kit import ROOT

MARGIN_BYTES = 12 << 20  # the file itself, the row, and what malloc rounds up
SLOWEST_S = 3.0  # on a machine that does other things too
# In a process of its own, whose largest memory is reset before each picture.
MEASURE = """
import io, json, sys, time
from pathlib import Path
from PIL import Image
from service.contract.framing import Resize
from service.contract.pictures import read_pixels
from service.contract.target import Target
from service.pictures.weight import weigh

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])

read_pixels(Path("docs/seven.png").read_bytes(), Target(mode="RGB", height=28, width=28, max_pixels=10**6))
for size in ((1, 65500), (65500, 1), (3, 20000), (20000, 3), (40, 24000), (24000, 40), (1, 1), (990, 990)):
    file = io.BytesIO()
    Image.new("RGB", size, (9, 80, 200)).save(file, "PNG")
    for mode in ("exact", "shorter", "longest"):
        for interpolation, antialias in (
            ("nearest", True), ("bilinear", True), ("bicubic", True), ("lanczos", True),
            ("bilinear", False), ("bicubic", False),
        ):
            resize = Resize(mode=mode, size=(256,), interpolation=interpolation, antialias=antialias)
            target = Target(mode="RGB", height=224, width=224, max_pixels=10**8, resize=resize, fill=(114,))
            weight = weigh(file.getvalue(), target)
            Path("/proc/self/clear_refs").write_text("5")
            before, begun = memory("VmRSS"), time.perf_counter()
            pixels = read_pixels(file.getvalue(), target)
            seconds = time.perf_counter() - begun
            assert pixels.shape == (3, 224, 224)
            print(json.dumps({
                "what": [*size, mode, interpolation, antialias], "weighed": weight.num_bytes,
                "light": weight.is_light, "took": memory("VmHWM") - before, "seconds": seconds,
            }))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_no_shape_takes_more_than_was_weighed():
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    measured = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(measured) == 8 * 3 * 6
    beyond = [each for each in measured if each["took"] > each["weighed"] + MARGIN_BYTES]
    assert beyond == []
    assert [each for each in measured if each["seconds"] > SLOWEST_S] == []
    assert all(each["light"] for each in measured)
