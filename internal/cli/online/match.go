package online

import (
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/cli"
)

// matched is what a --match looks at: an open intervention or a pending retry.
type matched struct {
	recourse.Ref
	recourse.Node
	version  uint64
	attempt  int
	errors   recourse.ErrorTypes
	message  string
	level    recourse.Level
	strategy string
	then     recourse.Action // on timeout, or after the last retry
	kind     string          // intervention, retry or retry-group
	allowed  recourse.Actions
}

// matchKey is a key of a --match.
type matchKey struct {
	name string
	// values are those of what is looked at; one of them has to match.
	values func(*matched) []string
	// known are the values there are, nil where any is.
	known func() []string
}

// matchKeys are the keys in the order of the help.
var matchKeys = []matchKey{
	{"account", func(m *matched) []string { return []string{m.Account} }, nil},
	{"org", func(m *matched) []string { return []string{m.Org} }, nil},
	{"project", func(m *matched) []string { return []string{m.Project} }, nil},
	{"pipeline", func(m *matched) []string { return []string{m.Pipeline} }, nil},
	{"execution", func(m *matched) []string { return []string{m.Execution} }, nil},
	{"id", func(m *matched) []string {
		return []string{answerID(m.Execution, m.version), answerID(m.Ref.String(), m.version)}
	}, nil},
	{"stage", func(m *matched) []string { return []string{m.Stage(), recourse.PlainPath(m.Stage())} }, nil},
	{"node", func(m *matched) []string { return []string{m.Path, recourse.PlainPath(m.Path)} }, nil},
	{"section", func(m *matched) []string { return []string{m.Section.String()} }, func() []string { return []string{"steps", "rollbackSteps"} }},
	{"attempt", func(m *matched) []string { return []string{strconv.Itoa(m.attempt)} }, nil},
	{"error", func(m *matched) []string { return strings.Split(m.errors.Normalize().String(), ",") }, recourse.ErrorTypeNames},
	{"message", func(m *matched) []string { return []string{m.message} }, nil},
	{"level", func(m *matched) []string { return []string{m.level.String()} }, func() []string { return []string{"none", "step", "step-group", "stage"} }},
	{"strategy", func(m *matched) []string { return []string{m.strategy} }, nil},
	{"then", func(m *matched) []string { return []string{m.then.String()} }, recourse.ActionNames},
	{"allows", func(m *matched) []string { return strings.Split(m.allowed.String(), ",") }, recourse.ActionNames},
	{"kind", func(m *matched) []string { return []string{m.kind} }, func() []string { return []string{"intervention", "retry", "retry-group"} }},
}

// matchHelp says how a --match is written.
const matchHelp = `--match takes KEY=VALUE pairs, joined by commas; all of them have to hold. Of several values for one key one has to: error=Timeout,error=Connectivity.
KEY!=VALUE must not hold. A * stands for any text, also over slashes: node=prod/*. Keys: account, org, project, pipeline, execution, id, stage, node,
section (steps, rollbackSteps), attempt, error, message, level, strategy, then (what follows: on timeout, or after the last retry), allows (of an
intervention), kind (of a retry: retry, retry-group). A stage or node matches with its iteration (prod/canary[2]/check) and without.`

// match is a --match that was read. The zero value matches everything.
type match struct {
	texts []string
	pairs []matchPair
}

type matchPair struct {
	key     matchKey
	value   string
	exclude bool
}

// register adds the flag.
func (m *match) register(cmd *cobra.Command, usage string) {
	cmd.Flags().StringArrayVar(&m.texts, "match", nil, usage+", as `pairs` KEY=VALUE,…")
	_ = cmd.RegisterFlagCompletionFunc("match", completeMatch)
}

// given reports whether there is one.
func (m *match) given() bool { return len(m.texts) > 0 }

// parse reads what was given.
func (m *match) parse() error {
	m.pairs = nil
	for _, text := range m.texts {
		for part := range strings.SplitSeq(text, ",") {
			name, value, found := strings.Cut(part, "=")
			p := matchPair{value: strings.TrimSpace(value)}
			name, p.exclude = strings.CutSuffix(name, "!")
			if name = strings.TrimSpace(name); !found || p.value == "" {
				return cli.Usagef("--match %q: want KEY=VALUE, and more of them behind commas", part)
			}
			i := slices.IndexFunc(matchKeys, func(k matchKey) bool { return k.name == name })
			if i < 0 {
				return cli.Usagef("--match: unknown key %q; %s", name, cli.DidYouMean(name, matchKeyNames()))
			}
			if p.key = matchKeys[i]; p.key.known != nil && !strings.Contains(p.value, "*") {
				known := p.key.known()
				if !slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, p.value) }) {
					return cli.Usagef("--match: unknown %s %q; %s", name, p.value, cli.DidYouMean(p.value, known))
				}
			}
			m.pairs = append(m.pairs, p)
		}
	}
	return nil
}

func matchKeyNames() []string {
	names := make([]string, len(matchKeys))
	for i := range matchKeys {
		names[i] = matchKeys[i].name
	}
	return names
}

// narrow adds to a filter what the match says of the ids, so that only that is read.
func (m *match) narrow(filter recourse.Ref) recourse.Ref {
	for name, id := range map[string]*string{
		"account": &filter.Account, "org": &filter.Org, "project": &filter.Project, "pipeline": &filter.Pipeline, "execution": &filter.Execution,
	} {
		var only []string
		for _, p := range m.pairs {
			if p.key.name == name && !p.exclude {
				only = append(only, p.value)
			}
		}
		if len(only) == 1 && *id == "" && !strings.Contains(only[0], "*") {
			*id = only[0]
		}
	}
	return filter
}

// matches reports whether all keys hold.
func (m *match) matches(what *matched) bool {
	wanted := make(map[string]bool)
	for _, p := range m.pairs {
		holds := slices.ContainsFunc(p.key.values(what), func(value string) bool {
			if p.key.known != nil {
				return wildcard(strings.ToLower(p.value), strings.ToLower(value))
			}
			return wildcard(p.value, value)
		})
		switch {
		case p.exclude && holds:
			return false
		case !p.exclude:
			wanted[p.key.name] = wanted[p.key.name] || holds
		}
	}
	for _, holds := range wanted {
		if !holds {
			return false
		}
	}
	return true
}

// wildcard reports whether a text is of a pattern, in which * stands for any text.
func wildcard(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	first, last := parts[0], parts[len(parts)-1]
	if !strings.HasPrefix(text, first) {
		return false
	}
	text = text[len(first):]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(text, part)
		if i < 0 {
			return false
		}
		text = text[i+len(part):]
	}
	return strings.HasSuffix(text, last)
}

// completeMatch offers the keys, and the values of those that have a few.
func completeMatch(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const more = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	before := typed[:strings.LastIndexByte(typed, ',')+1]
	name, _, found := strings.Cut(typed[len(before):], "=")
	var offers []cobra.Completion
	for _, k := range matchKeys {
		switch {
		case !found:
			offers = append(offers, before+k.name+"=")
		case k.name == strings.TrimSuffix(name, "!") && k.known != nil:
			for _, value := range k.known() {
				offers = append(offers, before+name+"="+value)
			}
		}
	}
	return offers, more
}
