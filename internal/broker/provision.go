package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

// Mode is what [Provision] may do. The zero value means not set.
type Mode uint8

// The modes.
const (
	ModeCreate Mode = iota + 1 // create what is missing, update what can be updated safely; needs the permissions of an admin
	ModeVerify                 // look only: every difference is an error
	ModeOff                    // not even look; only the version of the server is checked
)

var modeNames = [...]string{"", "create", "verify", "off"}

// String returns "create", "verify", "off" or "".
func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return fmt.Sprintf("Mode(%d)", uint8(m))
}

// MarshalText writes the name.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads "create", "verify" or "off".
func (m *Mode) UnmarshalText(text []byte) error {
	for i, name := range modeNames {
		if i > 0 && name == string(text) {
			*m = Mode(i)
			return nil
		}
	}
	return fmt.Errorf("unknown provisioning mode %q, known are create, verify, off", text)
}

// Difference is one setting that is not as it should be.
type Difference struct {
	// Asset is what it is a setting of: "stream RECOURSE_INBOX" or "consumer RECOURSE_INBOX/recourse-worker".
	Asset string
	// Setting is the name of the setting; empty where the whole asset is missing.
	Setting string
	// Have and Want are the values, for people.
	Have, Want string
	// Mend says what to do.
	Mend string
}

// String returns the difference on one line.
func (d Difference) String() string {
	if d.Setting == "" {
		return fmt.Sprintf("%s is missing: %s", d.Asset, d.Mend)
	}
	return fmt.Sprintf("%s: %s is %s, want %s: %s", d.Asset, d.Setting, quoteEmpty(d.Have), quoteEmpty(d.Want), d.Mend)
}

