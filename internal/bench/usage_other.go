//go:build !linux

package bench

import "time"

// peakMemory is not known here.
func peakMemory(int) int64 { return 0 }

// seesProcessorTime says whether processorTime knows.
const seesProcessorTime = false

func processorTime(int) time.Duration { return 0 }
