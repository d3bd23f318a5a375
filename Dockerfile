# CPU:  docker build -t limbeck .
# CUDA: docker build -t limbeck:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
#       docker run --gpus all ...      (CUDA's libraries come with PyTorch; the host needs a driver)
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 MPLBACKEND=Agg HF_HUB_DISABLE_TELEMETRY=1

# torch.compile needs a C++ compiler
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/limbeck
COPY constraints.txt ./
RUN pip install $(grep '^torch==' constraints.txt) --index-url "$TORCH_INDEX"
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install -c constraints.txt '.[mesh,view]'

# runs are written to /work: docker run -v "$PWD:/work" limbeck run "a striped red mug"
WORKDIR /work
ENTRYPOINT ["limbeck"]
CMD ["--help"]
