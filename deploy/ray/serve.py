"""Replicas of the service behind Ray Serve's proxy: Ray places, restarts and scales them.

In: a configuration's `args`: flags of `foldserve serve`, and how many replicas.  Out: Serve's application.

    serve run deploy.ray.serve:build_app models=/srv/models num_replicas=3
    kubectl apply -f deploy/ray/rayservice.yaml

Each replica is `foldserve.asgi`: the same protocol, batches and proof.  Serve waits for its startup, which
ends when the models are proved and fails if they are not, so no replica gets a request before.
"""

from typing import Any

from ray import serve

from foldserve.asgi import AsgiService

OURS = {"num_replicas": 1, "num_cpus": 1, "max_ongoing_requests": 1024}
DRAIN_S = 30.0


def flags(args: dict[str, Any]) -> list[str]:
    """The flags of `foldserve serve` among an application's `args`."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in args.items() if name not in OURS]


def build_app(args: dict[str, Any]) -> serve.Application:
    """The application; `args` that are not of Ray's replicas are flags (`models`, `lanes`, …)."""
    replicas = {name: float(args.get(name, default)) for name, default in OURS.items()}
    arguments = flags({"threads": max(1, int(replicas["num_cpus"])), **args})

    @serve.deployment(
        name="foldserve",
        num_replicas=int(replicas["num_replicas"]),
        max_ongoing_requests=int(replicas["max_ongoing_requests"]),
        ray_actor_options={"num_cpus": replicas["num_cpus"]},
        health_check_period_s=1,
        health_check_timeout_s=3,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=DRAIN_S,
    )
    @serve.ingress(lambda: AsgiService(arguments))
    class Foldserve:
        """One replica."""

        def check_health(self) -> None:
            """Let Ray replace a replica that is not ready."""
            if (reason := self.app.reason) is not None:  # type: ignore[attr-defined]
                raise RuntimeError(reason)

    return Foldserve.bind()  # type: ignore[attr-defined]
