package broker

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

// A setting of a stream or a consumer that matters to Recourse. What is not listed is the operator's to choose: description,
// metadata, placement, compression, republishing, consumer limits, and on the streams that refuse new messages when full also
// their size.
type setting[C any] struct {
	name string
	get  func(*C) any
	// set makes have like want; nil where a server cannot change it, or a person has to.
	set func(have, want *C)
	// safe says whether the change from have to want can lose neither messages nor history nor protection, and a server allows it;
	// nil where it always is so.
	safe func(have, want *C) bool
	// mend says what to do where it is not safe.
	mend string
}

const (
	mendUpdate   = "run with provisioning mode create, which sets it"
	mendRecreate = "the server cannot change this on a stream that exists: drain it, back it up (nats stream backup), delete it and let it be created anew"
	// The journal says what waits.
	mendPersistence = mendRecreate + "; " + recourse.StreamTimers + " needs no backup: with all workers stopped, delete it, and workers that start arm what waits as it becomes overdue"
)

// streamSettings are checked in this order.
var streamSettings = []setting[jetstream.StreamConfig]{
	{
		"subjects", func(c *jetstream.StreamConfig) any { return sorted(c.Subjects) },
		func(have, want *jetstream.StreamConfig) { have.Subjects = want.Subjects },
		func(have, want *jetstream.StreamConfig) bool { return containsAll(want.Subjects, have.Subjects) },
		"take the foreign subjects out of this stream (nats stream edit), after moving what publishes there",
	},
	{
		"storage", func(c *jetstream.StreamConfig) any { return c.Storage.String() },
		nil, nil, mendRecreate,
	},
	{
		"retention", func(c *jetstream.StreamConfig) any { return c.Retention.String() },
		func(have, want *jetstream.StreamConfig) { have.Retention = want.Retention },
		// Limits keep what interest would remove; a work queue cannot become anything else, nor the other way round.
		func(have, want *jetstream.StreamConfig) bool {
			return have.Retention == jetstream.InterestPolicy && want.Retention == jetstream.LimitsPolicy
		},
		mendRecreate,
	},
	{
		"replicas", func(c *jetstream.StreamConfig) any { return c.Replicas },
		func(have, want *jetstream.StreamConfig) { have.Replicas = want.Replicas },
		func(have, want *jetstream.StreamConfig) bool { return have.Replicas < want.Replicas },
		"fewer copies are less safe: ask for as many as there are, or change it by hand (nats stream edit --replicas)",
	},
	{
		"discard", func(c *jetstream.StreamConfig) any { return c.Discard.String() },
		func(have, want *jetstream.StreamConfig) { have.Discard = want.Discard },
		// Old messages are evicted only at a limit, and limits that evict are settings of their own.
		nil, "",
	},
	{
		"discard new per subject", func(c *jetstream.StreamConfig) any { return c.DiscardNewPerSubject },
		func(have, want *jetstream.StreamConfig) { have.DiscardNewPerSubject = want.DiscardNewPerSubject },
		nil, "",
	},
	{
		"max age", func(c *jetstream.StreamConfig) any { return c.MaxAge },
		func(have, want *jetstream.StreamConfig) { have.MaxAge = want.MaxAge },
		func(have, want *jetstream.StreamConfig) bool {
			return want.MaxAge == 0 || have.MaxAge != 0 && have.MaxAge < want.MaxAge
		},
		"a shorter age removes messages at once: ask for the age there is, or change it by hand (nats stream edit --max-age)",
	},
	{
		"max messages per subject", func(c *jetstream.StreamConfig) any { return limit(c.MaxMsgsPerSubject) },
		func(have, want *jetstream.StreamConfig) { have.MaxMsgsPerSubject = want.MaxMsgsPerSubject },
		func(have, want *jetstream.StreamConfig) bool {
			return want.MaxMsgsPerSubject <= 0 || have.MaxMsgsPerSubject > 0 && have.MaxMsgsPerSubject < want.MaxMsgsPerSubject
		},
		"a lower limit removes messages at once: lower it by hand (nats stream edit --max-msgs-per-subject)",
	},
	{
		"max messages", func(c *jetstream.StreamConfig) any { return evicting(c, c.MaxMsgs) },
		func(have, want *jetstream.StreamConfig) { have.MaxMsgs = want.MaxMsgs },
		nil, "",
	},
	{
		"max bytes", func(c *jetstream.StreamConfig) any { return evicting(c, c.MaxBytes) },
		func(have, want *jetstream.StreamConfig) { have.MaxBytes = want.MaxBytes },
		nil, "",
	},
	{
		"max message size", func(c *jetstream.StreamConfig) any { return limit(int64(c.MaxMsgSize)) },
		func(have, want *jetstream.StreamConfig) { have.MaxMsgSize = want.MaxMsgSize },
		nil, "", // messages that are there stay
	},
	{
		"duplicate window", func(c *jetstream.StreamConfig) any { return c.Duplicates },
		func(have, want *jetstream.StreamConfig) { have.Duplicates = want.Duplicates },
		nil, "",
	},
	{
		"deny delete", func(c *jetstream.StreamConfig) any { return c.DenyDelete },
		func(have, want *jetstream.StreamConfig) { have.DenyDelete = want.DenyDelete },
		func(have, want *jetstream.StreamConfig) bool { return want.DenyDelete },
		mendRecreate,
	},
	{
		"deny purge", func(c *jetstream.StreamConfig) any { return c.DenyPurge },
		func(have, want *jetstream.StreamConfig) { have.DenyPurge = want.DenyPurge },
		func(have, want *jetstream.StreamConfig) bool { return want.DenyPurge },
		mendRecreate,
	},
	{
		"allow roll-up", func(c *jetstream.StreamConfig) any { return c.AllowRollup },
		func(have, want *jetstream.StreamConfig) { have.AllowRollup = want.AllowRollup },
		func(have, want *jetstream.StreamConfig) bool { return !want.AllowRollup || !have.DenyPurge },
		mendRecreate,
	},
	{
		"allow direct", func(c *jetstream.StreamConfig) any { return c.AllowDirect },
		func(have, want *jetstream.StreamConfig) { have.AllowDirect = want.AllowDirect },
		nil, "",
	},
	{
		"message schedules", func(c *jetstream.StreamConfig) any { return c.AllowMsgSchedules },
		func(have, want *jetstream.StreamConfig) { have.AllowMsgSchedules = want.AllowMsgSchedules },
		func(have, want *jetstream.StreamConfig) bool { return want.AllowMsgSchedules && !have.DenyPurge },
		mendRecreate,
	},
	{
		"message TTL", func(c *jetstream.StreamConfig) any { return c.AllowMsgTTL },
		nil, nil, mendRecreate,
	},
	{
		"delete marker TTL", func(c *jetstream.StreamConfig) any { return c.SubjectDeleteMarkerTTL },
		nil, nil, mendRecreate,
	},
	{
		"message counter", func(c *jetstream.StreamConfig) any { return c.AllowMsgCounter },
		nil, nil, mendRecreate,
	},
	{
		"atomic batches", func(c *jetstream.StreamConfig) any { return c.AllowAtomicPublish },
		func(have, want *jetstream.StreamConfig) { have.AllowAtomicPublish = want.AllowAtomicPublish },
		nil, "",
	},
	{
		"fast batches", func(c *jetstream.StreamConfig) any { return c.AllowBatchPublish },
		func(have, want *jetstream.StreamConfig) { have.AllowBatchPublish = want.AllowBatchPublish },
		nil, "",
	},
	{
		// It acknowledges what is not written, which only the timers can afford.
		"asynchronous persistence", func(c *jetstream.StreamConfig) any { return c.PersistMode == jetstream.AsyncPersistMode },
		nil, nil, mendPersistence,
	},
	{
		"no acknowledgements", func(c *jetstream.StreamConfig) any { return c.NoAck },
		func(have, want *jetstream.StreamConfig) { have.NoAck = want.NoAck },
		nil, "",
	},
	{
		"sealed", func(c *jetstream.StreamConfig) any { return c.Sealed },
		nil, nil, mendRecreate,
	},
	{
		"mirror", func(c *jetstream.StreamConfig) any { return c.Mirror != nil },
		nil, nil, "a mirror takes no messages of its own: promote it (nats stream edit --no-mirror)",
	},
	{
		"sources", func(c *jetstream.StreamConfig) any { return len(c.Sources) > 0 },
		nil, nil, "messages from elsewhere escape the checks of this stream: take the sources out (nats stream edit)",
	},
	{
		"subject transform", func(c *jetstream.StreamConfig) any { return c.SubjectTransform != nil },
		nil, nil, "messages would not be stored under their subject: take the transform out (nats stream edit)",
	},
	{
		"max consumers", func(c *jetstream.StreamConfig) any { return limit(int64(c.MaxConsumers)) },
		nil, nil, mendRecreate,
	},
}

