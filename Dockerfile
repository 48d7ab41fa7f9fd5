# kube-audit-proxy as an image: docker build -t kube-audit-proxy . The configuration is mounted; see docker-compose.yml.

FROM python:3.11.15-slim-trixie AS build
WORKDIR /source
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/kube-audit-proxy
COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
RUN HATCH_BUILD_HOOK_ENABLE_MYPYC=1 python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
 && /opt/kube-audit-proxy/bin/python -m pip install --no-cache-dir /wheels/*.whl \
 && /opt/kube-audit-proxy/bin/python -m pip uninstall --yes pip

FROM python:3.11.15-slim-trixie
# a user with a name and a home, as `kube-audit-proxy kubeconfig` asks for them
RUN groupadd --gid 65532 kube-audit-proxy \
 && useradd --uid 65532 --gid 65532 --home-dir /var/lib/kube-audit-proxy --no-create-home --shell /usr/sbin/nologin kube-audit-proxy \
 && install --directory --owner 65532 --group 65532 --mode 0700 /var/lib/kube-audit-proxy
COPY --from=build /opt/kube-audit-proxy /opt/kube-audit-proxy
ENV PATH=/opt/kube-audit-proxy/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    KUBE_AUDIT_PROXY_DATA=/var/lib/kube-audit-proxy
USER 65532:65532
WORKDIR /var/lib/kube-audit-proxy
VOLUME /var/lib/kube-audit-proxy
EXPOSE 8443
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9444/healthz', timeout=4)"]
ENTRYPOINT ["kube-audit-proxy"]
CMD ["serve", "--config", "/etc/kube-audit-proxy/proxy.yaml"]
