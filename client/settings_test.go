package client

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

func env(pairs ...string) func(string) string {
	values := make(map[string]string)
	for i := 0; i < len(pairs); i += 2 {
		values[pairs[i]] = pairs[i+1]
	}
	return func(name string) string { return values[name] }
}

func TestFromEnv(t *testing.T) {
	all := env(
		"NATS_URL", "nats://env:4222", "NATS_CONTEXT", "ctx", "NATS_CREDS", "creds", "NATS_NKEY", "nkey", "NATS_USER", "user",
		"NATS_PASSWORD", "password", "NATS_TOKEN", "token", "NATS_CERT", "cert", "NATS_KEY", "key", "NATS_CA", "ca",
		"NATS_TIMEOUT", "3s", "NATS_TLS_FIRST", "True", "NATS_INBOX_PREFIX", "_INBOX.x",
	)
	full := Settings{
		Server: "nats://env:4222", Context: "ctx", Creds: "creds", NKey: "nkey", User: "user", Password: "password", Token: "token",
		TLSCert: "cert", TLSKey: "key", TLSCA: "ca", TLSFirst: true, InboxPrefix: "_INBOX.x", Timeout: 3 * time.Second,
	}
	set := func(change func(*Settings)) Settings {
		s := full
		change(&s)
		return s
	}
	for _, c := range []struct {
		name   string
		in     Settings
		getenv func(string) string
		want   Settings
	}{
		{"nothing", Settings{}, env(), Settings{}},
		{"all", Settings{}, all, full},
		{"a named server keeps the context out", Settings{Server: "mine"}, all, set(func(s *Settings) { s.Server, s.Context = "mine", "" })},
		{"a named context keeps the server out", Settings{Context: "mine"}, all, set(func(s *Settings) { s.Server, s.Context = "", "mine" })},
		{"a named file keeps the user out", Settings{Creds: "mine"}, all, set(func(s *Settings) {
			s.Creds, s.NKey, s.User, s.Password, s.Token = "mine", "", "", "", ""
		})},
		{"a named user takes the password", Settings{User: "mine"}, all, set(func(s *Settings) {
			s.Creds, s.NKey, s.User, s.Token = "", "", "mine", ""
		})},
		{"what is set stays", full, env("NATS_URL", "other", "NATS_TIMEOUT", "9s", "NATS_CA", "other"), full},
		{"a timeout that does not parse", Settings{}, env("NATS_TIMEOUT", "soon"), Settings{}},
		{"a negative timeout", Settings{}, env("NATS_TIMEOUT", "-1s"), Settings{}},
		{"no TLS first", Settings{}, env("NATS_TLS_FIRST", "0"), Settings{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.in.FromEnv(c.getenv); got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

// contexts makes a configuration directory of the nats command.
func contexts(t *testing.T, selected string, files map[string]string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	if err := os.MkdirAll(filepath.Join(dir, "nats", "context"), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, "nats", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if selected != "" {
		write("context.txt", selected+"\n")
	}
	for name, content := range files {
		write("context/"+name+".json", content)
	}
}

func TestConfigured(t *testing.T) {
	contexts(t, "", nil)
	for _, c := range []struct {
		s    Settings
		want bool
	}{{Settings{}, false}, {Settings{User: "u"}, false}, {Settings{Server: "x"}, true}, {Settings{Context: "x"}, true}} {
		if got := c.s.Configured(); got != c.want {
			t.Errorf("%+v: %t", c.s, got)
		}
	}
	contexts(t, "prod", nil)
	if !(Settings{}).Configured() {
		t.Error("a selected context does not count")
	}
}

// twoUsers lets ann in with a password, and anybody with the token.
func withUsers(o *server.Options) {
	o.Users = []*server.User{{Username: "ann", Password: "s3cret-pw"}, {Username: "bob", Password: "other-pw"}}
}

func TestConnectSettings(t *testing.T) {
	contexts(t, "", nil)
	b := newBroker(t)
	nc, err := Connect(t.Context(), Settings{Server: " " + b.url() + " , nats://127.0.0.1:1 ", InboxPrefix: "_INBOX.ann"})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	o := nc.Opts
	if o.MaxReconnect != -1 || o.PingInterval != 2*time.Second || o.MaxPingsOut != 2 || o.ReconnectBufSize != -1 ||
		o.InboxPrefix != "_INBOX.ann" || o.Name != DefaultName || o.Timeout != DefaultTimeout || !o.IgnoreAuthErrorAbort {
		t.Errorf("options %+v", o)
	}
	if !strings.HasPrefix(nc.NewInbox(), "_INBOX.ann.") {
		t.Error("the inbox prefix is not used")
	}
	nc2, err := Connect(t.Context(), Settings{Server: b.url(), Name: "mine", Timeout: time.Second}, nats.PingInterval(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer nc2.Close()
	if nc2.Opts.Name != "mine" || nc2.Opts.Timeout != time.Second || nc2.Opts.PingInterval != time.Minute {
		t.Errorf("options %+v", nc2.Opts)
	}
}

func TestConnectIdentity(t *testing.T) {
	b := newBroker(t, withUsers)
	contexts(t, "bob", map[string]string{
		"bob":   `{"url":"` + b.url() + `","user":"bob","password":"other-pw"}`,
		"away":  `{"url":"nats://127.0.0.1:1","user":"bob","password":"other-pw"}`,
		"wrong": `{"url":"` + b.url() + `","user":"bob","password":"wrong-pw"}`,
	})
	file := filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "nats", "context", "bob.json")
	for _, c := range []struct {
		name string
		s    Settings
	}{
		{"user and password", Settings{Server: b.url(), User: "ann", Password: "s3cret-pw"}},
		{"in the URL", Settings{Server: strings.Replace(b.url(), "://", "://ann:s3cret-pw@", 1)}},
		{"selected context", Settings{}},
		{"named context", Settings{Context: "bob"}},
		{"context by file", Settings{Context: file}},
		{"context with another server", Settings{Context: "away", Server: b.url()}},
		{"context with another user", Settings{Context: "wrong", User: "ann", Password: "s3cret-pw"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			nc, err := Connect(t.Context(), c.s)
			if err != nil {
				t.Fatal(err)
			}
			nc.Close()
		})
	}
	// The selected context's user must not be tried on a server that was named.
	if nc, err := Connect(t.Context(), Settings{Server: b.url()}); err == nil {
		nc.Close()
		t.Error("a named server got the selected context's user")
	}
}

func TestConnectToken(t *testing.T) {
	contexts(t, "", nil)
	b := newBroker(t, func(o *server.Options) { o.Authorization = "t0ken" })
	for _, s := range []Settings{{Server: b.url(), Token: "t0ken"}, {Server: b.url(), User: "t0ken"}} {
		nc, err := Connect(t.Context(), s)
		if err != nil {
			t.Errorf("%+v: %v", s, err)
			continue
		}
		nc.Close()
	}
}

func TestConnectErrors(t *testing.T) {
	b := newBroker(t, withUsers)
	contexts(t, "", map[string]string{"broken": "{"})
	for _, c := range []struct {
		name string
		s    Settings
		is   error
		says string
	}{
		{"wrong password", Settings{Server: b.url(), User: "ann", Password: "wr0ng-pw"}, nats.ErrAuthorization, "NATS_CREDS"},
		{"wrong password in the URL", Settings{Server: strings.TrimPrefix(strings.Replace(b.url(), "://", "://ann:wr0ng-pw@", 1), "nats://")}, nats.ErrAuthorization, "credentials"},
		{"nobody there", Settings{Server: "127.0.0.1:1"}, nats.ErrNoServers, "NATS_URL"},
		{"bad URL", Settings{Server: "nats://ann:wr0ng-pw@host:port"}, nil, "port"},
		{"unknown context", Settings{Context: "nowhere"}, nil, "nats context ls"},
		{"broken context", Settings{Context: "broken"}, nil, `context "broken"`},
		{"two identities", Settings{Server: b.url(), Creds: "x", Token: "wr0ng-pw"}, nil, "credentials file and token"},
		{"password alone", Settings{Server: b.url(), Password: "wr0ng-pw"}, nil, "without a user"},
		{"credentials file is missing", Settings{Server: b.url(), Creds: "/nowhere/x.creds"}, os.ErrNotExist, "credentials file"},
		{"nkey file is missing", Settings{Server: b.url(), NKey: "/nowhere/x.nk"}, os.ErrNotExist, "nkey file"},
		{"half a certificate", Settings{Server: b.url(), TLSCert: "x"}, nil, "together"},
		{"authority is missing", Settings{Server: b.url(), TLSCA: "/nowhere/ca.pem"}, os.ErrNotExist, "ca.pem"},
		{"no TLS there", Settings{Server: strings.Replace(b.url(), "nats:", "tls:", 1)}, nats.ErrSecureConnWanted, "does not offer TLS"},
		{"bad inbox prefix", Settings{Server: b.url(), InboxPrefix: "a.>"}, nil, "prefix"},
	} {
		t.Run(c.name, func(t *testing.T) {
			nc, err := Connect(t.Context(), c.s)
			if err == nil {
				nc.Close()
				t.Fatal("connected")
			}
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%v is not %v", err, c.is)
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v does not say %q", err, c.says)
			}
			if strings.Contains(err.Error(), "wr0ng-pw") {
				t.Errorf("the error has the password: %v", err)
			}
		})
	}
}

func TestConnectEndsWithContext(t *testing.T) {
	contexts(t, "", nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never greets
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = Connect(ctx, Settings{Server: listener.Addr().String(), Timeout: time.Second})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "NATS_TIMEOUT") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 500*time.Millisecond {
		t.Errorf("took %s", took)
	}
}

// A context may have brought its own by the time the settings are applied.
func TestIdentityReplacesTheContextsAsAWhole(t *testing.T) {
	for _, s := range []Settings{{User: "ann", Password: "s3cret-pw"}, {Token: "t0ken"}} {
		o := nats.GetDefaultOptions()
		for _, of := range []nats.Option{
			nats.UserInfo("ctx", "ctx"), nats.UserJWTAndSeed("jwt", "seed"), nats.Nkey("", nil),
		} {
			if err := of(&o); err != nil {
				t.Fatal(err)
			}
		}
		own, err := s.options()
		if err != nil {
			t.Fatal(err)
		}
		for _, of := range own {
			if err := of(&o); err != nil {
				t.Fatal(err)
			}
		}
		if o.User != s.User || o.Password != s.Password || o.Token != s.Token || o.Nkey != "" || o.UserJWT != nil || o.SignatureCB != nil {
			t.Errorf("%+v: user %q, token %q, nkey %q, jwt %t", s, o.User, o.Token, o.Nkey, o.UserJWT != nil)
		}
	}
}