func quoteEmpty(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// DriftError lists what is not as it should be, streams first. Nothing was changed.
type DriftError struct{ Differences []Difference }

func (e *DriftError) Error() string {
	var b strings.Builder
	b.WriteString("the streams on the server are not as recourse needs them")
	for _, d := range e.Differences {
		b.WriteString("\n  - ")
		b.WriteString(d.String())
	}
	return b.String()
}

// Report is what [Provision] did. Both are empty where everything was in place.
type Report struct {
	// Created names the streams and consumers that were missing.
	Created []string
	// Updated are the settings that were changed; Have is what they were.
	Updated []Difference
}

// String returns the report on one line.
func (r *Report) String() string {
	if len(r.Created) == 0 && len(r.Updated) == 0 {
		return "everything in place"
	}
	var parts []string
	if len(r.Created) > 0 {
		parts = append(parts, "created "+strings.Join(r.Created, ", "))
	}
	for _, d := range r.Updated {
		parts = append(parts, fmt.Sprintf("%s: %s changed from %s to %s", d.Asset, d.Setting, quoteEmpty(d.Have), quoteEmpty(d.Want)))
	}
	return strings.Join(parts, "; ")
}

const (
	// requestWithin bounds one request to the server, answerWithin all its repeats, where the context has no closer deadline. A
	// stream that was created a moment ago, or lost its leader, does not answer until it has one.
	requestWithin = 2 * time.Second
	answerWithin  = 15 * time.Second
	// rounds bounds how often creating starts again because another process changed something in between.
	rounds = 10
)

const mendMissing = "run with provisioning mode create and the permissions of an admin"

// Provision brings the streams, the bucket and the durable consumers into the state that Recourse needs, as far as the mode allows.
//
// It looks at everything first. Where something differs that cannot be changed safely, and in [ModeVerify] where anything differs,
// it changes nothing and returns a *[DriftError] with all differences. A server older than [MinServerVersion] is a *[VersionError],
// in every mode. Where another process creates or changes the same at the same time, it looks again.
func Provision(ctx context.Context, js jetstream.JetStream, mode Mode, cfg ProvisionConfig) (*Report, error) {
	if mode < ModeCreate || mode > ModeOff {
		return nil, fmt.Errorf("provisioning mode %d, known are create, verify, off", mode)
	}
	if cfg.Replicas < 0 || cfg.Replicas > 5 {
		return nil, fmt.Errorf("replicas: want 1 to 5, or 0 for what there is; got %d", cfg.Replicas)
	}
	if cfg.MaxAge < 0 || cfg.MaxAge > 0 && cfg.MaxAge < shortWindow {
		return nil, fmt.Errorf("max age: want 0 (forever) or at least %v, got %v", shortWindow, cfg.MaxAge)
	}
	if err := CheckServerVersion(js.Conn().ConnectedServerVersion()); err != nil {
		return nil, err
	}
	report := &Report{}
	if mode == ModeOff {
		return report, nil
	}
	for round := 1; ; round++ {
		plan, err := inspect(ctx, js, cfg)
		if err != nil {
			return report, err
		}
		if drift := plan.drift(mode); len(drift) > 0 {
			return report, &DriftError{Differences: drift}
		}
		err = plan.apply(ctx, js, report)
		if err == nil || !raced(err) || round == rounds {
			return report, err
		}
	}
}

// plan is what there is to do.
type plan struct {
	createStreams   []jetstream.StreamConfig
	updateStreams   []jetstream.StreamConfig
	createConsumers []consumer
	updateConsumers []consumer
	missing         []Difference
	safe            []Difference
	unsafe          []Difference
}

// drift returns what forbids to go on.
func (p *plan) drift(mode Mode) []Difference {
	if mode == ModeVerify {
		return append(append(p.missing, p.unsafe...), p.safe...)
	}
	return p.unsafe
}

func inspect(ctx context.Context, js jetstream.JetStream, cfg ProvisionConfig) (*plan, error) {
	p := &plan{}
	exists := map[string]bool{}
	for _, want := range streams(cfg) {
		asset := streamAsset(want.Name)
		info, err := streamInfo(ctx, js, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			p.createStreams = append(p.createStreams, want)
			p.missing = append(p.missing, Difference{Asset: asset, Have: "missing", Want: "present", Mend: mendMissing})
			continue
		}
		if err != nil {
			return nil, explain("look at "+asset, err)
		}
		exists[want.Name] = true
		have := info.Config
		keep(cfg, &have, &want)
		safe, unsafe := compare(asset, streamSettings, &have, &want)
		p.safe, p.unsafe = append(p.safe, safe...), append(p.unsafe, unsafe...)
		if len(safe) > 0 {
			merge(streamSettings, &have, &want)
			p.updateStreams = append(p.updateStreams, have)
		}
	}
	for _, want := range consumers() {
		asset := consumerAsset(want)
		missing := Difference{Asset: asset, Have: "missing", Want: "present", Mend: mendMissing}
		if !exists[want.stream] {
			p.createConsumers = append(p.createConsumers, want)
			p.missing = append(p.missing, missing)
			continue
		}
		info, err := consumerInfo(ctx, js, want.stream, want.Durable)
		if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
			p.createConsumers = append(p.createConsumers, want)
			p.missing = append(p.missing, missing)
			continue
		}
		if errors.Is(err, jetstream.ErrNotPullConsumer) {
			p.unsafe = append(p.unsafe, Difference{Asset: asset, Setting: "kind", Have: "push", Want: "pull", Mend: mendConsumer})
			continue
		}
		if err != nil {
			return nil, explain("look at "+asset, err)
		}
		have := info.Config
		safe, unsafe := compare(asset, consumerSettings, &have, &want.ConsumerConfig)
		p.safe, p.unsafe = append(p.safe, safe...), append(p.unsafe, unsafe...)
		if len(safe) > 0 {
			merge(consumerSettings, &have, &want.ConsumerConfig)
			p.updateConsumers = append(p.updateConsumers, consumer{want.stream, have})
		}
	}
	return p, nil
}

// apply creates and updates. What it did before an error is in the report.
func (p *plan) apply(ctx context.Context, js jetstream.JetStream, report *Report) error {
	for _, want := range p.createStreams {
		asset := streamAsset(want.Name)
		err := request(ctx, js, func(ctx context.Context) error {
			_, err := js.CreateStream(ctx, want)
			return err
		})
		if err != nil {
			return explain("create "+asset, err)
		}
		report.Created = append(report.Created, asset)
	}
	for _, merged := range p.updateStreams {
		asset := streamAsset(merged.Name)
		err := request(ctx, js, func(ctx context.Context) error {
			_, err := js.UpdateStream(ctx, merged)
			return err
		})
		if err != nil {
			return explain("update "+asset, err)
		}
		report.updated(asset, p.safe)
	}
	for _, want := range p.createConsumers {
		asset := consumerAsset(want)
		err := request(ctx, js, func(ctx context.Context) error {
			_, err := js.CreateConsumer(ctx, want.stream, want.ConsumerConfig)
			return err
		})
		if err != nil {
			return explain("create "+asset, err)
		}
		report.Created = append(report.Created, asset)
	}
	for _, merged := range p.updateConsumers {
		asset := consumerAsset(merged)
		err := request(ctx, js, func(ctx context.Context) error {
			_, err := js.UpdateConsumer(ctx, merged.stream, merged.ConsumerConfig)
			return err
		})
		if err != nil {
			return explain("update "+asset, err)
		}
		report.updated(asset, p.safe)
	}
	return nil
}

