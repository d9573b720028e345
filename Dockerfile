# patch2tissue in a container. Packages come from requirements.lock alone and are checked by its hashes.
#
#   docker build --target cpu  --tag patch2tissue:cpu  .
#   docker build --target cuda --tag patch2tissue:cuda .
#
# docs/installing.md says how they are run. VERSION is what `patch2tissue --version` will say (the build sees no git).
ARG PYTHON_IMAGE=python:3.12-slim-bookworm
ARG NODE_IMAGE=node:22-bookworm-slim

# What the viewer needs in the browser.
FROM ${NODE_IMAGE} AS openseadragon
WORKDIR /build
COPY scripts/vendor_openseadragon.sh scripts/
RUN sh scripts/vendor_openseadragon.sh

# Every package of the lock, so that those which are then installed are known by their hashes.
FROM ${PYTHON_IMAGE} AS packages
COPY requirements.lock /build/
RUN python3 -m venv /tools && \
    /tools/bin/python -m pip download --quiet --no-cache-dir --no-deps --only-binary :all: --require-hashes \
    --requirement /build/requirements.lock --dest /packages

# patch2tissue with what it needs, without what only its tests and its documentation need.
FROM packages AS installed
ARG VERSION=0.1.0.dev0
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY src src
COPY --from=openseadragon /build/src/patch2tissue/viewer/static/openseadragon \
    src/patch2tissue/viewer/static/openseadragon
RUN /tools/bin/python -m pip install --quiet --no-index --find-links /packages hatchling hatch-vcs && \
    SETUPTOOLS_SCM_PRETEND_VERSION=${VERSION} /tools/bin/python -m hatchling build -t wheel -d /wheel && \
    python3 -m venv /opt/patch2tissue && \
    /opt/patch2tissue/bin/python -m pip install --quiet --no-cache-dir --no-index --find-links /packages \
    "patch2tissue[viewer] @ file://$(ls /wheel/*.whl)"

# The same without what only a graphics card needs: about 2 GB less.
FROM installed AS without-gpu
COPY docker/drop_gpu_libraries.py ./
RUN /opt/patch2tissue/bin/python drop_gpu_libraries.py

FROM ${PYTHON_IMAGE} AS runtime
# For whatever user the container runs as: programs that keep something in a home folder find one they may write to.
ENV PATH=/opt/patch2tissue/bin:${PATH} HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib PYTHONUNBUFFERED=1
WORKDIR /data
RUN useradd --no-create-home --uid 1000 patch2tissue && chown patch2tissue /data
USER patch2tissue
ENTRYPOINT ["patch2tissue"]
CMD ["--help"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=installed /opt/patch2tissue /opt/patch2tissue

# The last one, so that it is made when no target is named.
FROM runtime AS cpu
COPY --from=without-gpu /opt/patch2tissue /opt/patch2tissue
