"""Every system in the table: how it is installed, started and called.

In: a name.  Out: a `System`.  A peer's settings and their reasons are in its own file in benchmarks/peers.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving.wire import Route

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "benchmarks" / "peers"
FORMATS = ("binary", "json", "jpeg")
INFER = "/v2/models/{model}/infer"


@dataclass(frozen=True, kw_only=True)
class System:
    """One server; `lacks` says why there is no route for a format."""

    name: str
    description: str
    routes: Mapping[str, Route]
    lacks: Mapping[str, str] = field(default_factory=dict)
    module: str = ""  # of ours, run with our own Python
    script: str = ""  # of benchmarks/peers
    flags: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()  # of the peer's own environment

    @property
    def room(self) -> str:
        """The name of its environment's folder in --peers."""
        return self.name.partition("-")[0]

    def python(self, peers: Path) -> Path:
        """The interpreter that runs it."""
        return peers / self.room / "bin" / "python" if self.packages else Path(sys.executable)

    def unavailable_reason(self, peers: Path) -> str:
        """Why it cannot be started on this machine; empty if it can."""
        if self.python(peers).exists():
            return ""
        return f"not installed: python -m benchmarks.serving install {self.room}"

    def command(self, *, peers: Path, models: Path, bundle: Path, port: int, threads: int) -> list[str]:
        """The command that starts it on 127.0.0.1."""
        python = str(self.python(peers))
        if self.module == "benchmarks.echo":
            return [python, "-m", self.module, str(port)]
        if self.module:
            flags = ["--models", str(models), "--port", str(port), "--threads", str(threads)]
            flags += ["--request-log", "off"]  # as for the peers
            return [python, "-m", self.module, *flags]
        flags = ["--bundle", str(bundle), "--port", str(port), "--threads", str(threads), *self.flags]
        return [python, str(PEERS / self.script), *flags]


OURS = System(
    name="ours",
    description="this service",
    module="service",
    routes={
        "binary": Route(INFER, "oip_binary"),
        "json": Route(INFER, "oip_json"),
        "jpeg": Route("/predict?top=5", "multipart"),
    },
)
ECHO = System(
    name="echo",
    description="a bare ASGI app on uvicorn that echoes our requests",
    module="benchmarks.echo",
    routes=OURS.routes,
)
_HAND_ROUTES = {
    "binary": Route("/predict-binary", "raw"),
    "json": Route("/predict", "json"),
    "jpeg": Route("/predict-picture", "multipart"),
}
_RAY_PACKAGES = ("ray[serve]==2.60.0", "orjson", "python-multipart")
SYSTEMS = {
    system.name: system
    for system in (
        OURS,
        ECHO,
        System(
            name="hand",
            description="hand-written FastAPI, one process",
            script="serve_hand.py",
            routes=_HAND_ROUTES,
        ),
        System(
            name="hand-workers",
            description="the same, one process per core",
            script="serve_hand.py",
            flags=("--workers",),
            routes=_HAND_ROUTES,
        ),
        System(
            name="litserve",
            description="LitServe 0.2.19",
            script="serve_litserve.py",
            packages=("litserve==0.2.19", "python-multipart"),
            routes={
                "binary": Route("/predict", "form", field="binary"),
                "json": Route("/predict", "json"),
                "jpeg": Route("/predict", "multipart"),
            },
        ),
        System(
            name="bentoml",
            description="BentoML 1.4.39",
            script="serve_bentoml.py",
            packages=("bentoml==1.4.39", "uvicorn[standard]"),
            routes={
                "binary": Route("/binary", "base64"),
                "json": Route("/logits", "rows"),
                "jpeg": Route("/pictures", "multipart", field="files"),
            },
        ),
        System(
            name="ray",
            description="Ray Serve 2.60.0 behind its bundled HAProxy",
            script="serve_ray.py",
            flags=("--haproxy",),
            packages=_RAY_PACKAGES,
            routes=_HAND_ROUTES,
        ),
        System(
            name="ray-proxy",
            description="Ray Serve 2.60.0 behind its own proxy, the default",
            script="serve_ray.py",
            packages=_RAY_PACKAGES,
            routes=_HAND_ROUTES,
        ),
        System(
            name="mlserver",
            description="MLServer 1.7.1",
            script="serve_mlserver.py",
            packages=("mlserver==1.7.1",),
            routes={
                "json": Route("/v2/models/net/infer", "oip_json"),
                "jpeg": Route("/picture", "multipart"),
            },
            lacks={"binary": "no binary tensors over HTTP: it answers 422"},
        ),
        System(
            name="kserve",
            description="KServe 0.21.0, its Python model server",
            script="serve_kserve.py",
            packages=("kserve==0.21.0",),
            routes={
                "binary": Route("/v2/models/net/infer", "oip_binary"),
                "json": Route("/v2/models/net/infer", "oip_json"),
                "jpeg": Route("/v1/models/net:predict", "instances"),
            },
        ),
        System(
            name="triton",
            description="Triton 2.51 of nvidia-pytriton 0.7.0, C++ with a Python model",
            script="serve_triton.py",
            packages=("nvidia-pytriton==0.7.0",),
            routes={
                "binary": Route("/v2/models/net/infer", "oip_binary"),
                "json": Route("/v2/models/net/infer", "oip_json"),
                "jpeg": Route("/v2/models/picture/infer", "oip_picture"),
            },
        ),
    )
}
BARE = "bare"
