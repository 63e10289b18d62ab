package telemetry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/otlptranslator"
	"go.opentelemetry.io/contrib/bridges/otelzap"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	prometheusexporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Config is what a worker is told about its telemetry. All else is told by the OTEL_* variables of the process.
type Config struct {
	// Log is where lines go; what [Telemetry.Log] redacts and exports ends up here. Required.
	Log *zap.Logger
	// Prometheus says whether there is to be a [Telemetry.Handler].
	Prometheus bool
	// DelayedRetry is how traces hang together across waits.
	DelayedRetry DelayedRetry
}

const (
	serviceName = "recourse-worker" // unless OTEL_SERVICE_NAME says otherwise
	// flushWithin bounds the sending of what is left at the end.
	flushWithin = 5 * time.Second
	// complainEvery is how often at most trouble with an exporter is logged.
	complainEvery = time.Minute
)

// Start sets up what the environment asks for. A signal is exported where OTEL_<SIGNAL>_EXPORTER names an exporter, or where that is not
// set but an endpoint is (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_<SIGNAL>_ENDPOINT); with OTEL_SDK_DISABLED none is. Exporters connect in the background: one whose
// collector is away costs lines in the log and nothing else. An error is a setting that cannot be. [Telemetry.Shutdown] ends it.
func Start(ctx context.Context, cfg Config) (_ *Telemetry, err error) {
	t := New(cfg.Log)
	t.delayed = cfg.DelayedRetry
	if cfg.Prometheus {
		t.registry = prometheus.NewRegistry()
		t.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	disabled := strings.EqualFold(strings.TrimSpace(os.Getenv("OTEL_SDK_DISABLED")), "true")
	traces, metrics, logs := exports("TRACES"), exports("METRICS"), exports("LOGS")
	if disabled || !traces && !metrics && !logs && !cfg.Prometheus {
		t.guard(cfg.Log, nil)
		return t, nil
	}
	defer func() {
		if err != nil {
			t.Shutdown(ctx)
		}
	}()
	about, err := describe(ctx)
	if err != nil {
		return nil, err
	}
	id, _ := about.Set().Value(semconv.ServiceInstanceIDKey)
	t.worker = id.AsString()
	var provider *sdklog.LoggerProvider
	for _, start := range []struct {
		wanted bool
		signal string
		do     func() error
	}{
		{metrics || cfg.Prometheus, "metrics", func() error { return t.measure(ctx, about, metrics) }},
		{traces, "traces", func() error { return t.trace(ctx, about) }},
		{logs, "logs", func() (err error) { provider, err = t.export(ctx, about); return err }},
	} {
		if start.wanted {
			if err := start.do(); err != nil {
				return nil, fmt.Errorf("telemetry: %s: %w", start.signal, err)
			}
		}
	}
	t.guard(cfg.Log, provider)
	// The complaints about exporters go to the log alone: a collector that is away must not be told so.
	otel.SetErrorHandler(&complaints{log: t.guardedLog(cfg.Log, nil).Named("telemetry")})
	return t, nil
}

// exports reports whether the environment wants a signal exported.
func exports(signal string) bool {
	if exporter := os.Getenv("OTEL_" + signal + "_EXPORTER"); exporter != "" {
		return exporter != "none"
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""
}

// describe returns what is exported about this worker: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES over what is known of itself.
func describe(ctx context.Context) (*resource.Resource, error) {
	random := make([]byte, 4)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	about, err := resource.New(ctx,
		resource.WithAttributes(
			semconv.ServiceName(serviceName), semconv.ServiceVersion(version()), semconv.ServiceInstanceID(host+"-"+hex.EncodeToString(random)),
		),
		resource.WithTelemetrySDK(), resource.WithFromEnv(),
	)
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	id, _ := about.Set().Value(semconv.ServiceInstanceIDKey)
	return resource.Merge(about, resource.NewSchemaless(semconv.CICDWorkerID(id.AsString())))
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return setting.Value
		}
	}
	return "devel"
}

