"""A multipart form's files.

In: a Content-Type and a body.  Out: each file's name and bytes, or BadRequest or TooLarge.

Runs in a thread, and takes time in proportion to the bytes, whatever they are: parts, headers and boundary
are bounded, and names are read as UTF-8 or else Latin-1, never as a charset that the client names. The body
is parsed in slices, because one search of 60 MB would hold the interpreter's lock from its start to its end.
"""

from collections.abc import Iterator

from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from service.contract.bytes_like import Buffer
from service.errors import BadRequest, TooLarge
from service.isolation.gathered import Gathered

Picture = tuple[str | None, Buffer]  # a file's name, None where the picture is the body itself, and its bytes

MAX_BOUNDARY = 70  # RFC 2046
MAX_HEADERS = 8  # of a part; RFC 7578 defines three
MAX_HEADER_BYTES = 2048
SLICE = 64 * 1024

_FORM = "multipart/form-data"


def is_form(content_type: str) -> bool:
    """Whether a request with this Content-Type carries a form."""
    return content_type[: len(_FORM)].lower() == _FORM


def files_of(content_type: str, body: Buffer, max_files: int, *, is_whole: bool = True) -> list[Picture]:
    """Name and bytes of every file, in the order of the form; fields that are no files are left out.

    Of a body that is only a form's start, the last file may be cut off, and there may be none.
    """
    parser = PushMultipartParser(
        _boundary(content_type),
        max_header_size=MAX_HEADER_BYTES,
        max_header_count=MAX_HEADERS,
        max_segment_count=2 * max_files,  # as many other fields may stand beside the files
        header_charset="latin-1",  # never fails; `_name` reads the bytes again
    )
    files: list[Picture] = []
    problem = "cannot be read"
    try:
        for file in _read(parser, body, is_whole):
            files.append(file)
            if len(files) > max_files:
                raise TooLarge(
                    f"the multipart body holds more than {max_files} files, "
                    "the maximum of a request (FOLDSERVE_MAX_FILES)"
                )
        problem = "ends too early: its closing boundary is missing"
        if is_whole:
            parser.close()
    except MultipartError as error:
        # It holds the frames that hold the parser and the body, and the parser and one frame hold it: in that
        # circle 60 MB would stay until garbage is collected.
        error.__traceback__ = None
        if isinstance(error, ParserLimitReached):
            raise TooLarge(f"the multipart body is over a limit: {error}") from None
        raise BadRequest(f"the multipart body {problem}: {error}") from None
    if is_whole and not files:
        raise BadRequest("the multipart body holds no file; send each picture as a file")
    return files


def _read(parser: PushMultipartParser, body: Buffer, is_whole: bool) -> Iterator[Picture]:
    name: str | None = None
    content = Gathered(len(body))
    for start in range(0, len(body), SLICE):
        for event in parser.parse(bytes(body[start : start + SLICE])):
            if isinstance(event, MultipartSegment):
                name = None if event.filename is None else _name(event.filename)
            elif event is None and name is not None:
                yield name, content.content
                content = Gathered(len(body))
            elif event is not None and name is not None:
                content.add(event)
    if name is not None and not is_whole:
        yield name, content.content


def _boundary(content_type: str) -> str:
    boundary: str = parse_options_header(content_type)[1].get("boundary", "")
    if not 0 < len(boundary) <= MAX_BOUNDARY:
        raise BadRequest(
            "the Content-Type of a multipart body must name a boundary "
            f"of 1 to {MAX_BOUNDARY} characters, got {len(boundary)}"
        )
    return boundary


def _name(filename: str) -> str:
    """A file's name as UTF-8 where its bytes, so far read as Latin-1, are that; "file" if it is empty."""
    try:
        return filename.encode("latin-1").decode() or "file"
    except UnicodeDecodeError:
        return filename
