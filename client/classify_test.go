package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

type statusError int

func (e statusError) Error() string   { return http.StatusText(int(e)) }
func (e statusError) StatusCode() int { return int(e) }

type awsError int

func (e awsError) Error() string       { return http.StatusText(int(e)) }
func (e awsError) HTTPStatusCode() int { return int(e) }

// uncomparable panics where it is compared with ==.
type uncomparable struct{ list []error }

func (e uncomparable) Error() string   { return "many" }
func (e uncomparable) Unwrap() []error { return e.list }

func TestClassify(t *testing.T) {
	const (
		unknown        = recourse.ErrorTypes(1 << recourse.Unknown)
		authentication = recourse.ErrorTypes(1 << recourse.Authentication)
		authorization  = recourse.ErrorTypes(1 << recourse.Authorization)
		connectivity   = recourse.ErrorTypes(1 << recourse.Connectivity)
		timeout        = recourse.ErrorTypes(1 << recourse.Timeout)
	)
	dial := func(err error) error {
		return &url.Error{Op: "Get", URL: "https://x", Err: &net.OpError{Op: "dial", Net: "tcp", Err: err}}
	}
	for _, c := range []struct {
		name string
		err  error
		want recourse.ErrorTypes
	}{
		{"nil", nil, 0},
		{"plain", errTest, unknown},
		{"deadline", context.DeadlineExceeded, timeout},
		{"wrapped deadline", fmt.Errorf("step: %w", context.DeadlineExceeded), timeout},
		{"i/o deadline", os.ErrDeadlineExceeded, timeout},
		{"i/o deadline of a connection", dial(os.ErrDeadlineExceeded), timeout},
		{"canceled", context.Canceled, unknown},
		{"canceled request", dial(context.Canceled), unknown},
		{"canceled, joined", errors.Join(context.Canceled, syscall.ECONNREFUSED), unknown | connectivity},
		{"refused", dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), connectivity},
		{"reset", dial(os.NewSyscallError("read", syscall.ECONNRESET)), connectivity},
		{"no route", dial(os.NewSyscallError("connect", syscall.EHOSTUNREACH)), connectivity},
		{"network unreachable", syscall.ENETUNREACH, connectivity},
		{"broken pipe", syscall.EPIPE, connectivity},
		{"connect timed out", dial(os.NewSyscallError("connect", syscall.ETIMEDOUT)), timeout},
		{"file is missing", &os.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}, unknown},
		{"file is not ours", &os.PathError{Op: "open", Path: "x", Err: syscall.EACCES}, unknown},
		{"other error of a connection", dial(errTest), connectivity},
		{"dns", dial(&net.DNSError{Err: "no such host", Name: "x", IsNotFound: true}), connectivity},
		{"dns timed out", dial(&net.DNSError{Err: "timeout", Name: "x", IsTimeout: true}), timeout},
		{"answer ended early", &url.Error{Op: "Get", URL: "http://x", Err: io.EOF}, connectivity},
		{"end of a file", io.EOF, unknown},
		{"bad url", &url.Error{Op: "parse", URL: ":", Err: errTest}, unknown},
		{"401", statusError(401), authentication},
		{"403", statusError(403), authorization},
		{"401 and 403", errors.Join(statusError(401), fmt.Errorf("then: %w", statusError(403))), authentication},
		{"407", awsError(407), authentication},
		{"408", statusError(408), timeout},
		{"504", awsError(504), timeout},
		{"502", statusError(502), connectivity},
		{"503 wrapped", fmt.Errorf("put: %w", statusError(503)), connectivity},
		{"500", statusError(500), unknown},
		{"404", statusError(404), unknown},
		{"500 because of a time-out", fmt.Errorf("%w: %w", statusError(500), context.DeadlineExceeded), timeout},
		{"joined", errors.Join(errTest, syscall.ECONNREFUSED, statusError(504)), connectivity | timeout},
		{"joined unknowns", errors.Join(errTest, io.EOF), unknown},
		{"uncomparable", uncomparable{[]error{nil, errTest, syscall.ECONNREFUSED}}, connectivity},
		{"unknown authority", dial(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), authentication},
		{"expired certificate", x509.CertificateInvalidError{Reason: x509.Expired}, authentication},
		{"other host name", x509.HostnameError{Certificate: &x509.Certificate{}, Host: "x"}, authentication},
		{"our certificate is refused", &net.OpError{Op: "remote error", Err: tls.AlertError(48)}, authentication},
		{"our certificate is missing", &net.OpError{Op: "remote error", Err: tls.AlertError(116)}, authentication},
		{"no common protocol version", &net.OpError{Op: "remote error", Err: tls.AlertError(70)}, connectivity},
		{"no TLS there", tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, connectivity},
		{"nats timeout", nats.ErrTimeout, timeout},
		{"nats no responders", nats.ErrNoResponders, connectivity},
		{"nats no servers", fmt.Errorf("connect: %w", nats.ErrNoServers), connectivity},
		{"nats closed", nats.ErrConnectionClosed, connectivity},
		{"nats not connected", nats.ErrReconnectBufExceeded, connectivity},
		{"nats violation", nats.ErrPermissionViolation, authorization},
		{"nats authorization violation", nats.ErrAuthorization, authentication},
		{"nats expired", nats.ErrAuthExpired, authentication},
		{"jetstream no stream", jetstream.ErrNoStreamResponse, connectivity},
		{"jetstream 503", &jetstream.APIError{Code: 503, ErrorCode: 10023}, connectivity},
		{"jetstream not found", jetstream.ErrConsumerNotFound, unknown},
		{"jetstream not found, wrapped", fmt.Errorf("nats: %w", &jetstream.APIError{Code: 404, ErrorCode: 10014}), unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Classify(c.err); got != c.want {
				t.Errorf("Classify(%v) = %s, want %s", c.err, got, c.want)
			}
		})
	}
}

// The errors that real connections give.
func TestClassifyRealErrors(t *testing.T) {
	slow := make(chan struct{})
	// It answers to nobody: an answer to a client that goes away at the same moment may still reach it.
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-slow }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	defer close(slow)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "https://" + listener.Addr().String()
	_ = listener.Close()

	trusting := server.Client()
	trusting.Timeout = 50 * time.Millisecond
	for _, c := range []struct {
		name   string
		client *http.Client
		url    string
		want   recourse.ErrorType
	}{
		{"unknown authority", &http.Client{Transport: &http.Transport{}}, server.URL, recourse.Authentication},
		{"time-out", trusting, server.URL, recourse.Timeout},
		{"refused", trusting, closed, recourse.Connectivity},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer c.client.CloseIdleConnections()
			response, err := c.client.Get(c.url)
			if err == nil {
				_ = response.Body.Close()
				t.Fatal("no error")
			}
			if got := Classify(err); got != recourse.ErrorTypesOf(c.want) {
				t.Errorf("Classify(%v) = %s, want %s", err, got, c.want)
			}
		})
	}
}

func TestClassifyStatus(t *testing.T) {
	want := map[int]recourse.ErrorType{
		401: recourse.Authentication, 407: recourse.Authentication, 403: recourse.Authorization, 408: recourse.Timeout,
		504: recourse.Timeout, 502: recourse.Connectivity, 503: recourse.Connectivity,
	}
	for code := range 600 {
		w := want[code]
		if w == 0 {
			w = recourse.Unknown
		}
		if got := ClassifyStatus(code); got != recourse.ErrorTypesOf(w) {
			t.Errorf("%d: got %s, want %s", code, got, w)
		}
	}
}
