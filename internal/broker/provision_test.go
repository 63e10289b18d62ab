package broker

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

var allAssets = []string{
	"stream RECOURSE_INBOX", "stream RECOURSE_JOURNAL", "stream RECOURSE_TIMERS", "stream RECOURSE_REJECTED",
	"bucket RECOURSE_PIPELINES", "consumer RECOURSE_INBOX/recourse-worker", "consumer RECOURSE_TIMERS/recourse-due",
}

func TestProvisionFromNothing(t *testing.T) {
	e := startTest(t, EmbeddedConfig{})
	_, js := connectTest(t, e.URL())

	_, err := Provision(t.Context(), js, ModeVerify, ProvisionConfig{})
	var drift *DriftError
	if !errors.As(err, &drift) {
		t.Fatalf("verify on an empty server: want a DriftError, got %v", err)
	}
	var missing []string
	for _, d := range drift.Differences {
		missing = append(missing, d.Asset)
		if d.Setting != "" || d.Mend == "" {
			t.Errorf("want the asset missing and how to mend it, got %v", d)
		}
	}
	if !slices.Equal(missing, allAssets) {
		t.Errorf("verify on an empty server lists %q", missing)
	}

	report, err := Provision(t.Context(), js, ModeOff, ProvisionConfig{})
	if err != nil || len(report.Created) > 0 {
		t.Errorf("off: %v, %v", report, err)
	}
	report, err = Provision(t.Context(), js, ModeCreate, ProvisionConfig{})
	if err != nil || !slices.Equal(report.Created, allAssets) || len(report.Updated) > 0 {
		t.Fatalf("create: %v, %v", report, err)
	}
	for _, mode := range []Mode{ModeCreate, ModeVerify, ModeOff} {
		if report, err = Provision(t.Context(), js, mode, ProvisionConfig{}); err != nil || report.String() != "everything in place" {
			t.Errorf("%v again: %v, %v", mode, report, err)
		}
	}
}

