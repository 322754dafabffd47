# artifactfs in a container. Mounting takes rights that a container does not have by itself:
#
#   docker build -t artifactfs .
#   docker run --rm -it --device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor=unconfined artifactfs demo -f
#
# See docs/containers.md.

# --- build: pyfuse3 is compiled here ------------------------------------------------------------
FROM debian:bookworm-slim AS build

# Debian's packages are not pinned: a stable release only gets fixes, and takes the old versions away.
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
      gcc libc6-dev libfuse3-dev pkg-config python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/artifactfs
COPY . /src
RUN /opt/artifactfs/bin/pip install --no-cache-dir --disable-pip-version-check '/src[demo]' \
 && /opt/artifactfs/bin/pip uninstall --yes pip setuptools

# --- the image: no compiler, no pip ---------------------------------------------------------------
FROM debian:bookworm-slim

# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends fuse3 python3 \
 && rm -rf /var/lib/apt/lists/* \
 # What is mounted here is for others as a rule: the host, or another container. It still takes --allow-other.
 && sed -i 's/^#user_allow_other/user_allow_other/' /etc/fuse.conf \
 && useradd --create-home --uid 1000 artifactfs \
 && install --directory --owner artifactfs /mnt/artifactfs

COPY --from=build /opt/artifactfs /opt/artifactfs
ENV PATH=/opt/artifactfs/bin:$PATH \
    PYTHONUNBUFFERED=1

# By number: Kubernetes can tell then that it is not root's.
USER 1000:1000
WORKDIR /home/artifactfs
ENTRYPOINT ["artifactfs"]
CMD ["--help"]
