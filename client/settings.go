package client

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/synadia-io/orbit.go/natscontext"

	"github.com/recourse-dev/recourse"
)

// The defaults of [Settings].
const (
	DefaultName    = "recourse"
	DefaultTimeout = 5 * time.Second // the nats command's
)

// Settings say how to connect to NATS. They are those of the nats command line and are read from the same environment
// variables, so what works there works here. Every field may be empty.
type Settings struct {
	// Server is one URL, or several joined by commas.
	Server string
	// Context is the name of a context of the nats command, or the absolute path of its file. Beside a Server, the context gives
	// everything but the address. With neither, the context chosen by `nats context select` counts; a Server alone leaves that
	// one aside, so its credentials never go to a server they were not meant for.
	Context string
	// Creds is the file of user credentials; NKey the file of a seed. User and Password; User without a Password is a Token, as
	// the nats command has it. These are four ways to say who connects: at most one may be used, and it replaces the context's.
	Creds, NKey, User, Password, Token string
	// TLSCert and TLSKey are the files of the client's certificate, given together; TLSCA that of the authority that signed the
	// server's.
	TLSCert, TLSKey, TLSCA string
	// TLSFirst starts TLS before the server's greeting; the server must be set up for it.
	TLSFirst bool
	// InboxPrefix is the prefix of reply subjects, "_INBOX" where empty. A user whose permissions are tight has one of its own.
	InboxPrefix string
	// Name is what the server's lists call the connection; empty stands for DefaultName.
	Name string
	// Timeout bounds one attempt to connect to one server; zero stands for DefaultTimeout.
	Timeout time.Duration
}

// FromEnv returns s with its empty fields filled from the environment:
//
//	NATS_URL, NATS_CONTEXT                              Server, Context
//	NATS_CREDS, NATS_NKEY, NATS_USER, NATS_PASSWORD,
//	NATS_TOKEN                                          Creds, NKey, User, Password, Token
//	NATS_CERT, NATS_KEY, NATS_CA                        TLSCert, TLSKey, TLSCA
//	NATS_TIMEOUT                                        Timeout, in Go's form ("5s"); what does not parse is left out
//	NATS_TLS_FIRST, NATS_INBOX_PREFIX                   TLSFirst ("1" or "true"), InboxPrefix; the nats command has flags for these
//
// What s names is not mixed with the environment: with a Server or a Context neither is read, and with one way to say who
// connects the others are not.
func (s Settings) FromEnv(getenv func(string) string) Settings {
	fill := func(field *string, name string) {
		if *field == "" {
			*field = getenv(name)
		}
	}
	if s.Server == "" && s.Context == "" {
		fill(&s.Server, "NATS_URL")
		fill(&s.Context, "NATS_CONTEXT")
	}
	switch {
	case s.User != "":
		fill(&s.Password, "NATS_PASSWORD")
	case len(s.identities()) == 0:
		fill(&s.Creds, "NATS_CREDS")
		fill(&s.NKey, "NATS_NKEY")
		fill(&s.User, "NATS_USER")
		fill(&s.Password, "NATS_PASSWORD")
		fill(&s.Token, "NATS_TOKEN")
	}
	fill(&s.TLSCert, "NATS_CERT")
	fill(&s.TLSKey, "NATS_KEY")
	fill(&s.TLSCA, "NATS_CA")
	fill(&s.InboxPrefix, "NATS_INBOX_PREFIX")
	if !s.TLSFirst {
		first := strings.ToLower(getenv("NATS_TLS_FIRST"))
		s.TLSFirst = first == "1" || first == "true"
	}
	if timeout, err := time.ParseDuration(getenv("NATS_TIMEOUT")); s.Timeout == 0 && err == nil && timeout > 0 {
		s.Timeout = timeout
	}
	return s
}

// Configured reports whether the settings name a server or a context, or a context was chosen by `nats context select`. Where
// they do not, [Connect] tries the server of this machine, and the worker starts one of its own.
func (s Settings) Configured() bool {
	return s.Server != "" || s.Context != "" || selectedContext() != ""
}

