"""One client's form: however its parts, headers and boundaries are made, others are answered meanwhile.

Parsed on the event loop, a charset held everyone up for 93 s, spaces after a boundary 26 s, and repeated
boundaries 16 s.
"""

import contextlib
import time
from collections.abc import Iterator

import httpx
import pytest

from benchmarks.attacks.processes import MemoryWatch
from neighbour import Neighbour
from service.errors import BadRequest, TooLarge
from service.pictures.form import MAX_BOUNDARY, files_of
from service_kit import ROOT, Server, serving
from tiny_nets import digits_net, write_bundle

MB = 1 << 20
SLOWEST_S = 3.0  # of another client's two requests, on a busy machine
MAX_CPU_S = 1.0  # of parsing 60 MB, which takes 0.03 to 0.17 s
MAX_MEMORY_MB = 512  # over the quiet process
FORM = "multipart/form-data; boundary=b"
FILE = b'Content-Disposition: form-data; name="x"; filename="f"\r\n'
FIELD = b'Content-Disposition: form-data; name="x"\r\n'
SEVEN = (ROOT / "docs" / "seven.png").read_bytes()


def part(content: bytes, head: bytes = FILE) -> bytes:
    return b"--b\r\n" + head + b"\r\n" + content + b"\r\n"


END = b"--b--\r\n"
# More than is refused at its start: what follows is parsed whole.
PICTURE = b"\xff\xd8\xff".ljust(100_000)
LONG = b"a" * MAX_BOUNDARY

# Content-Type, body, and status and message of the answer.
ATTACKS: dict[str, tuple[str, bytes, int, str]] = {
    "charset": (f"{FORM}; charset=punycode", part(b"a" * MB + b"-" + b"a" * MB, FIELD) + END, 400, "no file"),
    "charset of a file": (
        f"{FORM}; charset=punycode",
        part(SEVEN, FILE.replace(b'"f"', b'"' + b"a" * 500 + b"-" + b"a" * 500 + b'"')) + END,
        200,
        '"label"',
    ),
    "spaces": (FORM, part(PICTURE + b"\r\n--b" + b" " * (60 * MB)) + END, 400, "cannot be read"),
    "boundaries": (FORM, part(PICTURE + b"\r\n--bX" * (10 * MB)) + END, 400, "cannot be read"),
    "almost boundaries": (FORM, part(PICTURE + b"\r\n--" * (15 * MB)) + END, 400, "picture"),
    "long boundary": (
        f"multipart/form-data; boundary={LONG.decode()}",
        b"--" + LONG + b"\r\n" + FILE + b"\r\n" + PICTURE + (b"\r\n--" + LONG[1:]) * (60 * MB // 73),
        400,
        "ends too early",
    ),
    "endless boundary": (f"multipart/form-data; boundary={'a' * 5000}", END, 400, "1 to 70 characters"),
    "carriage returns": (FORM, part(PICTURE + b"\r" * (60 * MB)) + END, 400, "picture"),
    "parts": (FORM, part(b"", FIELD) * MB + END, 413, "segment count"),
    "empty files": (FORM, part(b"") * 100_000 + END, 413, "(FOLDSERVE_MAX_FILES)"),
    "headers": (FORM, b"--b\r\n" + b"A: b\r\n" * (10 * MB), 413, "header count"),
    "header": (FORM, b"--b\r\n" + b"a" * (60 * MB), 413, "header length"),
    "options": (FORM, part(b"", FIELD.strip() + b';a="\\' * 400 + b"\r\n") * 500 + END, 400, "no file"),
    "preamble": (FORM, b"x" * (60 * MB), 400, "ends too early"),
    "epilogue": (FORM, part(SEVEN) + END + b"x" * (60 * MB), 200, '"label"'),
    "no end": (FORM, part(PICTURE + bytes(60 * MB)), 400, "ends too early"),
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("models")
    write_bundle(models / "digits" / "1", digits_net())
    with serving(models) as running:
        yield running


@pytest.mark.parametrize("name", ATTACKS)
def test_its_form_holds_up_no_other_client(digits: Server, name: str) -> None:
    content_type, body, status, message = ATTACKS[name]
    with Neighbour(digits.url) as neighbour, MemoryWatch(digits.process.pid) as memory:
        answer = httpx.post(
            f"{digits.url}/predict", content=body, headers={"content-type": content_type}, timeout=120
        )
    assert (answer.status_code, message in answer.text) == (status, True), answer.text[:300]
    assert neighbour.failures == []
    assert neighbour.slowest_s < SLOWEST_S
    assert memory.peak_mb < memory.quiet_mb + MAX_MEMORY_MB


@pytest.mark.parametrize("name", ATTACKS)
def test_a_form_costs_little_whatever_it_holds(name: str) -> None:
    content_type, body, _, _ = ATTACKS[name]
    begun = time.process_time()
    with contextlib.suppress(BadRequest, TooLarge):
        files_of(content_type, body, 256)
    assert time.process_time() - begun < MAX_CPU_S


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        (b"a.png", "a.png"),
        ("é 漢.png".encode(), "é 漢.png"),
        ("é.png".encode("latin-1"), "é.png"),
        (b"", "file"),
        (b"C:\\fakepath\\a.png", "a.png"),
    ],
)
def test_names_are_read_as_utf8_or_latin1(filename: bytes, name: str) -> None:
    head = b'Content-Disposition: form-data; name="x"; filename="' + filename + b'"\r\n'
    assert files_of(FORM, part(b"content", head) + END, 1) == [(name, bytearray(b"content"))]


def test_files_are_whole_however_they_lie_across_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [b"", b"\r\n--", b"\r\n--c--" * 3, bytes(range(256)), b"-" * 50]
    body = b"preamble\r\n" + b"".join(part(file) + part(b"text", FIELD) for file in files) + END + b"epilogue"
    for size in (1, 2, 3, 7, 64, 10_000):
        monkeypatch.setattr("service.pictures.form.SLICE", size)
        assert files_of(FORM, body, len(files)) == [("f", file) for file in files]
        with pytest.raises(BadRequest, match="ends too early"):
            files_of(FORM, body[: body.index(END)], len(files))


@pytest.mark.parametrize("name", ["spaces", "no end", "parts", "carriage returns", "empty files"])
def test_a_refused_form_leaves_no_memory_to_the_garbage_collector(digits: Server, name: str) -> None:
    content_type, body, status, _ = ATTACKS[name]
    with MemoryWatch(digits.process.pid) as memory:
        for _ in range(12):
            answer = httpx.post(
                f"{digits.url}/predict", content=body, headers={"content-type": content_type}, timeout=120
            )
            assert answer.status_code == status
    assert memory.peak_mb < memory.quiet_mb + 4 * 64, "12 bodies of up to 60 MB, one after another"
