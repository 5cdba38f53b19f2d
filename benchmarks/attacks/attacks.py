"""All attacks by name, each made when its turn comes: some have 120 MB."""

from benchmarks.attacks import on_http, on_json, on_pictures

KINDS = {"pictures": on_pictures.ATTACKS, "json": on_json.ATTACKS, "http": on_http.ATTACKS}
ATTACKS = {name: make for attacks in KINDS.values() for name, make in attacks.items()}


def chosen(names: str | None) -> list[str]:
    """The names in a list like "scans,json", kinds as the names of all of theirs; ValueError for others."""
    found: list[str] = []
    for name in names.split(",") if names else KINDS:
        if name not in KINDS and name not in ATTACKS:
            raise ValueError(f"no such attack: {name}; there are {', '.join([*KINDS, *ATTACKS])}")
        found += KINDS.get(name, [name])
    return found
