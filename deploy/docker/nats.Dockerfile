# nats-server, built from the source of the Go module that go.mod pins (make images). The context is what make puts together:
# /nats-server, and /data and /tmp for the user below. It takes the arguments of the published image of the same tag.
FROM scratch
COPY --chown=65532:65532 . /
USER 65532:65532
EXPOSE 4222 6222 8222
ENTRYPOINT ["/nats-server"]
