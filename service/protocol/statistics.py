"""The statistics extension: what a version's requests and batches took, in the protocol's words.

In: the plain numbers of a version (see metrics.py).  Out: one entry of {"model_stats": […]}.

    success, fail, queue     one a request: how many, and nanoseconds in total
    compute_*                one a batch:  rows copied in, computed, copied out
"""

from typing import Any


def model_stats(facts: dict[str, Any]) -> dict[str, Any]:
    """The entry of GET /v2/models/M/stats for one version, with every key that perf_analyzer reads."""
    counters, histograms = facts["counters"], facts["histograms"]
    sizes = facts["batch_sizes"]
    batches = sum(size["executions"] for size in sizes.values())

    def of_batches(key: str) -> dict[str, int]:
        return _duration(batches, sum(size[key] for size in sizes.values()))

    return {
        "name": facts["name"],
        "version": facts["version"],
        "last_inference": round(facts["last_inference"] * 1000),
        "inference_count": counters["rows"],
        "execution_count": batches,
        "inference_stats": {
            "success": _duration(counters["requests"], histograms["request_total"]["total"]),
            "fail": _duration(counters["failed_requests"], counters["failed_s"]),
            "queue": _duration(counters["requests"], histograms["request_queue"]["total"]),
            "compute_input": of_batches("input_s"),
            "compute_infer": of_batches("compute_s"),
            "compute_output": of_batches("output_s"),
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        },
        "batch_stats": [
            {
                "batch_size": int(rows),
                "compute_input": _duration(size["executions"], size["input_s"]),
                "compute_infer": _duration(size["executions"], size["compute_s"]),
                "compute_output": _duration(size["executions"], size["output_s"]),
            }
            for rows, size in sorted(sizes.items(), key=lambda item: int(item[0]))
        ],
        "memory_usage": [],
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}
