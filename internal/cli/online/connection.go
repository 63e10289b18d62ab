package online

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/cli"
)

// Global is what all commands of this package share: the global flags and the environment.
type Global struct {
	Format *cli.Format
	// Getenv is os.Getenv, or a test's.
	Getenv     func(string) string
	connection client.Settings
}

// Register adds the flags of the connection: those of the nats command, by the same names.
func (g *Global) Register(f *pflag.FlagSet) {
	s := &g.connection
	f.StringVarP(&s.Server, "server", "s", "", "NATS `URLs`, joined by commas (NATS_URL; default "+nats.DefaultURL+")")
	f.StringVar(&s.Context, "context", "", "context of the nats command (NATS_CONTEXT)")
	f.StringVar(&s.Creds, "creds", "", "user credentials `file` (NATS_CREDS)")
	f.StringVar(&s.NKey, "nkey", "", "user seed `file` (NATS_NKEY)")
	f.StringVar(&s.User, "user", "", "user name, or token where no password is given (NATS_USER)")
	f.StringVar(&s.Password, "password", "", "password; better in NATS_PASSWORD, where other users do not see it")
	f.StringVar(&s.TLSCert, "tlscert", "", "TLS client certificate `file` (NATS_CERT)")
	f.StringVar(&s.TLSKey, "tlskey", "", "TLS client key `file` (NATS_KEY)")
	f.StringVar(&s.TLSCA, "tlsca", "", "TLS authority `file` (NATS_CA)")
	f.BoolVar(&s.TLSFirst, "tlsfirst", false, "start TLS before the server's greeting")
	f.StringVar(&s.InboxPrefix, "inbox-prefix", "", "prefix of reply subjects")
	f.DurationVar(&s.Timeout, "timeout", 0, "how long one attempt to connect may take (NATS_TIMEOUT; default 5s)")
	cli.FromEnvironment(f, "server", "context", "creds", "nkey", "user", "password", "tlscert", "tlskey", "tlsca", "tlsfirst", "inbox-prefix", "timeout")
}

// Server returns the URLs that are named by flag or environment, "" for none.
func (g *Global) Server() string { return g.connection.FromEnv(g.Getenv).Server }

// session is an open connection and where the command writes to.
type session struct {
	*cli.Printer
	nc *nats.Conn
	js jetstream.JetStream
	denials
}

// denials ends requests that the broker's permissions do not allow. The broker does not answer these, it only notes the violation on the
// connection, so without this they would wait for their time-out.
type denials struct {
	mu      sync.Mutex
	pending map[*context.CancelCauseFunc]struct{}
}

func (d *denials) note(err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for cancel := range d.pending {
		(*cancel)(fmt.Errorf("%w: %w", client.ErrDenied, err))
	}
}

// request is the ctx of one request, of which there is one at a time where it may be denied.
func (d *denials) request(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithTimeout(ctx, requestWithin)
	ctx, cancel := d.guarded(ctx)
	return ctx, func() {
		cancel()
		stop()
	}
}

// connect opens the connection of a command; the caller closes it.
func (g *Global) connect(cmd *cobra.Command, options ...nats.Option) (*session, error) {
	return g.dial(cmd.Context(), cli.NewPrinter(cmd, g.Format), options...)
}

func (g *Global) dial(ctx context.Context, p *cli.Printer, options ...nats.Option) (*session, error) {
	settings := g.connection
	settings.Name = "recourse-cli"
	settings = settings.FromEnv(g.Getenv)
	s := &session{Printer: p}
	options = append(options, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { s.note(err) }))
	nc, err := client.Connect(ctx, settings, options...)
	if err != nil {
		if errors.Is(err, nats.ErrNoServers) && !settings.Configured() {
			err = fmt.Errorf("%w; start `worker`, which has a server of its own, or name one with --server", err)
		}
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	s.nc, s.js = nc, js
	return s, nil
}

func (s *session) close() { s.nc.Close() }

// forOneAccount adds to an error of a permission what is most often the matter.
func forOneAccount(err error) error {
	if errors.Is(err, client.ErrDenied) {
		return fmt.Errorf("%w; where the permission is for one account, say --account", err)
	}
	return err
}

// explain says what to do about an error of a stream.
func explain(stream string, err error) error {
	switch {
	case errors.Is(err, client.ErrDenied):
		return fmt.Errorf("stream %s: %w", stream, forOneAccount(err))
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrNoStreamResponse):
		return fmt.Errorf("stream %s: %w; start `worker` once, which creates it", stream, err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("stream %s: %w; is JetStream enabled on this server, and is it the right one?", stream, err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("stream %s: no answer: %w; the server is busy, or this user may not ask", stream, err)
	}
	return fmt.Errorf("stream %s: %w", stream, err)
}