// selectedContext returns the name that `nats context select` left behind, "" where there is none.
func selectedContext() string {
	dir := os.Getenv("XDG_CONFIG_HOME")
	if dir == "" {
		u, err := user.Current()
		if err != nil || u.HomeDir == "" {
			return ""
		}
		dir = filepath.Join(u.HomeDir, ".config")
	}
	name, err := os.ReadFile(filepath.Join(dir, "nats", "context.txt"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(name))
}

// identities names the ways in which s says who connects.
func (s Settings) identities() []string {
	var ways []string
	for _, way := range [...]struct{ name, value string }{
		{"credentials file", s.Creds}, {"nkey", s.NKey}, {"user", s.User}, {"token", s.Token},
	} {
		if way.value != "" {
			ways = append(ways, way.name)
		}
	}
	return ways
}

// Connect connects with the settings of the protocol: it reconnects for ever, also when the credentials are refused for a while,
// notices a dead connection within six seconds, and while disconnected refuses a publish instead of keeping it in memory. opts
// come last and so may overrule this; nats.RetryOnFailedConnect is the caller's choice. The caller closes the connection.
//
// Where ctx ends first, its error is returned and the connection that may still come is closed. Errors say what to do next and
// have no passwords in them.
func Connect(ctx context.Context, s Settings, opts ...nats.Option) (*nats.Conn, error) {
	options, err := s.options()
	if err != nil {
		return nil, &connectError{s.place(), err}
	}
	options = append(options, opts...)
	type result struct {
		nc  *nats.Conn
		err error
	}
	connected := make(chan result, 1)
	go func() {
		nc, err := s.dial(options)
		connected <- result{nc, err}
	}()
	select {
	case <-ctx.Done():
		go func() {
			if r := <-connected; r.nc != nil {
				r.nc.Close()
			}
		}()
		return nil, &connectError{s.place(), ctx.Err()}
	case r := <-connected:
		if r.err != nil {
			return nil, &connectError{s.place(), r.err}
		}
		return r.nc, nil
	}
}

func (s Settings) dial(options []nats.Option) (*nats.Conn, error) {
	if s.Context == "" && (s.Server != "" || selectedContext() == "") {
		return nats.Connect(s.Server, options...) // no server is that of this machine
	}
	nc, _, err := natscontext.Connect(s.Context, options...)
	return nc, err
}

func (s Settings) options() ([]nats.Option, error) {
	name, timeout := s.Name, s.Timeout
	if name == "" {
		name = DefaultName
	}
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	options := []nats.Option{
		nats.Name(name),
		nats.Timeout(timeout),
		nats.MaxReconnects(-1),
		nats.PingInterval(2 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.ReconnectBufSize(-1),
		// Without it two refusals in a row close the connection for good, and a rotation of credentials is enough for that.
		nats.IgnoreAuthErrorAbort(),
	}
	if s.Server != "" && s.Context != "" {
		options = append(options, func(o *nats.Options) error {
			o.Servers = strings.FieldsFunc(s.Server, func(r rune) bool { return r == ',' || r == ' ' })
			return nil
		})
	}
	if s.InboxPrefix != "" {
		options = append(options, nats.CustomInboxPrefix(s.InboxPrefix))
	}
	identity, err := s.identity()
	if err != nil {
		return nil, err
	}
	options = append(options, identity...)
	if (s.TLSCert == "") != (s.TLSKey == "") {
		return nil, errors.New("a client certificate and its key are given together")
	}
	if s.TLSCert != "" {
		options = append(options, nats.ClientCert(s.TLSCert, s.TLSKey))
	}
	if s.TLSCA != "" {
		options = append(options, nats.RootCAs(s.TLSCA))
	}
	if s.TLSFirst {
		options = append(options, nats.TLSHandshakeFirst())
	}
	return options, nil
}

// identity returns the options that say who connects, none where that is left to the context or the URL.
func (s Settings) identity() ([]nats.Option, error) {
	ways := s.identities()
	switch {
	case len(ways) > 1:
		return nil, fmt.Errorf("%s are given: name one way to say who connects", strings.Join(ways, " and "))
	case len(ways) == 0 && s.Password != "":
		return nil, errors.New("a password is given without a user")
	case len(ways) == 0:
		return nil, nil
	}
	// The context's identity goes as a whole: half of one and half of another is nobody.
	options := []nats.Option{func(o *nats.Options) error {
		o.User, o.Password, o.Token, o.Nkey = "", "", "", ""
		o.UserJWT, o.SignatureCB = nil, nil
		return nil
	}}
	switch {
	case s.Creds != "":
		if _, err := os.Stat(s.Creds); err != nil { // nats.go looks only when the server asks
			return nil, fmt.Errorf("credentials file: %w", err)
		}
		return append(options, nats.UserCredentials(s.Creds)), nil
	case s.NKey != "":
		seed, err := nats.NkeyOptionFromSeed(s.NKey)
		if err != nil {
			return nil, fmt.Errorf("nkey file: %w", err)
		}
		return append(options, seed), nil
	case s.User != "" && s.Password != "":
		return append(options, nats.UserInfo(s.User, s.Password)), nil
	}
	return append(options, nats.Token(s.User+s.Token)), nil
}

// place says what is connected to, for people.
func (s Settings) place() string {
	var parts []string
	if s.Server != "" {
		parts = append(parts, withoutUserinfo(s.Server))
	}
	switch name := selectedContext(); {
	case s.Context != "":
		parts = append(parts, fmt.Sprintf("context %q", s.Context))
	case s.Server != "":
	case name != "":
		parts = append(parts, fmt.Sprintf("selected context %q", name))
	default:
		parts = append(parts, nats.DefaultURL)
	}
	return strings.Join(parts, " with ")
}

// withoutUserinfo drops what stands before an @ in each of the URLs, also where they have no scheme.
func withoutUserinfo(servers string) string {
	urls := strings.Split(servers, ",")
	for i, url := range urls {
		scheme, rest, ok := strings.Cut(url, "://")
		if !ok {
			scheme, rest = "", url
		} else {
			scheme += "://"
		}
		urls[i] = scheme + rest[strings.LastIndexByte(rest, '@')+1:]
	}
	return strings.Join(urls, ",")
}

// connectError keeps passwords out of the text: URLs have them, and so have the errors of their parsing.
type connectError struct {
	place string
	err   error
}

func (e *connectError) Error() string {
	return recourse.Redact(fmt.Sprintf("connect to %s: %v%s", e.place, e.err, e.hint()))
}

func (e *connectError) Unwrap() error { return e.err }

func (e *connectError) hint() string {
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.Is(e.err, nats.ErrAuthorization):
		return ": the server does not accept these credentials; check NATS_CREDS, NATS_NKEY, NATS_USER or NATS_TOKEN, or the context"
	case errors.Is(e.err, nats.ErrAuthExpired), errors.Is(e.err, nats.ErrAuthRevoked), errors.Is(e.err, nats.ErrAccountAuthExpired):
		return ": ask for new credentials"
	case errors.As(e.err, &unknown):
		return ": name the authority that signed the server's certificate with NATS_CA"
	case errors.Is(e.err, nats.ErrSecureConnWanted):
		return ": the server does not offer TLS; leave the TLS settings out or use another address"
	case errors.Is(e.err, nats.ErrNoServers):
		return ": check the address (NATS_URL, or the context) and that the server runs"
	case errors.Is(e.err, context.DeadlineExceeded):
		return ": the server did not answer in time; check the address and the network, or allow more time with NATS_TIMEOUT"
	case strings.Contains(e.err.Error(), "unknown context"):
		return ": `nats context ls` lists the contexts there are"
	}
	return ""
}