// TestStreamsAsDocumented states the table of the protocol once more, as the server reports it.
func TestStreamsAsDocumented(t *testing.T) {
	_, js := provisionedTest(t)
	for _, test := range []struct {
		name     string
		subjects []string
		size     int32
	}{
		{"RECOURSE_INBOX", []string{"recourse.*.*.*.*.*.failure.*", "recourse.*.*.*.*.*.intervention.*", "recourse.*.*.*.*.*.control.*", "recourse.*.*.*.*.*.lifecycle.*"}, 256 << 10},
		{"RECOURSE_JOURNAL", []string{"recourse.*.*.*.*.*.command.*", "recourse.*.*.*.*.*.decision.*"}, 1 << 20},
		{"RECOURSE_REJECTED", []string{"recourse.*.*.*.*.*.rejected.*"}, 1 << 20},
	} {
		c := infoTest(t, js, test.name).Config
		if !slices.Equal(c.Subjects, test.subjects) || c.MaxMsgSize != test.size {
			t.Errorf("%s: subjects %v, size %d", test.name, c.Subjects, c.MaxMsgSize)
		}
		if c.Retention != jetstream.LimitsPolicy || c.Discard != jetstream.DiscardNew || !c.DenyDelete || !c.DenyPurge || !c.AllowDirect ||
			c.AllowRollup || c.AllowMsgSchedules || c.AllowMsgTTL || c.MaxAge != 0 || c.MaxMsgs > 0 || c.MaxBytes > 0 || c.MaxMsgsPerSubject > 0 || c.Storage != jetstream.FileStorage {
			t.Errorf("%s: %+v", test.name, c)
		}
	}
	c := infoTest(t, js, "RECOURSE_TIMERS").Config
	if !c.AllowMsgSchedules || c.Retention != jetstream.WorkQueuePolicy || c.MaxAge != 0 || c.MaxMsgs > 0 || c.MaxBytes > 0 || c.MaxMsgsPerSubject > 0 ||
		!slices.Equal(c.Subjects, []string{"recourse.*.*.*.*.*.timer.*", "recourse.*.*.*.*.*.due.*"}) {
		t.Errorf("RECOURSE_TIMERS: %+v", c)
	}
	for stream, name := range map[string]string{"RECOURSE_INBOX": "recourse-worker", "RECOURSE_TIMERS": "recourse-due"} {
		consumer, err := js.Consumer(t.Context(), stream, name)
		if err != nil {
			t.Fatal(err)
		}
		c := consumer.CachedInfo().Config
		if c.AckPolicy != jetstream.AckExplicitPolicy || c.AckWait != 30*time.Second || c.MaxDeliver != -1 || len(c.BackOff) > 0 || c.MaxAckPending != MaxAckPending {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

// TestBucketIsOneOfTheClientLibrary makes sure that what is made as a stream here is what nats.go makes of such a bucket.
func TestBucketIsOneOfTheClientLibrary(t *testing.T) {
	_, js := provisionedTest(t)
	have := infoTest(t, js, PipelinesStream).Config
	if err := js.DeleteStream(t.Context(), PipelinesStream); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: recourse.BucketPipelines, History: 64, Description: have.Description}); err != nil {
		t.Fatal(err)
	}
	want := infoTest(t, js, PipelinesStream).Config
	if !reflect.DeepEqual(have, want) {
		t.Errorf("bucket is\n%+v\nthe client library makes\n%+v", have, want)
	}
	if _, err := Provision(t.Context(), js, ModeVerify, ProvisionConfig{}); err != nil {
		t.Error(err)
	}
}

func TestProvisionConcurrently(t *testing.T) {
	e := startTest(t, EmbeddedConfig{})
	const workers = 8
	var wg sync.WaitGroup
	errs := make([]error, workers)
	for i := range workers {
		_, js := connectTest(t, e.URL())
		wg.Go(func() { _, errs[i] = Provision(t.Context(), js, ModeCreate, ProvisionConfig{}) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	_, js := connectTest(t, e.URL())
	if _, err := Provision(t.Context(), js, ModeVerify, ProvisionConfig{}); err != nil {
		t.Error(err)
	}
}

func TestProvisionUpdatesConcurrently(t *testing.T) {
	e := startTest(t, EmbeddedConfig{})
	_, js := connectTest(t, e.URL())
	for _, c := range streams(ProvisionConfig{}) {
		c.Duplicates, c.AllowBatchPublish = time.Minute, true
		if _, err := js.CreateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	// The consumers are in place: nats-server 2.15.2 has a data race of its own between the update of a stream and the creation of
	// a consumer on it, which the race detector would report here.
	for _, c := range consumers() {
		c.MaxAckPending = 1000
		if _, err := js.CreateConsumer(t.Context(), c.stream, c.ConsumerConfig); err != nil {
			t.Fatal(err)
		}
	}
	const workers = 8
	var wg sync.WaitGroup
	errs := make([]error, workers)
	for i := range workers {
		_, js := connectTest(t, e.URL())
		wg.Go(func() { _, errs[i] = Provision(t.Context(), js, ModeCreate, ProvisionConfig{}) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	if _, err := Provision(t.Context(), js, ModeVerify, ProvisionConfig{}); err != nil {
		t.Error(err)
	}
}

func infoTest(t testing.TB, js jetstream.JetStream, stream string) *jetstream.StreamInfo {
	t.Helper()
	info, err := streamInfo(context.Background(), js, stream)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// driftCase is a server on which one thing is not as it should be.
type driftCase struct {
	setting    string // as reported
	have, want string
	updated    bool // whether create mends it
	stream     string
	change     func(*jetstream.StreamConfig)
	consumer   func(*jetstream.ConsumerConfig)
}

const (
	inboxName    = recourse.StreamInbox
	journalName  = recourse.StreamJournal
	timersName   = recourse.StreamTimers
	rejectedName = recourse.StreamRejected
)

func streamDrift() []driftCase {
	return []driftCase{
		{setting: "subjects", stream: journalName, have: "recourse.*.*.*.*.*.command.*", want: "recourse.*.*.*.*.*.command.*, recourse.*.*.*.*.*.decision.*", updated: true,
			change: func(c *jetstream.StreamConfig) { c.Subjects = c.Subjects[:1] }},
		{setting: "subjects", stream: rejectedName, have: "foreign.>, recourse.*.*.*.*.*.rejected.*", want: "recourse.*.*.*.*.*.rejected.*",
			change: func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "foreign.>") }},
		{setting: "storage", stream: journalName, have: "Memory", want: "File",
			change: func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }},
		{setting: "retention", stream: journalName, have: "Interest", want: "Limits", updated: true,
			change: func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy }},
		{setting: "retention", stream: inboxName, have: "WorkQueue", want: "Limits",
			change: func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }},
		{setting: "retention", stream: timersName, have: "Limits", want: "WorkQueue",
			change: func(c *jetstream.StreamConfig) { c.Retention = jetstream.LimitsPolicy }},
		{setting: "discard", stream: inboxName, have: "DiscardOld", want: "DiscardNew", updated: true,
			change: func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld }},
		{setting: "max age", stream: journalName, have: "1h0m0s", want: "0s", updated: true,
			change: func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour }},
		{setting: "max age", stream: timersName, have: "1h0m0s", want: "0s", updated: true,
			change: func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour }},
		{setting: "max messages", stream: timersName, have: "1000", want: "-1", updated: true,
			change: func(c *jetstream.StreamConfig) { c.MaxMsgs = 1000 }},
		{setting: "max bytes", stream: timersName, have: "1000000", want: "-1", updated: true,
			change: func(c *jetstream.StreamConfig) { c.MaxBytes = 1_000_000 }},
		{setting: "max messages per subject", stream: inboxName, have: "1", want: "-1", updated: true,
			change: func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 }},
		{setting: "max messages per subject", stream: PipelinesStream, have: "5", want: "64", updated: true,
			change: func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 5 }},
		{setting: "max messages per subject", stream: PipelinesStream, have: "-1", want: "64",
			change: func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = -1 }},
		{setting: "max message size", stream: inboxName, have: "1000", want: "262144", updated: true,
			change: func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 }},
		{setting: "max message size", stream: inboxName, have: "-1", want: "262144", updated: true,
			change: func(c *jetstream.StreamConfig) { c.MaxMsgSize = -1 }},
		{setting: "duplicate window", stream: inboxName, have: "2m0s", want: "100ms", updated: true,
			change: func(c *jetstream.StreamConfig) { c.Duplicates = 0 }},
		{setting: "deny delete", stream: inboxName, have: "false", want: "true", updated: true,
			change: func(c *jetstream.StreamConfig) { c.DenyDelete = false }},
		{setting: "deny purge", stream: journalName, have: "false", want: "true", updated: true,
			change: func(c *jetstream.StreamConfig) { c.DenyPurge = false }},
		{setting: "deny delete", stream: timersName, have: "true", want: "false",
			change: func(c *jetstream.StreamConfig) { c.DenyDelete = true }},
		{setting: "allow direct", stream: journalName, have: "false", want: "true", updated: true,
			change: func(c *jetstream.StreamConfig) { c.AllowDirect = false }},
		{setting: "message TTL", stream: journalName, have: "true", want: "false",
			change: func(c *jetstream.StreamConfig) { c.AllowMsgTTL = true }},
		{setting: "atomic batches", stream: journalName, have: "false", want: "true", updated: true,
			change: func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false }},
		{setting: "atomic batches", stream: inboxName, have: "true", want: "false", updated: true,
			change: func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = true }},
		{setting: "fast batches", stream: journalName, have: "true", want: "false", updated: true,
			change: func(c *jetstream.StreamConfig) { c.AllowBatchPublish = true }},
		{setting: "asynchronous persistence", stream: rejectedName, have: "true", want: "false",
			change: func(c *jetstream.StreamConfig) { c.PersistMode = jetstream.AsyncPersistMode }},
		{setting: "atomic batches", stream: timersName, have: "true", want: "false", updated: true,
			change: func(c *jetstream.StreamConfig) {
				c.AllowAtomicPublish, c.PersistMode = true, jetstream.DefaultPersistMode
			}},
		{setting: "no acknowledgements", stream: rejectedName, have: "true", want: "false", updated: true,
			change: func(c *jetstream.StreamConfig) { c.NoAck = true }},
		{setting: "sources", stream: rejectedName, have: "true", want: "false",
			change: func(c *jetstream.StreamConfig) { c.Sources = []*jetstream.StreamSource{{Name: "ELSEWHERE"}} }},
		{setting: "subject transform", stream: rejectedName, have: "true", want: "false",
			change: func(c *jetstream.StreamConfig) {
				c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: c.Subjects[0], Destination: "elsewhere.{{wildcard(1)}}"}
			}},
		{setting: "max consumers", stream: journalName, have: "3", want: "-1",
			change: func(c *jetstream.StreamConfig) { c.MaxConsumers = 3 }},
	}
}

