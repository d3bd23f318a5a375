# CPU:  docker build -t limbeck .
# CUDA: docker build -t limbeck:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#       docker run --gpus all ...      (CUDA's libraries come with PyTorch; the host needs a driver)
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore MPLBACKEND=Agg HF_HUB_DISABLE_TELEMETRY=1

# torch.compile needs a C++ compiler
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

# the sources are mounted, not copied: the image holds them once, as the installed package
RUN --mount=type=bind,source=constraints.txt,target=/src/constraints.txt \
    pip install $(grep '^torch==' /src/constraints.txt) --index-url "$TORCH_INDEX"
RUN --mount=type=bind,target=/src \
    pip install -c /src/constraints.txt '/src[mesh,view,ui]'

# where libraries keep their caches: any user of docker run --user may write there
ENV HOME=/tmp

# runs are written to /data: docker run -v "$PWD:/data" limbeck run "a striped red mug"
WORKDIR /data
ENTRYPOINT ["limbeck"]
CMD ["--help"]