func (r *Report) updated(asset string, differences []Difference) {
	for _, d := range differences {
		if d.Asset == asset {
			d.Mend = ""
			r.Updated = append(r.Updated, d)
		}
	}
}

// raced says that somebody else was quicker, so that a second look is due.
func raced(err error) bool {
	return errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) || errors.Is(err, jetstream.ErrConsumerExists) ||
		errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerDoesNotExist)
}

// Codes of the server that nats.go has no error for.
const (
	codeNoPeers             jetstream.ErrorCode = 10005
	codeInsufficientStorage jetstream.ErrorCode = 10047
	codeSubjectsOverlap     jetstream.ErrorCode = 10065
	codeReplicasUnsupported jetstream.ErrorCode = 10074
	codeFilterNotUnique     jetstream.ErrorCode = 10100
)

// explain says what was tried and, where it is known, how to mend what went wrong.
func explain(what string, err error) error {
	var api *jetstream.APIError
	_ = errors.As(err, &api)
	hint := ""
	switch {
	case errors.As(err, new(*deniedError)):
		hint = "this user may not do that: let an admin provision once, and run workers with provisioning mode verify"
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		hint = "enable JetStream on the server (jetstream {} in its configuration), and for this account"
	case errors.Is(err, nats.ErrNoResponders):
		hint = "nobody answers the JetStream API: is JetStream enabled on this server and for this account?"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		hint = "no answer: the server is overloaded, or the stream has no leader because most of its servers are down"
	case api == nil:
	case api.ErrorCode == codeReplicasUnsupported:
		hint = "the server is not in a cluster: ask for one replica"
	case api.ErrorCode == codeNoPeers:
		hint = "the cluster has fewer servers with room than replicas are asked for"
	case api.ErrorCode == codeInsufficientStorage:
		hint = "raise max_file_store of the server or of the account, or free disk space"
	case api.ErrorCode == codeSubjectsOverlap:
		hint = "another stream takes subjects that begin with recourse. : nats stream ls --subjects shows which"
	case api.ErrorCode == codeFilterNotUnique:
		hint = "another consumer takes the same messages: nats consumer ls shows which"
	}
	if hint == "" {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w; %s", what, err, hint)
}

// request repeats a request that is not answered. All requests here may be repeated: what they ask for is there the second time.
func request(ctx context.Context, js jetstream.JetStream, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	for {
		attempt, cancel := context.WithTimeout(ctx, requestWithin)
		err := do(attempt)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) {
			return err
		}
		if violation := denied(js.Conn()); violation != nil {
			return &deniedError{violation}
		}
		if ctx.Err() != nil {
			return err
		}
	}
}

// denied returns the violation that explains why the server does not answer, if that is the last it complained about: it does not
// answer a request that the user may not make.
func denied(nc *nats.Conn) error {
	if err := nc.LastError(); errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(strings.ToLower(err.Error()), "$js.api.") {
		return err
	}
	return nil
}

type deniedError struct{ violation error }

func (e *deniedError) Error() string { return e.violation.Error() }
func (e *deniedError) Unwrap() error { return e.violation }

func streamInfo(ctx context.Context, js jetstream.JetStream, name string) (info *jetstream.StreamInfo, err error) {
	err = request(ctx, js, func(ctx context.Context) error {
		s, err := js.Stream(ctx, name)
		if err == nil {
			info = s.CachedInfo()
		}
		return err
	})
	return info, err
}

func consumerInfo(ctx context.Context, js jetstream.JetStream, stream, name string) (info *jetstream.ConsumerInfo, err error) {
	err = request(ctx, js, func(ctx context.Context) error {
		c, err := js.Consumer(ctx, stream, name)
		if err == nil {
			info = c.CachedInfo()
		}
		return err
	})
	return info, err
}

func streamAsset(name string) string {
	if name == PipelinesStream {
		return "bucket " + recourse.BucketPipelines
	}
	return "stream " + name
}

func consumerAsset(c consumer) string { return "consumer " + c.stream + "/" + c.Durable }