func consumerDrift() []driftCase {
	return []driftCase{
		{setting: "filter", stream: inboxName, have: "recourse.*.*.*.*.*.failure.*", want: "none",
			consumer: func(c *jetstream.ConsumerConfig) { c.FilterSubject = recourse.Filter(recourse.FamilyFailure) }},
		{setting: "filter", stream: timersName, have: "recourse.*.*.*.*.*.timer.*", want: "recourse.*.*.*.*.*.due.*",
			consumer: func(c *jetstream.ConsumerConfig) { c.FilterSubject = recourse.Filter(recourse.FamilyTimer) }},
		{setting: "deliver policy", stream: inboxName, have: "new", want: "all",
			consumer: func(c *jetstream.ConsumerConfig) { c.DeliverPolicy = jetstream.DeliverNewPolicy }},
		{setting: "ack policy", stream: inboxName, have: "AckAll", want: "AckExplicit",
			consumer: func(c *jetstream.ConsumerConfig) { c.AckPolicy = jetstream.AckAllPolicy }},
		{setting: "replay policy", stream: inboxName, have: "original", want: "instant",
			consumer: func(c *jetstream.ConsumerConfig) { c.ReplayPolicy = jetstream.ReplayOriginalPolicy }},
		{setting: "max waiting", stream: inboxName, have: "512", want: "4000",
			consumer: func(c *jetstream.ConsumerConfig) { c.MaxWaiting = 512 }},
		{setting: "memory storage", stream: inboxName, have: "true", want: "false",
			consumer: func(c *jetstream.ConsumerConfig) { c.MemoryStorage = true }},
		{setting: "priority policy", stream: inboxName, have: "1", want: "0",
			consumer: func(c *jetstream.ConsumerConfig) {
				c.PriorityPolicy, c.PriorityGroups, c.PinnedTTL = jetstream.PriorityPolicyPinned, []string{"one"}, time.Minute
			}},
		{setting: "ack wait", stream: inboxName, have: "5s", want: "30s", updated: true,
			consumer: func(c *jetstream.ConsumerConfig) { c.AckWait = 5 * time.Second }},
		{setting: "max deliver", stream: timersName, have: "5", want: "-1", updated: true,
			consumer: func(c *jetstream.ConsumerConfig) { c.MaxDeliver = 5 }},
		{setting: "max ack pending", stream: inboxName, have: "1000", want: "50000", updated: true,
			consumer: func(c *jetstream.ConsumerConfig) { c.MaxAckPending = 1000 }},
		{setting: "headers only", stream: inboxName, have: "true", want: "false", updated: true,
			consumer: func(c *jetstream.ConsumerConfig) { c.HeadersOnly = true }},
		{setting: "inactive threshold", stream: inboxName, have: "1h0m0s", want: "0s", updated: true,
			consumer: func(c *jetstream.ConsumerConfig) { c.InactiveThreshold = time.Hour }},
		{setting: "max batch", stream: inboxName, have: "7", want: "-1", updated: true,
			consumer: func(c *jetstream.ConsumerConfig) { c.MaxRequestBatch = 7 }},
		{setting: "max batch bytes", stream: inboxName, have: "7000", want: "-1", updated: true,
			consumer: func(c *jetstream.ConsumerConfig) { c.MaxRequestMaxBytes = 7000 }},
		{setting: "max expires", stream: inboxName, have: "7s", want: "0s", updated: true,
			consumer: func(c *jetstream.ConsumerConfig) { c.MaxRequestExpires = 7 * time.Second }},
	}
}