// consumerSettings are checked in this order. A consumer that is deleted and made again starts from the first message that is
// there; what was decided is recognised by its key, so nothing is decided twice, it only takes its time.
var consumerSettings = []setting[jetstream.ConsumerConfig]{
	{
		// One that looked at fewer messages has passed over the others and does not come back to them.
		"filter", func(c *jetstream.ConsumerConfig) any { return filters(c) },
		nil, nil, mendConsumer,
	},
	{"deliver policy", func(c *jetstream.ConsumerConfig) any { return c.DeliverPolicy.String() }, nil, nil, mendConsumer},
	{"ack policy", func(c *jetstream.ConsumerConfig) any { return c.AckPolicy.String() }, nil, nil, mendConsumer},
	{"replay policy", func(c *jetstream.ConsumerConfig) any { return c.ReplayPolicy.String() }, nil, nil, mendConsumer},
	{"max waiting", func(c *jetstream.ConsumerConfig) any { return c.MaxWaiting }, nil, nil, mendConsumer},
	{"memory storage", func(c *jetstream.ConsumerConfig) any { return c.MemoryStorage }, nil, nil, mendConsumer},
	{"priority policy", func(c *jetstream.ConsumerConfig) any { return int(c.PriorityPolicy) }, nil, nil, mendConsumer},
	{
		"ack wait", func(c *jetstream.ConsumerConfig) any { return c.AckWait },
		func(have, want *jetstream.ConsumerConfig) { have.AckWait = want.AckWait },
		nil, "",
	},
	{
		"max deliver", func(c *jetstream.ConsumerConfig) any { return limit(int64(c.MaxDeliver)) },
		func(have, want *jetstream.ConsumerConfig) { have.MaxDeliver = want.MaxDeliver },
		nil, "",
	},
	{
		"back-off", func(c *jetstream.ConsumerConfig) any { return len(c.BackOff) > 0 },
		func(have, want *jetstream.ConsumerConfig) { have.BackOff = want.BackOff },
		nil, "",
	},
	{
		"max ack pending", func(c *jetstream.ConsumerConfig) any { return limit(int64(c.MaxAckPending)) },
		func(have, want *jetstream.ConsumerConfig) { have.MaxAckPending = want.MaxAckPending },
		nil, "",
	},
	{
		"headers only", func(c *jetstream.ConsumerConfig) any { return c.HeadersOnly },
		func(have, want *jetstream.ConsumerConfig) { have.HeadersOnly = want.HeadersOnly },
		nil, "",
	},
	{
		"inactive threshold", func(c *jetstream.ConsumerConfig) any { return c.InactiveThreshold },
		func(have, want *jetstream.ConsumerConfig) { have.InactiveThreshold = want.InactiveThreshold },
		nil, "",
	},
	{
		"max batch", func(c *jetstream.ConsumerConfig) any { return limit(int64(c.MaxRequestBatch)) },
		func(have, want *jetstream.ConsumerConfig) { have.MaxRequestBatch = want.MaxRequestBatch },
		nil, "",
	},
	{
		"max batch bytes", func(c *jetstream.ConsumerConfig) any { return limit(int64(c.MaxRequestMaxBytes)) },
		func(have, want *jetstream.ConsumerConfig) { have.MaxRequestMaxBytes = want.MaxRequestMaxBytes },
		nil, "",
	},
	{
		"max expires", func(c *jetstream.ConsumerConfig) any { return c.MaxRequestExpires },
		func(have, want *jetstream.ConsumerConfig) { have.MaxRequestExpires = want.MaxRequestExpires },
		nil, "",
	},
}

