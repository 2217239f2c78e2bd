# The Google Cloud Storage server of the tests, built from this repository.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release --example gcs-fake

FROM debian:bookworm-slim
COPY --from=build /src/target/release/examples/gcs-fake /usr/local/bin/
USER nobody
ENTRYPOINT ["gcs-fake"]
