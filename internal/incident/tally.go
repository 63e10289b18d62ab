package incident

import (
	"cmp"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/recourse-dev/recourse"
)

// MaxIncidents bounds the groups that are told apart.
const MaxIncidents = 10_000

// Incident is a group of failures that are alike.
type Incident struct {
	// Account to pipeline are as in the ids, except those too long for a subject, which show the beginning and a hash.
	Account  string `json:"account"`
	Org      string `json:"org"`
	Project  string `json:"project"`
	Pipeline string `json:"pipeline"`
	// Errors are the types of the failure, joined by commas.
	Errors string `json:"errors"`
	// Node is without iterations: the branches of a matrix count together.
	Node    string           `json:"node"`
	Section recourse.Section `json:"section"`
	// Action was decided: an action, or for what came to none superseded, stale or conflicting.
	Action     string `json:"action"`
	Failures   int    `json:"failures"`
	Executions int    `json:"executions"`
	// Waiting are the retries that wait, Open the interventions that are open, of those that began in the time looked at.
	Waiting int `json:"waiting"`
	Open    int `json:"open"`
	// First and Last are when the broker stored the decisions (UTC).
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// Example is the execution of the last failure, as `recourse history` takes it.
	Example string `json:"example"`
}

// Report is what goes wrong.
type Report struct {
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	// Records were looked at; Failures were decided, in so many Executions.
	Records    int `json:"records"`
	Failures   int `json:"failures"`
	Executions int `json:"executions"`
	// Waiting are the retries that wait, Open the interventions that are open, of those that began since then.
	Waiting int `json:"waiting"`
	Open    int `json:"open"`
	// Others are the failures of groups beyond MaxIncidents.
	Others    int        `json:"others"`
	Incidents []Incident `json:"incidents"`
}

// Tally counts. It is safe for concurrent use, and the order of the records does not matter. Use [NewTally].
type Tally struct {
	seed maphash.Seed

	mu         sync.Mutex
	groups     map[groupKey]*group
	executions map[uint64]struct{} // hashes of prefixes
	waits      map[waitKey]wait
	records    int
	failures   int
	others     int
}

type groupKey struct {
	pipeline string // subject prefix up to the pipeline
	errors   string
	node     recourse.Node
	does     string
}

type group struct {
	failures    int
	executions  map[uint64]struct{}
	first, last time.Time
	example     string // subject prefix
	waiting     int
	open        int
}

// waitKey names a wait: the hash of its execution's prefix, and the version of the record that waits.
type waitKey struct{ execution, version uint64 }

// wait is what is known of a wait, its beginning or its end or both.
type wait struct {
	*group                 // nil where the record that waits decides on no failure
	after          waitKey // the wait that this one followed, where group is nil
	begun, ended   bool
	isIntervention bool
}

// NewTally returns an empty tally.
func NewTally() *Tally {
	return &Tally{seed: maphash.MakeSeed(), groups: map[groupKey]*group{}, executions: map[uint64]struct{}{}, waits: map[waitKey]wait{}}
}

