# Builds Tollgate and leaves nothing but it: no shell, no root.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /tollgate
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY src src
# Cargo wants the test target to exist; it is not built.
RUN mkdir -p tests/it && touch tests/it/main.rs && cargo build --release --locked --bin tollgate \
    && mkdir /out && cp target/release/tollgate /out/ \
    && for name in ratelimit ratelimit_config_check ratelimit_client; do ln -s tollgate /out/$name; done

FROM gcr.io/distroless/cc-debian12:nonroot
# The others are what envoyproxy/ratelimit calls its programs; `command: /bin/ratelimit` starts the service too.
COPY --from=build /out/ /bin/
COPY config/rules /etc/tollgate/rules
ENV RULES_DIR=/etc/tollgate/rules
EXPOSE 8080 8081
USER nonroot
ENTRYPOINT ["/bin/tollgate"]
