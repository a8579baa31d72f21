# iommubus and its command line; no package manager in it, and it does not run as root.
#
#   docker build -t iommubus .
#   docker run --rm -it iommubus demo

FROM python:3.11-slim AS build
WORKDIR /build
COPY . .
RUN python -m venv /opt/iommubus
# The versions that the tests ran with hold for the build back end, too.
RUN sed -e '/--hash=/d' -e 's/ *\\$//' requirements/dev.txt > versions.txt \
 && PIP_CONSTRAINT=/build/versions.txt /opt/iommubus/bin/pip install --no-cache-dir '.[cli,metrics,trio]' \
 && /opt/iommubus/bin/pip uninstall --yes pip setuptools

FROM python:3.11-slim
RUN useradd --system --no-create-home iommubus
COPY --from=build /opt/iommubus /opt/iommubus
USER iommubus
ENTRYPOINT ["/opt/iommubus/bin/iommubus"]
