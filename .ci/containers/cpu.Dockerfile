# fewstep's runtime and command line on the CPU: x86-64 and ARM. From the root of a clone:
#   docker build -f .ci/containers/cpu.Dockerfile -t fewstep .
#   docker run --rm -v "$PWD:/work" fewstep run bundle -o grid.png
# Unverified: nobody has built this image yet. `--build-arg EXTRAS=cpu,cli,calibration` adds calibrating.
FROM python:3.12-slim AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
ARG EXTRAS=cpu,cli
COPY --from=wheel /wheels /wheels
COPY .ci/constraints.txt /wheels/
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN pip install --no-cache-dir -c /wheels/constraints.txt "$(ls /wheels/fewstep-*.whl)[$EXTRAS]" \
    && rm -r /wheels \
    && useradd --create-home --uid 1000 fewstep
USER 1000
WORKDIR /work
ENTRYPOINT ["fewstep"]
CMD ["--help"]
