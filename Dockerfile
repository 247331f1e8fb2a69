# syntax=docker/dockerfile:1

# One image for every kind of process: the command says which (docs/operations/containers.md).
# A tag, so that a rebuild has the base's fixes. For builds that must repeat to the byte, name its digest:
#   docker build --build-arg PYTHON_IMAGE=python:3.13-slim-trixie@sha256:... .
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_CACHE_DIR=/var/cache/pip
WORKDIR /build

# What is installed with, and what is installed into: the latter without pip.
RUN python -m venv /opt/tools && python -m venv --without-pip /opt/headrace

# Every file is one whose hash is locked. Before the code: this layer changes only with the lock files.
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN --mount=type=cache,target=/var/cache/pip \
    /opt/tools/bin/python -m pip install --require-hashes -r requirements/build.txt && \
    /opt/tools/bin/python -m pip --python /opt/headrace/bin/python install --no-compile \
        --only-binary :all: --require-hashes -r requirements/runtime.txt

COPY pyproject.toml README.md LICENSE ./
COPY api api
COPY cli cli
COPY scheduler scheduler
COPY shared shared
COPY workers workers
RUN /opt/tools/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist . && \
    /opt/tools/bin/python -m pip --python /opt/headrace/bin/python install --no-compile --no-deps --no-index \
        dist/*.whl

# Compiled here, as nobody can write there later, and trusted whatever the time stamps say.
RUN /opt/headrace/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/headrace/lib


FROM ${PYTHON_IMAGE}
ARG HEADRACE_VERSION=0.1.0
ARG HEADRACE_REVISION=unknown
LABEL org.opencontainers.image.title="headrace" \
      org.opencontainers.image.description="A queue-backed inference broker" \
      org.opencontainers.image.source="https://github.com/headrace/headrace" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${HEADRACE_VERSION}" \
      org.opencontainers.image.revision="${HEADRACE_REVISION}"

RUN groupadd --gid 10001 headrace && \
    useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin headrace && \
    install -d -o 10001 -g 10001 -m 0700 /data

# Owned by root: the broker cannot change itself.
COPY --from=build /opt/headrace /opt/headrace

# In a container strangers are assumed: production, until HEADRACE_ENVIRONMENT says otherwise.
ENV PATH=/opt/headrace/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HEADRACE_ENVIRONMENT=production \
    HEADRACE_DATA_DIR=/data \
    HEADRACE_METRICS_HOST=0.0.0.0 \
    HEADRACE_METRICS_PORT=9100 \
    HOST=0.0.0.0 \
    PORT=8000

WORKDIR /opt/headrace
USER 10001:10001
EXPOSE 8000 9100
STOPSIGNAL SIGTERM
# Alive, not ready: what replaces unhealthy containers must not replace all of them when Redis is away.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --start-interval=1s --retries=3 CMD ["headrace", "health"]
ENTRYPOINT ["headrace"]
CMD ["api"]
