package broker

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

// The durable consumers. All workers share them.
const (
	ConsumerInbox = "recourse-worker" // on the inbox: failures, answers, lifecycle events
	ConsumerDue   = "recourse-due"    // on the timers: waits that came due
)

// PipelinesStream is the stream behind the bucket of pipelines.
const PipelinesStream = "KV_" + recourse.BucketPipelines

const (
	// AckWait is how long a worker may be silent about a message before another one gets it.
	AckWait = 30 * time.Second
	// MaxAckPending bounds what all workers of a consumer together hold unacknowledged. What waits for a delayed redelivery counts too.
	// A worker holds some 5,000 messages of a backlog, so ten of them have all of one, and others none until those are done.
	MaxAckPending = 50_000
	// maxWaiting bounds the pull requests that wait at the server: two for each of 2,000 workers. It cannot be changed later.
	maxWaiting = 4_000
	// pipelineHistory is the revisions of a pipeline that are kept; the most a bucket allows.
	pipelineHistory = jetstream.KeyValueMaxHistory
	// inputSize is the most bytes of an input with its headers.
	inputSize = recourse.MaxSize
	// recordSize is the most bytes of a record with its headers: what a server takes unless its max_payload is changed. A record
	// has a state of up to 8 KiB (every 64th more: ≈ 150 bytes per failed node, so thousands fit), a message of up to 4 KiB and a
	// trail of ≈ 200 bytes for each candidate strategy.
	recordSize = 1 << 20
	// shortWindow is the shortest window for duplicates a server accepts. Nothing here relies on Nats-Msg-Id; within a longer one
	// a publisher could squat the id of another and have its message dropped.
	shortWindow = 100 * time.Millisecond
	// rejectedWindow: only workers publish there, and a worker that repeats itself after a lost reply leaves one copy.
	rejectedWindow = 2 * time.Minute
)

// ProvisionConfig is what a deployment chooses about the streams.
type ProvisionConfig struct {
	// Replicas of each stream, 1 to 5. 0 takes what there is, and 1 where a stream is created. 3 survives the loss of a server.
	Replicas int
	// MaxAge is how long the inbox, the journal and the rejected inputs are kept; 0 is forever. It must be longer than an execution
	// lasts with all its waits: an execution whose last record is gone is decided anew.
	MaxAge time.Duration
	// Storage is the kind of storage; the zero value is files, which is the only one that survives a restart.
	Storage jetstream.StorageType
}

