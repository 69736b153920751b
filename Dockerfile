# docker build -t reprogram .                             without a GPU: --build-arg BASE=ubuntu:24.04
# docker run --rm reprogram                               the quickstart
# More in the README. The torch wheel brings its own CUDA libraries; the base adds what the NVIDIA container runtime looks
# for.
ARG BASE=nvidia/cuda:13.0.2-base-ubuntu24.04

FROM ${BASE} AS python
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

FROM python AS build
WORKDIR /build
RUN python3 -m venv /opt/venv
# The gigabytes have a layer of their own: a change of the code does not install them again.
COPY constraints.txt ./
RUN /opt/venv/bin/python -m pip install --no-cache-dir -c constraints.txt torch torchvision
COPY . .
RUN /opt/venv/bin/python -m pip wheel --no-cache-dir --no-deps --wheel-dir dist . \
    && /opt/venv/bin/python -m pip install --no-cache-dir -c constraints.txt "$(ls dist/*.whl)[active,attacks,medmnist,postgres,serve,sweep,timm]"

FROM python
RUN useradd --create-home --user-group --uid 1001 reprogram
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1
USER reprogram
# A named volume mounted here takes over this owner; a bind mount must be writable for uid 1001, or needs --user.
RUN mkdir /home/reprogram/runs
WORKDIR /home/reprogram
ENTRYPOINT ["reprogram-train"]
