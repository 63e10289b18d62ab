package broker

import (
	"github.com/nats-io/nats.go/jetstream"

	"github.com/recourse-dev/recourse"
)

// StreamNames are the streams that Recourse needs, that of the bucket of pipelines among them.
func StreamNames() []string {
	return []string{recourse.StreamInbox, recourse.StreamJournal, recourse.StreamTimers, recourse.StreamRejected, PipelinesStream}
}

// Durable names a durable consumer that Recourse needs.
type Durable struct{ Stream, Name string }

// Durables are the durable consumers.
func Durables() []Durable {
	var durables []Durable
	for _, c := range consumers() {
		durables = append(durables, Durable{c.stream, c.Durable})
	}
	return durables
}

// String returns the consumer as a [Difference] names it.
func (d Durable) String() string {
	return consumerAsset(consumer{stream: d.Stream, ConsumerConfig: jetstream.ConsumerConfig{Durable: d.Name}})
}

// StreamAsset returns a stream as a [Difference] names it.
func StreamAsset(name string) string { return streamAsset(name) }

// Missing is the difference of a stream or consumer that is not there; see [StreamAsset] and [Durable.String].
func Missing(asset string) Difference {
	return Difference{Asset: asset, Have: "missing", Want: "present", Mend: mendMissing}
}

// CheckStream returns how a stream differs from what Recourse needs. Replicas, and where a deployment chooses it the age, are taken as
// they are; nothing is said about a stream that is none of [StreamNames].
func CheckStream(have jetstream.StreamConfig) []Difference {
	for _, want := range streams(ProvisionConfig{Replicas: have.Replicas, MaxAge: have.MaxAge}) {
		if want.Name == have.Name {
			safe, unsafe := compare(streamAsset(want.Name), streamSettings, &have, &want)
			return append(unsafe, safe...)
		}
	}
	return nil
}

// CheckConsumer returns how a durable consumer differs from what Recourse needs; nothing where it is none of [Durables].
func CheckConsumer(stream string, have jetstream.ConsumerConfig) []Difference {
	for _, want := range consumers() {
		if want.stream == stream && want.Durable == have.Durable {
			safe, unsafe := compare(consumerAsset(want), consumerSettings, &have, &want.ConsumerConfig)
			return append(unsafe, safe...)
		}
	}
	return nil
}

// NotPull is the difference of a durable consumer that the server pushes.
func (d Durable) NotPull() Difference {
	return Difference{Asset: d.String(), Setting: "kind", Have: "push", Want: "pull", Mend: mendConsumer}
}
