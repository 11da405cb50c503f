# Images of the two services and the client:
#
#   docker build --target quantizer -t quantloom-quantizer .
#   docker build --target server    -t quantloom-server .
#   docker build --target cli       -t quantloom .
#
# BASE is any Debian 12 root; give another where the registry is out of reach.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
WORKDIR /src
# The packages first: they change less often than the sources.
COPY scripts/setup.sh scripts/build.sh scripts/
RUN bash -c 'source scripts/setup.sh && install_packages "${BUILD_PACKAGES[@]}"'
COPY . .
RUN scripts/build.sh release quantloom-quantizer quantloom-server quantloom quantloom-bench \
    && strip build/release/bin/quantloom build/release/bin/quantloom-*

FROM ${BASE} AS runtime
RUN apt-get -q update \
    && DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends \
       libgrpc++1.51 libprotobuf32 libprometheus-cpp-core1.0 libprometheus-cpp-pull1.0 libsqlite3-0 libpcre2-8-0 \
       libspdlog1.10 libssl3 libhwy1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin quantloom \
    && install -d -o quantloom -g quantloom /models /sources /state
USER quantloom

FROM runtime AS quantizer
COPY --from=build /src/build/release/bin/quantloom-quantizer /usr/bin/
EXPOSE 7101 9101
VOLUME ["/models", "/sources", "/state"]
ENTRYPOINT ["quantloom-quantizer"]
CMD ["--address=0.0.0.0:7101", "--metrics-address=0.0.0.0:9101", "--source-root=/sources", "--model-root=/models", "--state-dir=/state"]

FROM runtime AS server
COPY --from=build /src/build/release/bin/quantloom-server /usr/bin/
EXPOSE 7102 9102
VOLUME ["/models"]
ENTRYPOINT ["quantloom-server"]
CMD ["--address=0.0.0.0:7102", "--metrics-address=0.0.0.0:9102", "--model-root=/models"]

FROM runtime AS cli
COPY --from=build /src/build/release/bin/quantloom /src/build/release/bin/quantloom-bench /usr/bin/
ENTRYPOINT ["quantloom"]
CMD ["--help"]
