"""Labels of pictures: `python examples/pictures.py URL PICTURE …`."""

import sys

from foldserve.client import BadRequest, Client

url, *pictures = sys.argv[1:]
with Client(url, timeout_s=10) as client:
    for picture in pictures:
        try:
            found = client.predict(picture, top=3)
        except BadRequest as error:  # this picture; of all others, the program should hear
            print(f"{picture}: {error}")
            continue
        print(f"{picture}: " + ", ".join(f"{label} {probability:.1%}" for label, probability in found.top))
