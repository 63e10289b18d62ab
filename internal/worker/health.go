package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// health answers whether the worker lives (/livez) and whether it works (/readyz): connected, pulling, not stopping.
type health struct {
	working   atomic.Bool
	connected func() bool
}

func (h *health) set(working bool) { h.working.Store(working) }

func (h *health) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/livez":
		fmt.Fprintln(rw, "ok")
	case r.URL.Path != "/readyz":
		http.NotFound(rw, r)
	case !h.working.Load():
		http.Error(rw, "not working: starting or stopping", http.StatusServiceUnavailable)
	case !h.connected():
		http.Error(rw, "not connected to the NATS server", http.StatusServiceUnavailable)
	default:
		fmt.Fprintln(rw, "ok")
	}
}

// serveHealth starts the health endpoints where they are wanted.
func (w *worker) serveHealth() error {
	w.health = &health{connected: func() bool { return w.nc.IsConnected() }}
	if w.cfg.AdminListen == "" {
		return nil
	}
	listener, err := net.Listen("tcp", w.cfg.AdminListen)
	if err != nil {
		return fmt.Errorf("health endpoints: %w; choose another --admin-listen", err)
	}
	server := &http.Server{Handler: w.health, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			w.cfg.Log.Error("the health endpoints ended", zap.Error(err))
		}
	}()
	w.stops = append(w.stops, func(context.Context) error { return server.Close() })
	return nil
}
