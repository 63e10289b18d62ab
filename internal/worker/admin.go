package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"go.uber.org/zap"
)

// admin serves what people and machines ask a worker: /livez, whether its process answers; /readyz, whether it works, with ?verbose each
// check; /metrics for Prometheus; and, where it was asked for, /debug/pprof. They are without a password, hence on the loopback
// interface unless another is named.
type admin struct {
	mux *http.ServeMux
}

func newAdmin(ready func(context.Context) []check, metrics http.Handler, profiles bool) *admin {
	a := &admin{mux: http.NewServeMux()}
	a.mux.HandleFunc("GET /livez", func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprintln(rw, "ok") })
	a.mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, r *http.Request) {
		answer(rw, ready(r.Context()), r.URL.Query().Has("verbose"))
	})
	if metrics != nil {
		a.mux.Handle("GET /metrics", metrics)
	}
	if profiles {
		a.mux.HandleFunc("/debug/pprof/", pprof.Index)
		a.mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		a.mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		a.mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		a.mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return a
}

// ServeHTTP implements http.Handler.
func (a *admin) ServeHTTP(rw http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(rw, r) }

// answer says what came of the checks: all of them, or those that failed.
func answer(rw http.ResponseWriter, checks []check, verbose bool) {
	var text strings.Builder
	failed := false
	for _, c := range checks {
		switch {
		case c.err != nil:
			failed = true
			fmt.Fprintf(&text, "[-] %s: %v\n", c.name, c.err)
		case verbose:
			fmt.Fprintf(&text, "[+] %s: %s\n", c.name, c.says)
		}
	}
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	rw.Header().Set("Cache-Control", "no-store")
	if failed {
		rw.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(rw, strings.TrimSuffix(text.String(), "\n"))
		return
	}
	fmt.Fprint(rw, text.String(), "ok\n")
}

// adminAddress returns where to listen: a port alone is one of the loopback interface.
func adminAddress(listen string) string {
	if !strings.Contains(listen, ":") {
		return net.JoinHostPort("127.0.0.1", listen)
	}
	return listen
}

// serveAdmin starts the admin endpoints where they are wanted.
func (w *worker) serveAdmin() error {
	if w.cfg.AdminListen == "" {
		return nil
	}
	listener, err := net.Listen("tcp", adminAddress(w.cfg.AdminListen))
	if err != nil {
		return fmt.Errorf("admin endpoints: %w; choose another --admin-listen", err)
	}
	server := &http.Server{Handler: newAdmin(w.readiness.look, w.tell.Handler(), w.cfg.Pprof), ReadHeaderTimeout: 5 * time.Second}
	w.log("admin").Info("listening", zap.Stringer("address", listener.Addr()), zap.Bool("pprof", w.cfg.Pprof))
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			w.log("admin").Error("the admin endpoints ended", zap.Error(err))
		}
	}()
	w.stops = append(w.stops, func(context.Context) error { return server.Close() })
	return nil
}
