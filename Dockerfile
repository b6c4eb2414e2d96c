# A small image with the gateway alone. Mount the configuration at /etc/toolgate/toolgate.yaml; servers that are
# processes (`command:`) need an image of yours that has their programs.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 toolgate
COPY --from=build /src/target/release/toolgate /usr/local/bin/toolgate
COPY conf/container.yaml /etc/toolgate/toolgate.yaml
USER 10001
EXPOSE 8000
ENTRYPOINT ["toolgate"]
CMD ["run", "-c", "/etc/toolgate/toolgate.yaml"]