func TestVerifyFindsEachDifference(t *testing.T) {
	_, js := provisionedTest(t)
	for i, test := range append(streamDrift(), consumerDrift()...) {
		t.Run(fmt.Sprintf("%02d %s %s", i, test.stream, test.setting), func(t *testing.T) {
			asset := prepareDrift(t, js, test)
			want := Difference{Asset: asset, Setting: test.setting, Have: test.have, Want: test.want}

			_, err := Provision(t.Context(), js, ModeVerify, ProvisionConfig{})
			checkDrift(t, "verify", err, want)
			before := infoTest(t, js, test.stream).Config

			report, err := Provision(t.Context(), js, ModeCreate, ProvisionConfig{})
			if !test.updated {
				checkDrift(t, "create", err, want)
				if after := infoTest(t, js, test.stream).Config; !reflect.DeepEqual(before, after) {
					t.Errorf("create changed what it refused to change:\n%+v\n%+v", before, after)
				}
				return
			}
			if err != nil || len(report.Created) > 0 || !slices.Equal(report.Updated, []Difference{want}) {
				t.Errorf("create: %+v, %v", report, err)
			}
			if _, err := Provision(t.Context(), js, ModeVerify, ProvisionConfig{}); err != nil {
				t.Errorf("verify after create: %v", err)
			}
		})
	}
}

