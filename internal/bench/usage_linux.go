package bench

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// peakMemory returns the most memory that a running process has held, in bytes. What the kernel reports of a process that has ended counts
// the memory of the one that started it too.
func peakMemory(pid int) int64 {
	return kibibytes(valueOf(read(fmt.Sprintf("/proc/%d/status", pid)), "VmHWM"))
}

// tick is the unit of the processor times in /proc, USER_HZ.
const tick = 10 * time.Millisecond

// seesProcessorTime says whether processorTime knows.
const seesProcessorTime = true

// processorTime returns the time, of user and system, that a running process has taken.
func processorTime(pid int) time.Duration {
	text := read(fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:]) // from the third on: a name may have spaces
	const user, system = 14 - 3, 15 - 3
	if len(fields) <= system {
		return 0
	}
	var ticks int64
	for _, field := range []int{user, system} {
		n, err := strconv.ParseInt(fields[field], 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * tick
}
