"""In which numbers a bundle answers here: its float32 graph, or the int8 graph that it may hold beside it.

In: a bundle, the setting FOLDSERVE_INT8.  Out: the `Engine` that serves, whose `precision` says why.

    float32    is proved always: it is what the bundle is proved by
    int8       serves if its golden int8 answers replay within their tolerance on this device,
               and (unless it is required) it is faster here:

    rows/s of int8 > 1.05 · rows/s of float32 in batches of BATCH,  and ≥ 1/1.05 of it in batches of one

Both are measured in turn, every lane busy, by the plan that each is served with. A CPU whose 8-bit products
saturate gives other int8 answers than the exporting machine's, and so fails the replay.

What was measured is kept beside the plans, true under the same conditions. Of several processes that start
together the first to finish decides for all, so that the workers of one server answer alike.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import orjson

from service.contract.bundle import GRAPH_FILE, Bundle, sha256
from service.contract.files import aside, publish
from service.contract.int8 import INT8_GRAPH_FILE
from service.contract.parity import Parity
from service.contract.text import first_line
from service.engine.engine import Engine, EngineConfig, Precision, load_engine, plan_request
from service.engine.plan import BETTER
from service.engine.session import CPU, EngineError

BATCH = 8
MAX_ROUNDS = 7
MAX_SECONDS = 1.0  # after which no further round begins
Ratios = Mapping[int, float]
"""Rows/s of int8 over those of float32, by the rows of a batch."""

_log = logging.getLogger("foldserve")


def load_fastest(bundle: Bundle, config: EngineConfig) -> Engine:
    """The engine of the graph that is to answer; raises EngineError if float32 is not proved.

    Raises it too where int8 is required and cannot serve.
    """
    exact = load_engine(bundle, config)
    kept = _kept_at(bundle, config, exact)
    why_not = _why_no_int8(bundle, config, exact)
    if why_not is None and config.int8 == "auto" and (ratios := _read(kept, exact)):
        why_not = _why_slower(ratios)  # as an earlier start found: the int8 graph is not even loaded
    quick: Engine | None = None
    try:
        quick = None if why_not else _load_int8(bundle, config)
    except Exception as error:  # a damaged graph makes libraries raise anything: float32 is proved
        why_not = f"its golden int8 answers do not replay here: {first_line(error)}"
    if quick is not None and config.int8 != "require":
        why_not = _why_slower(_read(kept, exact) or _keep(kept, _measured(exact, quick, bundle), exact))
    if why_not is not None and config.int8 == "require":
        exact.release()
        raise EngineError(f"int8 is required (FOLDSERVE_INT8), and cannot serve: {why_not}")
    if quick is None or why_not is not None:
        if quick is not None:
            quick.release()
        if bundle.int8 is not None:
            _log.info("event=precision serves=float32 digest=%s reason=%r", bundle.digest[:12], why_not)
        exact.precision = Precision(reason=why_not if bundle.int8 is not None else None)
        return exact
    quick.parity = exact.parity
    quick.precision = Precision(name="int8")
    exact.release()
    _log.info("event=precision serves=int8 digest=%s", bundle.digest[:12])
    return quick


def _why_no_int8(bundle: Bundle, config: EngineConfig, exact: Engine) -> str | None:
    """What excludes int8 before it is tried."""
    if bundle.int8 is None:
        return "the bundle has no int8 graph (export bundle --dtype int8)"
    if config.int8 == "off":
        return "FOLDSERVE_INT8 is off"
    if exact.provider != CPU:
        return f"int8 is for CPUs, this is {exact.provider}"
    return None


def _load_int8(bundle: Bundle, config: EngineConfig) -> Engine:
    """The int8 graph, replayed in every bucket and lane; raises EngineError."""
    assert bundle.int8 is not None
    quantized = replace(
        bundle,
        graph=bundle.int8.graph,
        golden=bundle.int8.golden,
        digest=sha256(f"int8 of {bundle.digest}".encode()),  # plans are kept by it
    )
    try:
        return load_engine(quantized, config, _int8_excess)
    except EngineError as error:
        raise EngineError(str(error).replace(GRAPH_FILE, INT8_GRAPH_FILE)) from None


def _int8_excess(bundle: Bundle, parities: Sequence[Parity]) -> str | None:
    assert bundle.manifest.int8 is not None
    return parities[0].excess(bundle.manifest.int8.tolerances)


def _measured(exact: Engine, quick: Engine, bundle: Bundle) -> Ratios:
    """Both graphs in turn: what disturbs one disturbs the other. A few rounds, about MAX_SECONDS in all."""
    rows = bundle.golden.inputs
    found: dict[int, list[float]] = {size: [] for size in _sizes(exact)}
    deadline = time.perf_counter() + MAX_SECONDS
    for _ in range(MAX_ROUNDS):
        for num_rows, ratios in found.items():
            bucket = exact.bucket(num_rows)
            ratios.append(quick.rows_per_s(bucket, rows) / exact.rows_per_s(bucket, rows))
        if time.perf_counter() > deadline:
            break
    return {num_rows: median(ratios) for num_rows, ratios in found.items()}


def _sizes(engine: Engine) -> list[int]:
    """The rows of the batches that are compared: the first must be faster, the last not slower."""
    return list(dict.fromkeys([min(BATCH, engine.largest), 1]))


def _why_slower(ratios: Ratios) -> str | None:
    """Why int8 does not pay on this device, or None: it does."""
    sizes = list(ratios)
    for num_rows, least in ((sizes[0], BETTER), (sizes[-1], 1 / BETTER)):
        if (ratio := ratios[num_rows]) <= least:
            return (
                f"int8 is {ratio:.2f} × as fast as float32 here in batches of {num_rows}, "
                f"expected over {least:.2f}"
            )
    return None


def _kept_at(bundle: Bundle, config: EngineConfig, exact: Engine) -> Path | None:
    """Where ratios are kept: by what a plan is kept by, under a digest that no plan has."""
    if config.cache is None:
        return None
    compared = replace(bundle, digest=sha256(f"int8 against float32 of {bundle.digest}".encode()))
    request = plan_request(compared, replace(config, buckets=exact.buckets), exact.provider)
    return config.cache / f"{request.key}.json"


def _read(path: Path | None, exact: Engine) -> Ratios | None:
    try:
        kept = orjson.loads(path.read_bytes()) if path is not None else None
        ratios = {size: float(kept[str(size)]) for size in _sizes(exact)} if kept else {}
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None
    return ratios if ratios and all(0 < ratio < float("inf") for ratio in ratios.values()) else None


def _keep(path: Path | None, ratios: Ratios, exact: Engine) -> Ratios:
    """Keep what was measured, unless another process was first: then what that one measured.

    A link fails where its name exists, so of several writers exactly one is first.
    """
    if path is None:
        return ratios
    content = orjson.dumps({str(size): ratio for size, ratio in ratios.items()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside(path, is_shared=True) as place:
            place.write_bytes(content)
            try:
                os.link(place, path)
            except FileExistsError:
                if (first := _read(path, exact)) is not None:
                    return first
                publish(path, content, is_shared=True)  # what stands there cannot be read
    except OSError as error:
        _log.debug("event=precision_not_kept reason=%r", error.strerror)
    return ratios
