# One image for the code location, the webserver, the daemon and the command line.
FROM python:3.11-slim-bookworm

RUN useradd --create-home --uid 10001 minirag
WORKDIR /opt/minirag
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes --no-deps --requirement requirements.lock
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation . \
    && mkdir --parents /var/lib/minirag/dagster \
    && cp dagster.yaml workspace.yaml /var/lib/minirag/dagster/ \
    && chown --recursive minirag /var/lib/minirag

USER minirag
ENV MINIRAG_HOME=/var/lib/minirag \
    DAGSTER_HOME=/var/lib/minirag/dagster \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/minirag
CMD ["minirag", "doctor"]
