"""Ray Serve beside our own server, both with the same bundle and one replica.  Needs ray[serve] and wrk.

    python -m benchmarks.ray_beside --bundle models/digits/1

Ours is `foldserve serve`; Serve's replica is `deploy/ray/serve.py` behind Serve's proxy.  wrk sends each one
golden row a request over 16 connections, in turn, in one run; the rounds' median quotient is printed.
"""

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.attacks.server import Server
from benchmarks.common import cpu_model, new_parser
from benchmarks.replicas import answers_per_s, write_request

PORT = 8765
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
os.environ["PYTHONPATH"] = f"{Path(__file__).parents[1]}:{os.environ.get('PYTHONPATH', '')}"  # of its workers


def main() -> int:
    """Print one line of JSON."""
    parser = new_parser(sys.modules[__name__])
    parser.add_argument("--bundle", type=Path, required=True, help="a version of a model of float32 inputs")
    parser.add_argument("--rounds", type=int, default=5, help="(default 5)")
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement (default 4)")
    options = parser.parse_args()
    import ray
    from ray import serve
    from ray.serve.schema import LoggingConfig

    from deploy.ray.serve import build_app

    models, name = options.bundle.resolve().parent.parent, options.bundle.resolve().parent.name
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_request(folder, name, options.bundle)
        cache = folder / "cache"
        quiet = LoggingConfig(enable_access_log=False, log_level="ERROR")
        ray.init(log_to_driver=False)
        serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config=quiet)
        args = {"models": str(models), "cache": str(cache), "request-log": "off"}
        serve.run(build_app(args), name="foldserve", route_prefix="/", logging_config=quiet)
        with Server(models, cache, "--threads", "1", model=name) as server:
            for _ in range(options.rounds):
                for port, rates in ((server.port, ours), (PORT, theirs)):
                    answers_per_s(folder, port, 1, 1)
                    rates.append(answers_per_s(folder, port, 1, options.seconds))
        serve.shutdown()
        ray.shutdown()
    facts = {
        "cpu": cpu_model(),
        "ray": ray.__version__,
        "ours, answers/s": round(statistics.median(ours), 1),
        "Ray Serve, answers/s": round(statistics.median(theirs), 1),
        "quotient": round(statistics.median(a / b for a, b in zip(theirs, ours, strict=True)), 3),
        "load": os.getloadavg()[0],
    }
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
