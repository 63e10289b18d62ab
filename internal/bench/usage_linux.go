package bench

import (
	"fmt"
	"os"
	"strings"
)

// peakMemory returns the most memory that a running process has held, in bytes. What the kernel reports of a process that has ended counts
// the memory of the one that started it too.
func peakMemory(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		return 0
	}
	return kib << 10
}
