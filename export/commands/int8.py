"""How `bundle` shows an int8 graph: a table on stderr, facts for stdout."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.contract.int8 import Int8


def show_int8(int8: Int8, console: Console) -> None:
    """A table of every layer, then what int8 costs and brings, in sentences."""
    table = Table("op", "in", "SQNR", "range", "from", "why it stays float")
    for layer in int8.layers:
        reach = "" if layer.low is None or layer.high is None else f"{layer.low:.3g} … {layer.high:.3g}"
        table.add_row(
            escape(f"{layer.op_type} {layer.name}"),
            f"[{'green' if layer.status == 'int8' else 'yellow'}]{layer.status}[/]",
            "" if layer.sqnr_db is None else f"{layer.sqnr_db:.1f} dB",
            reach,
            layer.range_source or "",
            escape(layer.reason or ""),
        )
    console.print(table)
    for sentence in sentences(int8):
        console.print(sentence, highlight=False)


def sentences(int8: Int8) -> list[str]:
    """What it costs and what it brings."""
    worst = min(int8.sqnr_db.values())
    said = [f"int8: SQNR {worst:.1f} dB over {int8.sqnr_rows} rows, ranges by {int8.ranges.method}"]
    if int8.agreement is not None:
        said.append(f"int8: {int8.agreement.same} of {int8.agreement.rows} rows keep their label")
    if int8.accuracy is not None:
        said.append(
            f"int8: {100 * int8.accuracy.float32:.2f} % right in float32, {100 * int8.accuracy.int8:.2f} % "
            f"in int8, of {int8.accuracy.rows} labelled rows"
        )
    said += [
        f"int8: {one.ratio:.2f} × as fast as float32 at batch {one.batch}, one thread" for one in int8.speed
    ]
    return said


def int8_facts(int8: Int8) -> dict[str, object]:
    """The block of the manifest without its layers, and what follows from it."""
    facts: dict[str, object] = int8.model_dump(exclude={"layers"})
    facts["speedup"] = {str(one.batch): one.ratio for one in int8.speed}
    if int8.accuracy is not None:
        facts["accuracy_drop"] = int8.accuracy.drop
    if int8.agreement is not None:
        facts["label_agreement"] = int8.agreement.share
    return facts
