# AmoebaNet-D on the CPU, with the tests:
#
#   docker build -t amoeba_net .
#   docker run --rm amoeba_net                                  # the quick start
#   docker run --rm amoeba_net bash scripts/run_tests.sh        # all tests
#
# For the Ascend 910 see docs/docker.md.
FROM python:3.7-slim

WORKDIR /amoeba_net

# Before the code, so that a change of the code does not install everything again.
COPY requirements.txt ./
COPY scripts/setup_env.sh scripts/
RUN bash scripts/setup_env.sh && rm -rf /root/.cache

COPY . .
CMD ["bash", "scripts/quickstart.sh"]