func checkDrift(t *testing.T, what string, err error, want Difference) {
	t.Helper()
	var drift *DriftError
	if !errors.As(err, &drift) || len(drift.Differences) != 1 {
		t.Fatalf("%s: want one difference, got %v", what, err)
	}
	got := drift.Differences[0]
	if got.Mend == "" || !strings.Contains(err.Error(), got.Mend) {
		t.Errorf("%s: the error does not say how to mend it: %v", what, err)
	}
	got.Mend = ""
	if got != want {
		t.Errorf("%s: got %+v, want %+v", what, got, want)
	}
}

// prepareDrift makes the stream and its consumer anew, with one change, and returns the asset that differs.
func prepareDrift(t *testing.T, js jetstream.JetStream, test driftCase) (asset string) {
	t.Helper()
	asset = streamAsset(test.stream)
	for _, want := range streams(ProvisionConfig{}) {
		if err := js.DeleteStream(t.Context(), want.Name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Fatal(err)
		}
		if want.Name == test.stream && test.change != nil {
			test.change(&want)
		}
		if _, err := js.CreateStream(t.Context(), want); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range consumers() {
		if want.stream == test.stream && test.consumer != nil {
			asset = consumerAsset(want)
			test.consumer(&want.ConsumerConfig)
		}
		if _, err := js.CreateConsumer(t.Context(), want.stream, want.ConsumerConfig); err != nil {
			t.Fatal(err)
		}
	}
	return asset
}

// TestEverySettingHasADriftCase keeps the table above complete.
func TestEverySettingHasADriftCase(t *testing.T) {
	// These need another setting changed with them (TestDriftThatComesInPairs) or a test of their own.
	pairs := []string{"replicas", "discard new per subject", "allow roll-up", "message schedules", "delete marker TTL", "message counter", "sealed", "mirror", "back-off"}
	has := map[string]bool{}
	for _, test := range append(streamDrift(), consumerDrift()...) {
		has[test.setting] = true
	}
	for _, s := range streamSettings {
		if !has[s.name] && !slices.Contains(pairs, s.name) {
			t.Errorf("stream setting %q has no case", s.name)
		}
	}
	for _, s := range consumerSettings {
		if !has[s.name] && !slices.Contains(pairs, s.name) {
			t.Errorf("consumer setting %q has no case", s.name)
		}
	}
}

func TestDriftThatComesInPairs(t *testing.T) {
	_, js := provisionedTest(t)
	for _, test := range []struct {
		driftCase
		settings []string
	}{
		{driftCase{stream: journalName, updated: true, change: func(c *jetstream.StreamConfig) { c.DiscardNewPerSubject, c.MaxMsgsPerSubject = true, 5 }},
			[]string{"discard new per subject", "max messages per subject"}},
		{driftCase{stream: journalName, updated: true, change: func(c *jetstream.StreamConfig) { c.AllowRollup, c.DenyPurge = true, false }},
			[]string{"deny purge", "allow roll-up"}},
		{driftCase{stream: journalName, change: func(c *jetstream.StreamConfig) {
			c.AllowMsgSchedules, c.Discard, c.AllowRollup, c.DenyPurge = true, jetstream.DiscardOld, true, false
		}},
			[]string{"message schedules", "discard", "deny purge", "allow roll-up"}},
		{driftCase{stream: timersName, updated: true, change: func(c *jetstream.StreamConfig) { c.AllowMsgSchedules, c.AllowRollup = false, false }},
			[]string{"allow roll-up", "message schedules"}},
		{driftCase{stream: timersName, change: func(c *jetstream.StreamConfig) { c.AllowMsgSchedules, c.AllowRollup, c.DenyPurge = false, false, true }},
			[]string{"deny purge", "allow roll-up", "message schedules"}},
		{driftCase{stream: timersName, change: func(c *jetstream.StreamConfig) { c.SubjectDeleteMarkerTTL, c.AllowMsgTTL = time.Minute, true }},
			[]string{"message TTL", "delete marker TTL"}},
		{driftCase{stream: journalName, change: func(c *jetstream.StreamConfig) { c.AllowMsgCounter, c.Discard = true, jetstream.DiscardOld }},
			[]string{"discard", "message counter"}},
		{driftCase{stream: rejectedName, change: func(c *jetstream.StreamConfig) {
			c.Subjects, c.Duplicates, c.Mirror = nil, 0, &jetstream.StreamSource{Name: "ELSEWHERE"}
		}}, []string{"mirror", "subjects", "duplicate window"}},
		{driftCase{stream: inboxName, updated: true, consumer: func(c *jetstream.ConsumerConfig) {
			c.BackOff, c.MaxDeliver, c.AckWait = []time.Duration{time.Second, time.Minute}, 5, time.Second
		}}, []string{"back-off", "max deliver", "ack wait"}},
	} {
		t.Run(test.settings[0], func(t *testing.T) {
			prepareDrift(t, js, test.driftCase)
			_, err := Provision(t.Context(), js, ModeVerify, ProvisionConfig{})
			var drift *DriftError
			if !errors.As(err, &drift) {
				t.Fatalf("verify: want a DriftError, got %v", err)
			}
			var got []string
			for _, d := range drift.Differences {
				got = append(got, d.Setting)
			}
			slices.Sort(got)
			slices.Sort(test.settings)
			if !slices.Equal(got, test.settings) {
				t.Errorf("verify lists %q, want %q", got, test.settings)
			}
			before := infoTest(t, js, test.stream).Config
			_, err = Provision(t.Context(), js, ModeCreate, ProvisionConfig{})
			if !test.updated {
				if !errors.As(err, &drift) {
					t.Fatalf("create: want a DriftError, got %v", err)
				}
				if after := infoTest(t, js, test.stream).Config; !reflect.DeepEqual(before, after) {
					t.Errorf("create changed what it refused to change:\n%+v\n%+v", before, after)
				}
				return
			}
			if err != nil {
				t.Fatalf("create: %v", err)
			}
			if _, err := Provision(t.Context(), js, ModeVerify, ProvisionConfig{}); err != nil {
				t.Errorf("verify after create: %v", err)
			}
		})
	}
}

func TestSettingsLeftToTheOperator(t *testing.T) {
	_, js := provisionedTest(t)
	change := func(c *jetstream.StreamConfig) {
		c.Description, c.MaxBytes, c.MaxMsgs, c.Compression = "ours", 1<<30, 1_000_000, jetstream.S2Compression
		c.Metadata = map[string]string{"team": "delivery"}
		c.AllowDirect = false // and one that create mends
	}
	prepareDrift(t, js, driftCase{stream: journalName, change: change})
	if _, err := Provision(t.Context(), js, ModeCreate, ProvisionConfig{}); err != nil {
		t.Fatal(err)
	}
	c := infoTest(t, js, journalName).Config
	if c.Description != "ours" || c.MaxBytes != 1<<30 || c.MaxMsgs != 1_000_000 || c.Compression != jetstream.S2Compression || c.Metadata["team"] != "delivery" || !c.AllowDirect {
		t.Errorf("create took away what is the operator's: %+v", c)
	}
}

func TestProvisionRefusesALossyConfiguration(t *testing.T) {
	_, js := provisionedTest(t)
	if _, err := Provision(t.Context(), js, ModeCreate, ProvisionConfig{MaxAge: 24 * time.Hour}); err == nil || !strings.Contains(err.Error(), "max age is 0s, want 24h0m0s") {
		t.Errorf("a shorter age on streams that keep everything: %v", err)
	}
	if _, err := Provision(t.Context(), js, ModeCreate, ProvisionConfig{Storage: jetstream.MemoryStorage}); err == nil || !strings.Contains(err.Error(), "storage is File, want Memory") {
		t.Errorf("other storage: %v", err)
	}
	for _, cfg := range []ProvisionConfig{{Replicas: -1}, {Replicas: 6}, {MaxAge: -1}, {MaxAge: time.Millisecond}} {
		if _, err := Provision(t.Context(), js, ModeVerify, cfg); err == nil {
			t.Errorf("%+v: no error", cfg)
		}
	}
	if _, err := Provision(t.Context(), js, 0, ProvisionConfig{}); err == nil {
		t.Error("no mode: no error")
	}
}

func TestProvisionWithMaxAge(t *testing.T) {
	e := startTest(t, EmbeddedConfig{})
	_, js := connectTest(t, e.URL())
	cfg := ProvisionConfig{MaxAge: time.Minute} // less than the duplicate window of the rejected
	for _, mode := range []Mode{ModeCreate, ModeVerify} {
		if _, err := Provision(t.Context(), js, mode, cfg); err != nil {
			t.Fatalf("%v: %v", mode, err)
		}
	}
	if age := infoTest(t, js, timersName).Config.MaxAge; age != 0 {
		t.Errorf("pending waits expire after %v", age)
	}
	cfg.MaxAge = time.Hour
	if _, err := Provision(t.Context(), js, ModeCreate, cfg); err != nil {
		t.Errorf("a longer age: %v", err)
	}
}

func TestProvisionReplicas(t *testing.T) {
	e := startTest(t, EmbeddedConfig{})
	_, js := connectTest(t, e.URL())
	_, err := Provision(t.Context(), js, ModeCreate, ProvisionConfig{Replicas: 3})
	if err == nil || !strings.Contains(err.Error(), "ask for one replica") {
		t.Errorf("three replicas on one server: %v", err)
	}
	have, want := jetstream.StreamConfig{Replicas: 3}, jetstream.StreamConfig{Replicas: 1}
	if safe, unsafe := compare("x", streamSettings, &have, &want); len(safe) != 0 || len(unsafe) != 1 {
		t.Errorf("fewer replicas: safe %v, unsafe %v", safe, unsafe)
	}
	if safe, unsafe := compare("x", streamSettings, &want, &have); len(safe) != 1 || len(unsafe) != 0 {
		t.Errorf("more replicas: safe %v, unsafe %v", safe, unsafe)
	}
	left := want
	keep(ProvisionConfig{}, &have, &left)
	if left.Replicas != 3 {
		t.Errorf("no replicas asked for: %d, want those there are", left.Replicas)
	}
}

// TestPersistence: the timers alone are written when the server gets to it, and only where a server allows that.
func TestPersistence(t *testing.T) {
	async := func(cfg ProvisionConfig) (names []string) {
		for _, s := range streams(cfg) {
			if s.PersistMode == jetstream.AsyncPersistMode {
				names = append(names, s.Name)
			}
		}
		return names
	}
	for _, cfg := range []ProvisionConfig{{}, {Replicas: 1}} {
		if names := async(cfg); !slices.Equal(names, []string{timersName}) {
			t.Errorf("%+v: %v, want the timers", cfg, names)
		}
	}
	for _, cfg := range []ProvisionConfig{{Replicas: 3}, {Storage: jetstream.MemoryStorage}} {
		if names := async(cfg); len(names) != 0 {
			t.Errorf("%+v: %v, want none", cfg, names)
		}
	}
	// What is there with the usual persistence stays, alone or with replicas.
	_, js := provisionedTest(t)
	if err := js.DeleteStream(t.Context(), timersName); err != nil {
		t.Fatal(err)
	}
	usual := streams(ProvisionConfig{})[2]
	usual.PersistMode = jetstream.DefaultPersistMode
	if _, err := js.CreateStream(t.Context(), usual); err != nil {
		t.Fatal(err)
	}
	if _, err := Provision(t.Context(), js, ModeCreate, ProvisionConfig{}); err != nil {
		t.Error(err)
	}
	if _, err := Provision(t.Context(), js, ModeVerify, ProvisionConfig{}); err != nil {
		t.Error(err)
	}
	three := usual
	three.Replicas = 3
	want := streams(ProvisionConfig{})[2]
	if keep(ProvisionConfig{}, &three, &want); want.Replicas != 3 || want.PersistMode != jetstream.DefaultPersistMode {
		t.Errorf("with replicas that are there: %d, %v", want.Replicas, want.PersistMode)
	}
	// A server cannot replicate what it writes when it gets to it.
	have, want := streams(ProvisionConfig{})[2], streams(ProvisionConfig{Replicas: 3})[2]
	keep(ProvisionConfig{Replicas: 3}, &have, &want)
	if _, unsafe := compare("x", streamSettings, &have, &want); len(unsafe) != 1 || unsafe[0].Setting != "asynchronous persistence" || !strings.Contains(unsafe[0].Mend, "arm what waits") {
		t.Errorf("more replicas: %v", unsafe)
	}
}

func TestProvisionSealedStream(t *testing.T) {
	_, js := provisionedTest(t)
	c := infoTest(t, js, rejectedName).Config
	c.Sealed = true
	if _, err := js.UpdateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	_, err := Provision(t.Context(), js, ModeCreate, ProvisionConfig{})
	if err == nil || !strings.Contains(err.Error(), "sealed is true, want false") {
		t.Errorf("sealed stream: %v", err)
	}
}

func TestProvisionPushConsumerInPlaceOfPull(t *testing.T) {
	nc, js := provisionedTest(t)
	if err := js.DeleteConsumer(t.Context(), inboxName, ConsumerInbox); err != nil {
		t.Fatal(err)
	}
	old, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.AddConsumer(inboxName, &nats.ConsumerConfig{Durable: ConsumerInbox, DeliverSubject: "pushed", AckPolicy: nats.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	_, err = Provision(t.Context(), js, ModeCreate, ProvisionConfig{})
	checkDrift(t, "create", err, Difference{Asset: "consumer RECOURSE_INBOX/recourse-worker", Setting: "kind", Have: "push", Want: "pull"})
}

func TestProvisionSubjectsTakenByAnotherStream(t *testing.T) {
	e := startTest(t, EmbeddedConfig{})
	_, js := connectTest(t, e.URL())
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "EVERYTHING", Subjects: []string{"recourse.>"}}); err != nil {
		t.Fatal(err)
	}
	_, err := Provision(t.Context(), js, ModeCreate, ProvisionConfig{})
	if err == nil || !strings.Contains(err.Error(), "nats stream ls --subjects") {
		t.Errorf("got %v", err)
	}
}

func TestProvisionWithoutJetStream(t *testing.T) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer s.WaitForShutdown()
	defer s.Shutdown()
	if !s.ReadyForConnections(testDeadline) {
		t.Fatal("server not ready")
	}
	nc, js := connectTest(t, s.ClientURL())
	defer nc.Close()
	_, err = Provision(t.Context(), js, ModeCreate, ProvisionConfig{})
	if err == nil || !strings.Contains(err.Error(), "JetStream") || !strings.Contains(err.Error(), "look at stream RECOURSE_INBOX") {
		t.Errorf("got %v", err)
	}
}

func TestModeText(t *testing.T) {
	for _, mode := range []Mode{ModeCreate, ModeVerify, ModeOff} {
		text, err := mode.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got Mode
		if err := got.UnmarshalText(text); err != nil || got != mode {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
	var mode Mode
	for _, text := range []string{"", "delete"} {
		if err := mode.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}