// Add counts a record by its subject and headers. at is when it was stored.
func (t *Tally) Add(subject recourse.Subject, header map[string][]string, at time.Time) {
	execution := maphash.String(t.seed, subject.Prefix)
	version := number(header[recourse.HeaderVersion])
	ends := number(header[recourse.HeaderEnds])
	var cancels []uint64
	if text := header[recourse.HeaderCancels]; len(text) == 1 {
		cancels, _ = recourse.ParseVersions(text[0]) // what no worker of ours has written ends nothing
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.records++
	var g *group
	if text := header[recourse.HeaderFailure]; len(text) == 1 {
		if failure, err := recourse.ParseFailureSummary(text[0]); err == nil {
			g = t.failure(subject.Prefix, execution, failure, at)
		}
	}
	if ends != 0 {
		t.end(waitKey{execution, ends})
	}
	for _, v := range cancels {
		t.end(waitKey{execution, v})
	}
	if len(header[recourse.HeaderDueAt]) > 0 {
		w := t.waits[waitKey{execution, version}]
		w.group, w.after, w.begun = g, waitKey{execution, ends}, true
		w.isIntervention = subject.Family == recourse.FamilyCommand
		t.waits[waitKey{execution, version}] = w
	}
}

func (t *Tally) failure(prefix string, execution uint64, f recourse.FailureSummary, at time.Time) *group {
	t.failures++
	t.executions[execution] = struct{}{}
	key := groupKey{prefix[:strings.LastIndexByte(prefix, '.')], f.Errors, recourse.Node{Path: recourse.PlainPath(f.Node.Path), Section: f.Node.Section}, f.Does}
	g := t.groups[key]
	if g == nil {
		if len(t.groups) >= MaxIncidents {
			t.others++
			return nil
		}
		// The key holds the parts of a message that may be much larger.
		key = groupKey{strings.Clone(key.pipeline), strings.Clone(key.errors), recourse.Node{Path: strings.Clone(key.node.Path), Section: key.node.Section}, strings.Clone(key.does)}
		g = &group{executions: map[uint64]struct{}{}, first: at}
		t.groups[key] = g
	}
	g.failures++
	g.executions[execution] = struct{}{}
	if at.Before(g.first) {
		g.first = at
	}
	if !at.Before(g.last) {
		g.last, g.example = at, prefix
	}
	return g
}

func (t *Tally) end(k waitKey) {
	w := t.waits[k]
	w.ended = true
	t.waits[k] = w
}

func number(values []string) uint64 {
	if len(values) != 1 {
		return 0
	}
	n, _ := strconv.ParseUint(values[0], 10, 64) // 0 where it is none
	return n
}

// Report returns what was counted, worst first: what hit the most executions, then the most failures, then where people are asked, then
// what came last.
func (t *Tally) Report(since, until time.Time) *Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &Report{
		Since: since.UTC(), Until: until.UTC(), Records: t.records, Failures: t.failures, Executions: len(t.executions), Others: t.others,
		Incidents: []Incident{},
	}
	for _, g := range t.groups {
		g.waiting, g.open = 0, 0
	}
	for _, w := range t.waits {
		if !w.begun || w.ended {
			continue
		}
		g := t.groupOf(w)
		if w.isIntervention {
			r.Open++
			if g != nil {
				g.open++
			}
		} else {
			r.Waiting++
			if g != nil {
				g.waiting++
			}
		}
	}
	for key, g := range t.groups {
		tokens := strings.Split(key.pipeline, ".")
		for i := range tokens {
			tokens[i] = readable(tokens[i])
		}
		example := strings.Split(g.example, ".")[1:]
		for i := range example {
			example[i] = readable(example[i])
		}
		r.Incidents = append(r.Incidents, Incident{
			Account: tokens[1], Org: tokens[2], Project: tokens[3], Pipeline: tokens[4], Errors: key.errors, Node: key.node.Path, Section: key.node.Section,
			Action: key.does, Failures: g.failures, Executions: len(g.executions), Waiting: g.waiting, Open: g.open, First: g.first.UTC(), Last: g.last.UTC(),
			Example: strings.Join(example, "/"),
		})
	}
	slices.SortFunc(r.Incidents, func(a, b Incident) int {
		return cmp.Or(
			cmp.Compare(b.Executions, a.Executions), cmp.Compare(b.Failures, a.Failures), cmp.Compare(b.Open, a.Open), b.Last.Compare(a.Last),
			cmp.Compare(a.Account, b.Account), cmp.Compare(a.Org, b.Org), cmp.Compare(a.Project, b.Project), cmp.Compare(a.Pipeline, b.Pipeline),
			cmp.Compare(a.Node, b.Node), cmp.Compare(a.Section, b.Section), cmp.Compare(a.Errors, b.Errors), cmp.Compare(a.Action, b.Action),
		)
	})
	return r
}

// groupOf returns the group of the failure that a wait goes back to, over those it followed: a retry that was postponed, one that a
// question ended in. nil where the failure was before the time looked at.
func (t *Tally) groupOf(w wait) *group {
	for range len(t.waits) {
		if w.group != nil || w.after.version == 0 {
			break
		}
		w = t.waits[w.after]
	}
	return w.group
}

// readable undoes [recourse.Token] for people, where it can be undone.
func readable(token string) string {
	if !strings.Contains(token, "=") || strings.Contains(token, "==") {
		return token
	}
	var b strings.Builder
	for i := 0; i < len(token); i++ {
		if token[i] == '=' && i+2 < len(token) {
			if n, err := strconv.ParseUint(token[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(token[i])
	}
	return strings.ToValidUTF8(b.String(), "\uFFFD")
}
