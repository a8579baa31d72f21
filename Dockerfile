# iommubus: the daemon, and the whole command line.  It does not run as root, and writes nowhere but in /run/iommubus.
#
#   docker build -t iommubus .
#   docker run -d --name bus --read-only -v iommubus:/run/iommubus iommubus
#   docker exec bus iommubus spaces
#   docker run --rm -it iommubus demo
#
# Who mounts the same volume finds the bus at unix:/run/iommubus/bus.sock.  Settings are variables, -e IOMMUBUS_LOG_FORMAT=json
# for instance, or a file, with --config.  With --pid=host the daemon sees the processes of its clients, and when they have
# ended; without it, subscribers with stops="exit" are refused.

FROM python:3.11-slim AS build
WORKDIR /build
RUN python -m venv /opt/iommubus
# What is quicker in C is compiled here; without a compiler the build would do without it.
RUN apt-get update -qq \
 && apt-get install -qq --yes --no-install-recommends gcc libc6-dev
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY tools/compiled_part.py tools/
COPY src src
# The versions that the tests ran with hold for the build back end, too.
RUN sed -e '/--hash=/d' -e 's/ *\\$//' requirements/dev.txt > versions.txt \
 && PIP_CONSTRAINT=/build/versions.txt /opt/iommubus/bin/pip install --no-cache-dir '.[cli,metrics]' \
 && /opt/iommubus/bin/pip uninstall --yes pip setuptools

FROM python:3.11-slim
# A number, so that it can be told from outside that this is not root; and a directory that a new volume copies.
RUN useradd --system --uid 7411 --user-group --no-create-home --home-dir /nonexistent iommubus \
 && install -d -o iommubus -g iommubus /run/iommubus
COPY --from=build /opt/iommubus /opt/iommubus
ENV PATH=/opt/iommubus/bin:$PATH
USER 7411:7411
VOLUME /run/iommubus
HEALTHCHECK --interval=10s --timeout=10s --start-period=10s CMD ["iommubus", "ping", "--timeout", "5"]
ENTRYPOINT ["iommubus"]
CMD ["serve"]
