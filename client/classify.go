package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

// StatusCoder is an error that knows the HTTP status it stands for. [Classify] finds it anywhere in an error's tree; a method
// HTTPStatusCode() int does as well.
type StatusCoder interface {
	StatusCode() int
}

// ClassifyStatus returns the error type of an HTTP status (R1):
//
//	401, 407       Authentication
//	403            Authorization
//	408, 504       Timeout
//	502, 503       Connectivity
//	anything else  Unknown
func ClassifyStatus(code int) recourse.ErrorTypes {
	var types recourse.ErrorTypes
	if t := typeOfStatus(code); t != 0 {
		types = recourse.ErrorTypesOf(t)
	}
	return types.Normalize()
}

// typeOfStatus returns zero where the status says nothing.
func typeOfStatus(code int) recourse.ErrorType {
	switch code {
	case http.StatusUnauthorized, http.StatusProxyAuthRequired:
		return recourse.Authentication
	case http.StatusForbidden:
		return recourse.Authorization
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return recourse.Timeout
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return recourse.Connectivity
	default:
		return 0
	}
}

// Classify returns the error types of an error, for [recourse.Failure]: nil has none, an error that says nothing is Unknown.
// It looks through the whole tree of wrapped and joined errors. Along one chain of wraps the outermost error that says
// something decides; joined errors add up, where Authentication and Authorization together are Authentication, since it is
// undetermined then which of the two it was (R1).
//
//	an expired deadline, a net.Error that timed out, nats.ErrTimeout  Timeout
//	refused, reset, unreachable, no route, DNS, no NATS server        Connectivity
//	a certificate that cannot be verified, in either direction        Authentication
//	an expired or revoked NATS credential, an authorization violation Authentication
//	a NATS permissions violation                                      Authorization
//	an HTTP status ([StatusCoder]), a JetStream API error             as [ClassifyStatus]
//	context.Canceled and anything else                                Unknown
//
// A DNS lookup that timed out is a Timeout. A certificate that cannot be verified counts as Authentication, not as
// Connectivity: like a bad password it stays as it is until a person acts, so the retries that pipelines keep for
// Connectivity would be spent in vain, and against a peer that may not be who it says it is.
func Classify(err error) recourse.ErrorTypes {
	if err == nil {
		return 0
	}
	return typesOf(err).Normalize()
}

// typesOf returns the empty set where nothing in the tree says anything.
func typesOf(err error) recourse.ErrorTypes {
	if t := typeOfError(err); t != 0 {
		return recourse.ErrorTypesOf(t)
	}
	var types recourse.ErrorTypes
	switch wrapped := err.(type) {
	case interface{ Unwrap() error }:
		if inner := wrapped.Unwrap(); inner != nil {
			types = typesOf(inner)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range wrapped.Unwrap() {
			if inner != nil {
				types |= typesOf(inner)
			}
		}
	}
	if types == 0 && brokenConnection(err) {
		return recourse.ErrorTypesOf(recourse.Connectivity)
	}
	return types
}

// typeOfError classifies one error of the tree, not what it wraps; zero where it says nothing.
func typeOfError(err error) recourse.ErrorType {
	// Canceled comes first: somebody stopped the work, whatever else the error claims to be.
	if err == context.Canceled {
		return recourse.Unknown
	}
	if err == context.DeadlineExceeded || err == os.ErrDeadlineExceeded || err == nats.ErrTimeout {
		return recourse.Timeout
	}
	if t := typeOfHTTP(err); t != 0 {
		return t
	}
	if t := typeOfNATS(err); t != 0 {
		return t
	}
	switch e := err.(type) {
	case *tls.CertificateVerificationError, x509.UnknownAuthorityError, x509.CertificateInvalidError, x509.HostnameError,
		x509.SystemRootsError, *x509.SystemRootsError:
		return recourse.Authentication
	case tls.AlertError:
		return typeOfAlert(e)
	case tls.RecordHeaderError, *tls.RecordHeaderError:
		return recourse.Connectivity // the peer does not speak TLS
	case *net.DNSError:
		if e.IsTimeout {
			return recourse.Timeout
		}
		return recourse.Connectivity
	case syscall.Errno:
		return typeOfErrno(e)
	case net.Error:
		if e.Timeout() {
			return recourse.Timeout
		}
	}
	return 0
}

func typeOfHTTP(err error) recourse.ErrorType {
	switch e := err.(type) {
	case StatusCoder:
		return typeOfStatus(e.StatusCode())
	case interface{ HTTPStatusCode() int }:
		return typeOfStatus(e.HTTPStatusCode())
	case jetstream.JetStreamError:
		if api := e.APIError(); api != nil {
			return typeOfStatus(api.Code)
		}
	}
	return 0
}

var natsErrors = []struct {
	err error
	is  recourse.ErrorType
}{
	{nats.ErrPermissionViolation, recourse.Authorization},
	// The server says "authorization violation" of credentials it does not accept.
	{nats.ErrAuthorization, recourse.Authentication},
	{nats.ErrAuthExpired, recourse.Authentication},
	{nats.ErrAuthRevoked, recourse.Authentication},
	{nats.ErrAccountAuthExpired, recourse.Authentication},
	{nats.ErrNoServers, recourse.Connectivity},
	{nats.ErrNoResponders, recourse.Connectivity},
	{nats.ErrConnectionClosed, recourse.Connectivity},
	{nats.ErrConnectionReconnecting, recourse.Connectivity},
	{nats.ErrReconnectBufExceeded, recourse.Connectivity},
	{nats.ErrDisconnected, recourse.Connectivity},
	{nats.ErrStaleConnection, recourse.Connectivity},
	{jetstream.ErrNoStreamResponse, recourse.Connectivity},
	{jetstream.ErrConnectionClosed, recourse.Connectivity},
	{jetstream.ErrNoHeartbeat, recourse.Connectivity},
}

func typeOfNATS(err error) recourse.ErrorType {
	matcher, _ := err.(interface{ Is(error) bool })
	for _, known := range natsErrors {
		if err == known.err || matcher != nil && matcher.Is(known.err) {
			return known.is
		}
	}
	return 0
}

// typeOfAlert classifies a TLS alert that the peer sent. The numbers are those of RFC 8446, section 6.
func typeOfAlert(alert tls.AlertError) recourse.ErrorType {
	switch alert {
	case 42, 43, 44, 45, 46, 48, 49, 116: // our certificate is bad, unsupported, revoked, expired, unknown, untrusted, denied, missing
		return recourse.Authentication
	}
	return recourse.Connectivity
}

func typeOfErrno(errno syscall.Errno) recourse.ErrorType {
	switch errno {
	case syscall.ETIMEDOUT:
		return recourse.Timeout
	case syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE, syscall.ENETUNREACH,
		syscall.EHOSTUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN, syscall.ENETRESET:
		return recourse.Connectivity
	}
	return 0
}

// brokenConnection reports whether an error in which nothing else is known comes from a connection: any net.OpError, and an
// HTTP request whose answer ended early.
func brokenConnection(err error) bool {
	switch e := err.(type) {
	case *net.OpError:
		return true
	case *url.Error:
		return errors.Is(e.Err, io.EOF) || errors.Is(e.Err, io.ErrUnexpectedEOF)
	}
	return false
}
