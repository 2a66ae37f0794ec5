# Relight in a container, as an ordinary user. It brings no servers: PostgreSQL and RabbitMQ are named in its environment.
# Of PostgreSQL it has the programs only: pg_dump for backups, and a server for restoring them in a test.

FROM python:3.13-slim-trixie AS packages
COPY requirements.lock /build/
# One lock, one environment: the very packages that the tests ran with, by hash.
RUN python -m venv /srv/relight/venv \
    && /srv/relight/venv/bin/pip install --no-cache-dir --require-hashes --no-deps -r /build/requirements.lock

FROM python:3.13-slim-trixie
# Debian keeps one version of each package; a pinned one would be gone after its next security update.
# hadolint ignore=DL3008
RUN mkdir -p /etc/postgresql-common/createcluster.d \
    && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/relight.conf \
    && apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-17 postgresql-client-17 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --home-dir /var/lib/relight --create-home --shell /usr/sbin/nologin relight
COPY --from=packages /srv/relight/venv /srv/relight/venv
COPY schemas /srv/relight/app/schemas
COPY machines /srv/relight/app/machines
COPY service /srv/relight/app/service
COPY deploy/entrypoint /srv/relight/app/deploy/entrypoint
RUN echo /srv/relight/app > /srv/relight/venv/lib/python3.13/site-packages/relight.pth
ENV PATH=/srv/relight/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RELIGHT_HOME=/var/lib/relight \
    RELIGHT_HTTP_HOST=0.0.0.0 \
    RELIGHT_HTTP_PORT=8410
USER 10001:10001
WORKDIR /var/lib/relight
VOLUME /var/lib/relight
EXPOSE 8410
# Alive, not ready: a container that waits for its database must not be killed for it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=90s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8410/livez', timeout=4)"]
ENTRYPOINT ["/srv/relight/app/deploy/entrypoint"]
CMD ["serve"]