func (t *Telemetry) trace(ctx context.Context, about *resource.Resource) error {
	sampler, err := sampler(os.Getenv("OTEL_TRACES_SAMPLER"), os.Getenv("OTEL_TRACES_SAMPLER_ARG"))
	if err != nil {
		return err
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return err
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about), sdktrace.WithSampler(sampler))
	t.tracer = provider.Tracer(Scope, trace.WithSchemaURL(semconv.SchemaURL))
	t.stops = append(t.stops, provider.Shutdown)
	return nil
}

// measure sets up one set of instruments, read by Prometheus and by an exporter, as far as these are wanted.
func (t *Telemetry) measure(ctx context.Context, about *resource.Resource, export bool) error {
	options := []sdkmetric.Option{sdkmetric.WithResource(about)}
	if t.registry != nil {
		reader, err := prometheusexporter.New(prometheusexporter.WithRegisterer(t.registry), prometheusexporter.WithoutScopeInfo(),
			prometheusexporter.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes))
		if err != nil {
			return err
		}
		options = append(options, sdkmetric.WithReader(reader))
	}
	if export {
		reader, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return err
		}
		options = append(options, sdkmetric.WithReader(reader))
	}
	provider := sdkmetric.NewMeterProvider(options...)
	t.stops = append(t.stops, provider.Shutdown)
	var err error
	t.metrics, err = newInstruments(provider.Meter(Scope, metric.WithSchemaURL(semconv.SchemaURL)))
	return err
}

func (t *Telemetry) export(ctx context.Context, about *resource.Resource) (*sdklog.LoggerProvider, error) {
	exporter, err := autoexport.NewLogExporter(ctx)
	if err != nil {
		return nil, err
	}
	provider := sdklog.NewLoggerProvider(sdklog.WithProcessor(sdklog.NewBatchProcessor(exporter)), sdklog.WithResource(about))
	t.stops = append(t.stops, provider.Shutdown)
	return provider, nil
}

// guard makes the worker's log of the one it was given.
func (t *Telemetry) guard(log *zap.Logger, provider *sdklog.LoggerProvider) {
	t.Log = t.guardedLog(log, provider)
	t.consumer = t.Log.Named("consumer")
}

// guardedLog redacts what goes to log, counts its errors, and exports it beside where there is a provider.
func (t *Telemetry) guardedLog(log *zap.Logger, provider *sdklog.LoggerProvider) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		g := &guarded{Core: core}
		if provider != nil {
			bridge := otelzap.NewCore(Scope, otelzap.WithLoggerProvider(provider), otelzap.WithSchemaURL(semconv.SchemaURL))
			g.Core = zapcore.NewTee(core, &exported{bridge, core})
		}
		if t.metrics != nil {
			g.failed = t.metrics.failed
		}
		return g
	}))
}

// Shutdown sends what is left and ends the exporters, within 5s and not longer than ctx. What cannot be sent by then is lost, and logged:
// that a collector is away does not make the end of a worker an error. A second call does nothing.
func (t *Telemetry) Shutdown(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushWithin)
	defer cancel()
	errs := make([]error, len(t.stops))
	var stopping sync.WaitGroup
	for i, stop := range t.stops {
		stopping.Go(func() { errs[i] = stop(ctx) })
	}
	stopping.Wait()
	t.stops = nil
	if err := errors.Join(errs...); err != nil {
		t.Log.Warn("telemetry was lost at the end", zap.Error(err))
	}
}

// complaints logs what goes wrong inside the SDK and its exporters, the first at once and then one a minute: an exporter whose collector
// is away complains every few seconds.
type complaints struct {
	log *zap.Logger

	mu    sync.Mutex
	last  time.Time
	quiet int // complaints since then
}

// Handle implements otel.ErrorHandler.
func (c *complaints) Handle(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.last) >= complainEvery {
		c.log.Warn("telemetry is not exported", zap.Error(err), zap.Int("unsaid", c.quiet))
		c.last, c.quiet = now, 0
		return
	}
	c.quiet++
}
