# AmoebaNet-D on the CPU, with the tests:
#
#   docker build -t amoeba_net .
#   docker run --rm amoeba_net                                  # the quick start
#   docker run --rm amoeba_net bash scripts/run_tests.sh        # all tests
#   docker build -t amoeba_net --build-arg RUNTIME=2.15 .       # with TensorFlow 2.15
#
# For GPUs and the Ascend 910 see docs/docker.md.
ARG RUNTIME=1.15
FROM python:3.7-slim AS runtime-1.15
FROM python:3.11-slim AS runtime-2.15
FROM runtime-${RUNTIME}
ARG GPU=0

WORKDIR /amoeba_net

# Before the code, so that a change of the code does not install everything again.
COPY requirements*.txt ./
COPY scripts/setup_env.sh scripts/
RUN GPU=${GPU} bash scripts/setup_env.sh && rm -rf /root/.cache

COPY . .
CMD ["bash", "scripts/quickstart.sh"]
