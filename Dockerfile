# The service in a container. CPU: docker build -t blastdet .   NVIDIA: docker build --build-arg EXTRA=cuda -t blastdet .
FROM python:3.11-slim-bookworm AS build
ARG EXTRA=cpu
WORKDIR /src
COPY . .
RUN python -m venv /opt/blastdet \
 && grep -vE '^(torch|torchvision|ultralytics|fiftyone|nvidia-|triton)' requirements/all.txt > constraints.txt \
 && /opt/blastdet/bin/pip install --no-cache-dir -c constraints.txt '.[serve]' \
 && if [ "$EXTRA" = cuda ]; then \
      /opt/blastdet/bin/pip uninstall -y onnxruntime && /opt/blastdet/bin/pip install --no-cache-dir 'onnxruntime-gpu[cuda,cudnn]'; \
    fi

FROM python:3.11-slim-bookworm
RUN useradd --system --home-dir /data --create-home --shell /usr/sbin/nologin blastdet
COPY --from=build /opt/blastdet /opt/blastdet
ENV PATH=/opt/blastdet/bin:$PATH PYTHONUNBUFFERED=1
USER blastdet
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
# Starts only once there are users: docker run -it --rm -v films:/data blastdet blastdet serve users add anna --data /data
CMD ["blastdet", "serve", "--host", "0.0.0.0", "--data", "/data"]
