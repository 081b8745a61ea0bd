# The README's first line in a container:
#   docker build -t encore . && docker run --rm -v "$PWD/outputs:/encore/outputs" encore
# Overrides follow the image's name: docker run ... encore algo=ppo env=cartpole
FROM python:3.13-slim
WORKDIR /encore
ENV OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONUNBUFFERED=1
COPY constraints.txt setup.cfg pyproject.toml README.md LICENSE encore.py ./
COPY rl rl
COPY conf conf
RUN pip install --no-cache-dir -c constraints.txt -e .
COPY train.py enjoy.py ./
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "train.py"]
