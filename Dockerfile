# A small image with the gateway alone: the program, the libraries that it is linked to, and the authorities that TLS
# trusts; no shell and no package manager. Mount the configuration at /etc/toolgate/toolgate.yaml; servers that are
# processes (`command:`) need an image of yours that has their programs, with the program copied from this one:
#   COPY --from=toolgate /usr/local/bin/toolgate /usr/local/bin/toolgate
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked

# glibc, libgcc, ca-certificates and nothing else, of the same Debian as above.
FROM gcr.io/distroless/cc-debian12
COPY --from=build /src/target/release/toolgate /usr/local/bin/toolgate
COPY conf/container.yaml /etc/toolgate/toolgate.yaml
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# It asks whether the gateway lives: whether a server behind it does is no reason to restart it.
HEALTHCHECK --interval=10s --timeout=6s --start-period=15s --retries=3 \
    CMD ["/usr/local/bin/toolgate", "health", "--live", "-c", "/etc/toolgate/toolgate.yaml"]
ENTRYPOINT ["/usr/local/bin/toolgate"]
CMD ["run", "-c", "/etc/toolgate/toolgate.yaml"]
