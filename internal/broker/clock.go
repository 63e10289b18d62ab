package broker

import "time"

// MaxClockSkew is how far the clocks of a worker and its server may be apart. A worker whose clock is ahead decides retries early, as the
// server sees it; one whose clock is behind keeps waits that came due.
const MaxClockSkew = 2 * time.Second

// ClockSkew is how far the server's clock is ahead, and how much of that may be the way of question and answer.
func ClockSkew(asked, answered, server time.Time) (skew, unsure time.Duration) {
	way := answered.Sub(asked)
	return server.Sub(asked.Add(way / 2)), way / 2
}
