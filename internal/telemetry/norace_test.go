//go:build !race

package telemetry

// raceEnabled says that the race detector is on, which makes sync.Pool drop what it holds at random: allocations cannot be counted then.
const raceEnabled = false
