# An image of gen1 for CPUs, NVIDIA GPUs or TPUs: EXTRAS names what it is for (docs/installing.md).
#   docker build --tag gen1-jax .
#   docker build --build-arg EXTRAS=cuda12 --tag gen1-jax:cuda12 .
#   docker build --build-arg EXTRAS=tpu,stores --tag gen1-jax:tpu .
# `docker run gen1-jax …` runs `gen1 …`. A GPU needs `docker run --gpus all` and NVIDIA's container
# toolkit; CUDA itself comes with the extra. The work folder and the data are mounted.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

WORKDIR /gen1-jax

# The packages change less often than the code, so they have a layer of their own.
COPY requirements.lock requirements-test.lock ./
RUN pip install --no-cache-dir -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY gen1_jax/ gen1_jax/
COPY data_pipelines/ data_pipelines/
COPY configs/ configs/
COPY launch/ launch/
ARG EXTRAS=
RUN pip install --no-cache-dir --no-deps -e . \
    && if [ -n "$EXTRAS" ]; then \
         pip install --no-cache-dir --constraint requirements-test.lock -e ".[$EXTRAS]"; \
       fi

# Whoever runs it: compiled programs, and what comes from the Hugging Face hub, are kept here.
ENV XDG_CACHE_HOME=/tmp/gen1-cache
ENTRYPOINT ["gen1"]
CMD ["--help"]
