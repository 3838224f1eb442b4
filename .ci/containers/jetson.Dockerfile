# fewstep on a Jetson with JetPack 6: builds engines with JetPack's TensorRT and runs them. On the device:
#   docker build -f .ci/containers/jetson.Dockerfile -t fewstep-jetson .
#   docker run --rm --runtime nvidia -v "$PWD:/work" fewstep-jetson build bundle --backend tensorrt --precision int8
# Unverified: nobody has built or run this image yet. JetPack 7 needs another base and cuda-bindings of CUDA 13.
FROM python:3.12-slim AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# The image of JetPack 6.1 and 6.2 has CUDA 12.6, TensorRT 10.3 and Python 3.10.
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# No versions are named here: they are those of the image's JetPack.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-libnvinfer python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv --system-site-packages /opt/fewstep
COPY --from=wheel /wheels /wheels
COPY .ci/constraints.txt /wheels/
# The system's packages stay as they are: TensorRT is JetPack's, and the bindings are of its CUDA.
RUN sed -i '/^cuda-/d' /wheels/constraints.txt \
    && /opt/fewstep/bin/pip install --no-cache-dir -c /wheels/constraints.txt \
        "$(ls /wheels/fewstep-*.whl)[cli,calibration,tensorrt]" "cuda-bindings>=12.6,<13" \
    && rm -r /wheels \
    && useradd --create-home --uid 1000 --groups video fewstep
USER 1000
WORKDIR /work
ENTRYPOINT ["/opt/fewstep/bin/fewstep"]
CMD ["doctor"]