const mendConsumer = "stop the workers, delete the consumer (nats consumer rm) and let it be created anew; it starts from the first message, and what was decided stays decided"

// can says whether the setting can be changed safely.
func (s *setting[C]) can(have, want *C) bool {
	return s.set != nil && (s.safe == nil || s.safe(have, want))
}

// compare returns how have differs from want, safe differences and others apart.
func compare[C any](asset string, settings []setting[C], have, want *C) (safe, unsafe []Difference) {
	for _, s := range settings {
		h, w := fmt.Sprint(s.get(have)), fmt.Sprint(s.get(want))
		if h == w {
			continue
		}
		if d := (Difference{Asset: asset, Setting: s.name, Have: h, Want: w}); s.can(have, want) {
			d.Mend = mendUpdate
			safe = append(safe, d)
		} else {
			d.Mend = s.mend
			unsafe = append(unsafe, d)
		}
	}
	return safe, unsafe
}

// merge sets in have what can be changed safely.
func merge[C any](settings []setting[C], have, want *C) {
	old := *have // what is safe is judged by what there was
	for _, s := range settings {
		if fmt.Sprint(s.get(&old)) != fmt.Sprint(s.get(want)) && s.can(&old, want) {
			s.set(have, want)
		}
	}
}

// limit makes one of the two ways a server says "no limit".
func limit(n int64) int64 {
	if n <= 0 {
		return -1
	}
	return n
}

// evicting is a limit that removes old messages; one that refuses new ones is the operator's to choose.
func evicting(c *jetstream.StreamConfig, n int64) int64 {
	if c.Discard == jetstream.DiscardNew {
		return -1
	}
	return limit(n)
}

func filters(c *jetstream.ConsumerConfig) string {
	all := slices.Clone(c.FilterSubjects)
	if c.FilterSubject != "" {
		all = append(all, c.FilterSubject)
	}
	if len(all) == 0 {
		return "none"
	}
	return sorted(all)
}

func sorted(subjects []string) string {
	subjects = slices.Clone(subjects)
	slices.Sort(subjects)
	return strings.Join(subjects, ", ")
}

func containsAll(set, subset []string) bool {
	return !slices.ContainsFunc(subset, func(s string) bool { return !slices.Contains(set, s) })
}

// keep takes over what the deployment leaves to what there is.
func keep(cfg ProvisionConfig, have, want *jetstream.StreamConfig) {
	if cfg.Replicas == 0 {
		want.Replicas = have.Replicas
	}
	if have.PersistMode == jetstream.DefaultPersistMode { // which is safe everywhere, and slower
		want.PersistMode = jetstream.DefaultPersistMode
	}
}
