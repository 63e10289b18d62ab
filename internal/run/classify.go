package run

import (
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
)

// The exit codes by which a shell says that there is no such command, or that it cannot be executed.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// said are messages of well-known programs and libraries, in the output of a process that failed. The last line that has one counts, and of
// a line the first shape.
var said = []struct {
	shape *regexp.Regexp
	is    recourse.ErrorType
}{
	{regexp.MustCompile(`curl: \(28\)|(?i)\btimed[ -]?out\b|\b(?:connection|connect|read|operation|request|handshake|i/o|client\.)[ _]?time-?out\b|\bE(?:SOCKET)?TIMEDOUT\b|deadline ?exceeded|gateway time-?out`), recourse.Timeout},
	{regexp.MustCompile(`curl: \((?:51|58|60|67|77|83)\)|\bE401\b|(?i)\b401 (?:client error: )?unauthorized|\(unauthorized\)|unauthorized: |authentication (?:failed|required)|permission denied \(publickey|invalid (?:username|user name|credentials)|bad credentials|no (?:basic auth|valid) credential|unable to locate credentials|could not read (?:username|password)|\b(?:ExpiredToken|InvalidClientTokenId|UnrecognizedClient|SignatureDoesNotMatch)|x509: certificate|certificate verify failed|host key verification failed`), recourse.Authentication},
	{regexp.MustCompile(`\bE403\b|(?i)\b403 (?:client error: )?forbidden|\(forbidden\)|\bis forbidden: |\bAccess ?Denied(?:Exception)?\b|\bUnauthorizedOperation\b|\bPERMISSION_DENIED\b|not authorized to|access to the resource is denied|permission denied for `), recourse.Authorization},
	{regexp.MustCompile(`curl: \((?:5|6|7|35|52|55|56)\)|\bE(?:CONNREFUSED|CONNRESET|CONNABORTED|NOTFOUND|AI_AGAIN|HOSTUNREACH|NETUNREACH)\b|(?i)connection (?:was )?(?:refused|reset)|connection to the server \S+ was refused|(?:failed|unable|not|couldn't|can't|cannot) (?:to )?connect to|no route to host|(?:network|host) is unreachable|could not resolve|unable to resolve host|name or service not known|temporary failure (?:in name resolution|resolving)|no such host|server misbehaving|50[23] (?:server error: )?(?:bad gateway|service (?:temporarily )?unavailable)`), recourse.Connectivity},
	{regexp.MustCompile(`(?i)no space left on device|cannot allocate memory|out of memory|\boom-?killed\b|quota exceeded`), recourse.ResourceLimitsFailure},
}

// httpStatus is the HTTP status that a message names.
var httpStatus = regexp.MustCompile(`(?i)(?:\bhttp(?:/[0-9.]+)?|\bstatus(?:[ _-]?code)?|\bhttp error|\breturned error|\bserver error)(?:\s*[:=]\s*|\s+)"?([1-5][0-9][0-9])\b`)

// meant are exit codes of programs that say nothing when they are told to be quiet. They count where the script names the program.
var meant = []struct {
	program *regexp.Regexp
	codes   map[int]recourse.ErrorType
}{
	{regexp.MustCompile(`\bcurl\b`), map[int]recourse.ErrorType{5: recourse.Connectivity, 6: recourse.Connectivity, 7: recourse.Connectivity, 28: recourse.Timeout, 35: recourse.Connectivity, 52: recourse.Connectivity, 56: recourse.Connectivity, 60: recourse.Authentication, 67: recourse.Authentication}},
	{regexp.MustCompile(`\bwget\b`), map[int]recourse.ErrorType{4: recourse.Connectivity, 5: recourse.Authentication, 6: recourse.Authentication}},
	{regexp.MustCompile(`\b(?:ssh|scp|sftp)\b`), map[int]recourse.ErrorType{255: recourse.Connectivity}},
	{regexp.MustCompile(`\btimeout\b`), map[int]recourse.ErrorType{124: recourse.Timeout}},
}

// linesThatCount is how many of the last lines are looked at: what a script said earlier, it has lived with.
const linesThatCount = 5

// classifyExit returns the error types of a process that ended with an exit code other than 0:
//
//	126, 127 (not executable, no such command)   ConfigurationFailure: it will not be there the next time either
//	a message of the last lines                  Connectivity, Timeout, Authentication, Authorization or ResourceLimitsFailure
//	an exit code of curl, wget, ssh, timeout     the same, where the script names the program
//	anything else                                Unknown
//
// output is the end of standard error, or of standard output where there is nothing on that.
func classifyExit(code int, script, output string) recourse.ErrorTypes {
	if code == exitNotFound || code == exitNotExecutable {
		return recourse.ErrorTypesOf(recourse.ConfigurationFailure)
	}
	lines := lastLines(output, linesThatCount)
	for i := len(lines) - 1; i >= 0; i-- {
		if found := httpStatus.FindStringSubmatch(lines[i]); found != nil {
			n, _ := strconv.Atoi(found[1])
			if types := client.ClassifyStatus(n); types != recourse.ErrorTypesOf(recourse.Unknown) {
				return types
			}
		}
		for _, s := range said {
			if s.shape.MatchString(lines[i]) {
				return recourse.ErrorTypesOf(s.is)
			}
		}
	}
	for _, m := range meant {
		if t, ok := m.codes[code]; ok && m.program.MatchString(script) {
			return recourse.ErrorTypesOf(t)
		}
	}
	return recourse.ErrorTypesOf(recourse.Unknown)
}

// classifyStart returns the error types of a process that could not be started.
func classifyStart(err error) recourse.ErrorTypes {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return recourse.ErrorTypesOf(recourse.ConfigurationFailure)
	}
	return client.Classify(err)
}

// lastLines returns the last lines that are not blank, up to most.
func lastLines(text string, most int) []string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines[max(0, len(lines)-most):]
}

// linesOfMessage is how many of the last lines of a process stand in the message of its failure.
const linesOfMessage = 3

func exitMessage(code int, stderr, stdout string) string {
	message := fmt.Sprintf("exit code %d", code)
	if signal := code - 128; signal > 0 && signal < 32 {
		message += fmt.Sprintf(" (%s)", syscall.Signal(signal))
	}
	lines := lastLines(stderr, linesOfMessage)
	if len(lines) == 0 {
		lines = lastLines(stdout, 1)
	}
	if len(lines) > 0 {
		message += ": " + strings.Join(lines, "; ")
	}
	return recourse.Redact(message)
}
