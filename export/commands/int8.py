"""How `bundle` shows an int8 graph: a table on stderr, facts for stdout."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from export.bundle.int8_section import sentences
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
        console.print(f"int8: {sentence}", highlight=False)


def int8_facts(int8: Int8) -> dict[str, object]:
    """The block of the manifest without its layers, and what follows from it."""
    facts: dict[str, object] = int8.model_dump(exclude={"layers"})
    facts["speedup"] = {str(one.batch): one.ratio for one in int8.speed}
    if int8.accuracy is not None:
        facts["accuracy_drop"] = int8.accuracy.drop
    if int8.agreement is not None:
        facts["label_agreement"] = int8.agreement.share
    return facts
