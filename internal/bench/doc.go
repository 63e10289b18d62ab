// Package bench measures a worker against the limit of its broker: a bare loop that pulls a failure, appends one message of the size of a
// record with the same concurrency headers, and acknowledges; it decodes nothing and decides nothing.
//
// Order: both run against one server, over failures made alike, in turns, so that what disturbs the machine disturbs both. Server, worker
// and bare loop are processes of their own, so that processor time and memory are each one's own. Rates are taken from the broker's
// timestamps of the first and the last message, so that starting a process does not count.
//
// It does not compare machines: every number is only as good as the run it stands in.
package bench