// streams returns the streams as they should be.
func streams(cfg ProvisionConfig) []jetstream.StreamConfig {
	kept := jetstream.StreamConfig{
		Retention:         jetstream.LimitsPolicy,
		Discard:           jetstream.DiscardNew,
		MaxAge:            cfg.MaxAge,
		MaxMsgs:           -1,
		MaxBytes:          -1,
		MaxMsgsPerSubject: -1,
		MaxConsumers:      -1,
		Storage:           cfg.Storage,
		Replicas:          max(cfg.Replicas, 1),
		Duplicates:        shortWindow,
		DenyDelete:        true,
		DenyPurge:         true,
		AllowDirect:       true,
	}

	inbox := kept
	inbox.Name = recourse.StreamInbox
	inbox.Description = "Recourse: what delegates, operators and orchestrators report"
	inbox.Subjects = []string{recourse.Filter(recourse.FamilyFailure), recourse.Filter(recourse.FamilyIntervention), recourse.Filter(recourse.FamilyControl), recourse.Filter(recourse.FamilyLifecycle)}
	inbox.MaxMsgSize = inputSize

	journal := kept
	journal.Name = recourse.StreamJournal
	journal.Description = "Recourse: decisions and commands, one chain per execution"
	journal.Subjects = []string{recourse.Filter(recourse.FamilyCommand), recourse.Filter(recourse.FamilyDecision)}
	journal.MaxMsgSize = recordSize
	journal.AllowAtomicPublish = true // where an append costs a flush of the disk, workers append many executions' records at once

	rejected := kept
	rejected.Name = recourse.StreamRejected
	rejected.Description = "Recourse: inputs nobody can decide, as they came, with the reason"
	rejected.Subjects = []string{recourse.Filter(recourse.FamilyRejected)}
	rejected.MaxMsgSize = recordSize // the largest input, with its headers and ours
	rejected.Duplicates = duplicates(rejectedWindow, cfg.MaxAge)

	// A fired wait is removed by its acknowledgement; a pending one stays, as no consumer asks for it. A schedule needs roll-ups
	// (a newer one for the same subject replaces the older), these need purges, and schedules refuse to discard new messages.
	// Without a limit nothing is discarded. Workers alone may publish here.
	timers := jetstream.StreamConfig{
		Name:              recourse.StreamTimers,
		Description:       "Recourse: waits, as message schedules, and those that came due",
		Subjects:          []string{recourse.Filter(recourse.FamilyTimer), recourse.Filter(recourse.FamilyDue)},
		Retention:         jetstream.WorkQueuePolicy,
		Discard:           jetstream.DiscardOld,
		MaxMsgs:           -1,
		MaxBytes:          -1,
		MaxMsgsPerSubject: -1,
		MaxConsumers:      -1,
		MaxMsgSize:        -1,
		Storage:           cfg.Storage,
		Replicas:          max(cfg.Replicas, 1),
		Duplicates:        shortWindow,
		AllowRollup:       true,
		AllowDirect:       true,
		AllowMsgSchedules: true,
	}
	if timers.Storage == jetstream.FileStorage && timers.Replicas == 1 {
		// Each wait would be brought to the disk three times over: its schedule, its firing, its end. The journal can stand in for
		// what a crash of the server takes from here (docs/adr/0008-timers-without-flushes.md).
		timers.PersistMode = jetstream.AsyncPersistMode
	}

	// As nats.go makes a bucket.
	pipelines := jetstream.StreamConfig{
		Name:              PipelinesStream,
		Description:       "Recourse: pipelines",
		Subjects:          []string{"$KV." + recourse.BucketPipelines + ".>"},
		Retention:         jetstream.LimitsPolicy,
		Discard:           jetstream.DiscardNew,
		MaxMsgs:           -1,
		MaxBytes:          -1,
		MaxMsgsPerSubject: pipelineHistory,
		MaxConsumers:      -1,
		MaxMsgSize:        -1,
		Storage:           cfg.Storage,
		Replicas:          max(cfg.Replicas, 1),
		Duplicates:        2 * time.Minute,
		DenyDelete:        true,
		AllowRollup:       true,
		AllowDirect:       true,
	}
	return []jetstream.StreamConfig{inbox, journal, timers, rejected, pipelines}
}

// duplicates cuts the window to the age, since a server refuses a longer one.
func duplicates(window, maxAge time.Duration) time.Duration {
	if maxAge > 0 {
		return min(window, maxAge)
	}
	return window
}

// consumer is a durable consumer on a stream.
type consumer struct {
	stream string
	jetstream.ConsumerConfig
}

// consumers returns the durable consumers as they should be.
func consumers() []consumer {
	base := jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       AckWait,
		MaxDeliver:    -1,
		ReplayPolicy:  jetstream.ReplayInstantPolicy,
		MaxAckPending: MaxAckPending,
		MaxWaiting:    maxWaiting,
	}
	inbox := base
	inbox.Durable = ConsumerInbox
	inbox.Description = "Recourse: the workers' share of the inbox"
	// No filter: everything in the inbox is for the workers, and a server reads on faster without one.
	due := base
	due.Durable = ConsumerDue
	due.Description = "Recourse: the workers' share of the waits that came due"
	due.FilterSubject = recourse.Filter(recourse.FamilyDue)
	return []consumer{{recourse.StreamInbox, inbox}, {recourse.StreamTimers, due}}
}
