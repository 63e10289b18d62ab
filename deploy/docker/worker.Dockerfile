# worker and recourse, static (make images). The context is what make puts together: both binaries, certificate authorities, a
# passwd file, and /data and /tmp for the user below.
FROM scratch
COPY --chown=65532:65532 . /
USER 65532:65532
ENV HOME=/data RECOURSE_DATA_DIR=/data RECOURSE_ADMIN_LISTEN=:8080
EXPOSE 8080
# Ready, not just alive: connected, provisioned and pulling.
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=3 CMD ["/worker", "healthcheck"]
ENTRYPOINT ["/worker"]
