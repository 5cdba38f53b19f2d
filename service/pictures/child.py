"""A process that decodes pictures, and may be killed meanwhile: `python -m service.pictures.child`.

In: the target, as JSON; then the files.  Out: pixels (N, C, H, W) uint8 of N files, or
the index of the first that cannot be decoded, and why not, in UTF-8.

Imports numpy, Pillow and the contract.
"""

from PIL.Image import init

from service.contract.pictures import PictureError, UnknownFormatError, read_pixels
from service.contract.target import Target
from service.isolation.child import Answer, answer_requests

PIXELS = b"p"
UNKNOWN = b"u"
FAILED = b"f"


def main() -> None:
    """Decode until there is nothing more to decode."""
    init()  # Pillow's formats: what they import counts as idle memory
    answer_requests(_decode)


def _decode(parts: list[bytes]) -> Answer:
    target = Target.from_json(parts[0])
    pixels = bytearray()
    for index, content in enumerate(parts[1:]):
        try:
            pixels += read_pixels(content, target).tobytes()
        except UnknownFormatError as error:
            return UNKNOWN, str(error).encode(), index
        except PictureError as error:
            return FAILED, str(error).encode(), index
    return PIXELS, bytes(pixels), 0


if __name__ == "__main__":
    main()
