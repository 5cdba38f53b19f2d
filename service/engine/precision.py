"""In which numbers a bundle answers here: its float32 graph, or the int8 graph that it may hold beside it.

In: a bundle, the setting FOLDSERVE_INT8.  Out: the `Engine` that serves, whose `precision` says why.

    float32    is proved always: it is what the bundle is proved by
    int8       serves if its golden int8 answers replay within their tolerance on this device,
               and (unless it is required) it is faster here:

    rows/s of int8 > 1.05 · rows/s of float32 in batches of BATCH,  and ≥ 1/1.05 of it in batches of one

Both are measured in turn, every lane busy, by the plan that each is served with. A CPU whose 8-bit products
saturate gives other int8 answers than the exporting machine's, and so fails the replay.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from service.contract.bundle import Bundle, sha256
from service.contract.parity import Parity
from service.engine.engine import Engine, EngineConfig, Precision, load_engine
from service.engine.plan import BETTER
from service.engine.session import CPU, EngineError

BATCH = 8
MAX_ROUNDS = 7
MAX_SECONDS = 1.0  # after which no further round begins
_log = logging.getLogger("foldserve")


def load_fastest(bundle: Bundle, config: EngineConfig) -> Engine:
    """The engine of the graph that is to answer; raises EngineError if float32 is not proved.

    Raises it too where int8 is required and cannot serve.
    """
    exact = load_engine(bundle, config)
    try:
        why_not = _why_no_int8(bundle, config, exact)
        quick = None if why_not else _load_int8(bundle, config)
    except EngineError as error:
        why_not, quick = f"its golden int8 answers do not replay here: {error}", None
    if quick is not None and config.int8 != "require":
        why_not = _why_slower(exact, quick, bundle)
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
    return load_engine(quantized, config, _int8_excess)


def _int8_excess(bundle: Bundle, parities: Sequence[Parity]) -> str | None:
    assert bundle.manifest.int8 is not None
    return parities[0].excess(bundle.manifest.int8.tolerances)


def _why_slower(exact: Engine, quick: Engine, bundle: Bundle) -> str | None:
    """Why int8 does not pay on this device, or None: it does."""
    rows = bundle.golden.inputs
    largest = min(BATCH, exact.largest)
    ratios: dict[int, list[float]] = {1: [], largest: []}
    deadline = time.perf_counter() + MAX_SECONDS
    for _ in range(MAX_ROUNDS):
        for bucket, of_bucket in ratios.items():
            size = exact.bucket(bucket)
            of_bucket.append(quick.rows_per_s(size, rows) / exact.rows_per_s(size, rows))
        if time.perf_counter() > deadline:
            break
    for bucket, least in ((largest, BETTER), (1, 1 / BETTER)):
        if (ratio := median(ratios[bucket])) <= least:
            return (
                f"int8 is {ratio:.2f} × as fast as float32 here in batches of {bucket}, "
                f"expected over {least:.2f}"
            )
    return None
