package doctor

import (
	"context"
	"fmt"
	"strings"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/peers"
)

// Role is what somebody does with Recourse; deploy/nats/accounts.conf has a user for each. The zero value means not set.
type Role uint8

// The roles.
const (
	Delegate Role = iota + 1
	Orchestrator
	Operator
	Viewer
	Worker
	Admin
)

// RoleNames are the names of the roles.
var RoleNames = []string{"delegate", "orchestrator", "operator", "viewer", "worker", "admin"}

// String returns the name, "" for the zero value.
func (r Role) String() string {
	if r < 1 || int(r) > len(RoleNames) {
		return ""
	}
	return RoleNames[r-1]
}

// MarshalText writes the name.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a name; an empty one is the zero value.
func (r *Role) UnmarshalText(text []byte) error {
	*r = 0
	for i, name := range RoleNames {
		if name == string(text) {
			*r = Role(i + 1)
		}
	}
	if *r == 0 && len(text) > 0 {
		return fmt.Errorf("unknown role %q, known are %s", text, strings.Join(RoleNames, ", "))
	}
	return nil
}

// need is a permission to publish: a pattern with A for the account, before the other ids, and P for the principal, and what it is needed for.
type need struct{ subject, why string }

const (
	why       = "to look at the streams"
	whyRead   = "to read the journal"
	whyDecide = "to write what was decided"
	whySettle = "to settle messages"
)

// listens are what a worker listens to, and what it lacks where it may not. It works without.
var listens = []struct{ subject, without string }{
	{recourse.FilterDetail(recourse.FamilyCommand, recourse.VerbPause.String()),
		"what other workers pause it counts as open only when it reads the journal again, up to an hour and a half later"},
	{peers.SubjectClaims, "it does not know what other workers handle, and decides again what it could have handed over"},
	{peers.SubjectInputs, "other workers cannot hand it what belongs to it, and decide again what they could have handed over"},
}

var readsJournal = []need{
	{"$JS.API.STREAM.INFO.RECOURSE_JOURNAL", why},
	{"$JS.API.DIRECT.GET.RECOURSE_JOURNAL", whyRead},
	{"$JS.API.DIRECT.GET.RECOURSE_JOURNAL.>", whyRead},
	{"$JS.API.CONSUMER.CREATE.RECOURSE_JOURNAL.*.recourse.A.>", whyRead},
	{"$JS.API.CONSUMER.INFO.RECOURSE_JOURNAL.*", whyRead},
	{"$JS.API.CONSUMER.MSG.NEXT.RECOURSE_JOURNAL.*", whyRead},
	{"$JS.API.CONSUMER.DELETE.RECOURSE_JOURNAL.*", "to remove the consumers it read with"},
}

var looksAtAll = []need{
	{"$JS.API.STREAM.INFO.RECOURSE_INBOX", why},
	{"$JS.API.STREAM.INFO.RECOURSE_JOURNAL", why},
	{"$JS.API.STREAM.INFO.RECOURSE_TIMERS", why},
	{"$JS.API.STREAM.INFO.RECOURSE_REJECTED", why},
	{"$JS.API.STREAM.INFO.KV_RECOURSE_PIPELINES", why},
	{"$JS.API.CONSUMER.INFO.RECOURSE_INBOX.recourse-worker", "to see the backlog"},
	{"$JS.API.CONSUMER.INFO.RECOURSE_TIMERS.recourse-due", "to see the backlog"},
}

// needs are the permissions of each role, as the roles of deploy/nats/accounts.conf have them.
var needs = map[Role][]need{
	Delegate: {
		{"recourse.A.*.*.*.*.failure.P", "to report failures"},
	},
	Orchestrator: {
		{"recourse.A.*.*.*.*.lifecycle.P", "to report the end of executions"},
		{"$JS.API.CONSUMER.CREATE.RECOURSE_JOURNAL.P.recourse.A.*.*.*.*.command.>", "to create its consumer of commands"},
		{"$JS.API.CONSUMER.INFO.RECOURSE_JOURNAL.P", "to find its consumer"},
		{"$JS.API.CONSUMER.MSG.NEXT.RECOURSE_JOURNAL.P", "to receive commands"},
		{"$JS.ACK.RECOURSE_JOURNAL.P.>", whySettle},
		{"$JS.ACK.*.*.RECOURSE_JOURNAL.P.>", whySettle},
	},
	Operator: append([]need{
		{"recourse.A.*.*.*.*.intervention.P", "to answer interventions"},
		{"recourse.A.*.*.*.*.control.P", "to step in where a retry waits"},
		{"$JS.API.STREAM.INFO.KV_RECOURSE_PIPELINES", "to read pipelines"},
		{"$JS.API.DIRECT.GET.KV_RECOURSE_PIPELINES.$KV.RECOURSE_PIPELINES.A.>", "to read pipelines"},
	}, readsJournal...),
	Viewer: append(append([]need{
		{"$JS.API.DIRECT.GET.KV_RECOURSE_PIPELINES.$KV.RECOURSE_PIPELINES.A.>", "to read pipelines"},
	}, looksAtAll...), readsJournal[1:]...),
	Worker: append([]need{
		{"recourse.A.*.*.*.*.command.*", whyDecide},
		{"recourse.A.*.*.*.*.decision.*", whyDecide},
		{"recourse.A.*.*.*.*.timer.*", "to arm waits"},
		{"recourse.A.*.*.*.*.due.*", "to cancel waits"},
		{"recourse.A.*.*.*.*.rejected.*", "to put aside inputs nobody can decide"},
		{peers.SubjectClaims, "to tell other workers what it handles"},
		{peers.SubjectInputs, "to hand over what other workers handle"},
		{"$JS.API.CONSUMER.MSG.NEXT.RECOURSE_INBOX.recourse-worker", "to receive inputs"},
		{"$JS.API.CONSUMER.MSG.NEXT.RECOURSE_TIMERS.recourse-due", "to receive waits that came due"},
		{"$JS.ACK.RECOURSE_INBOX.recourse-worker.>", whySettle},
		{"$JS.ACK.*.*.RECOURSE_INBOX.recourse-worker.>", whySettle},
		{"$JS.ACK.RECOURSE_TIMERS.recourse-due.>", whySettle},
		{"$JS.ACK.*.*.RECOURSE_TIMERS.recourse-due.>", whySettle},
		{"$JS.API.DIRECT.GET.RECOURSE_JOURNAL", whyRead},
		{"$JS.API.DIRECT.GET.RECOURSE_JOURNAL.>", whyRead},
		{"$JS.API.STREAM.MSG.GET.RECOURSE_JOURNAL", whyRead},
		{"$JS.API.CONSUMER.CREATE.RECOURSE_JOURNAL.*", "to look for waits that are overdue"},
		{"$JS.API.CONSUMER.CREATE.RECOURSE_JOURNAL.*.>", "to look for waits that are overdue"},
		{"$JS.API.CONSUMER.INFO.RECOURSE_JOURNAL.*", "to look for waits that are overdue"},
		{"$JS.API.CONSUMER.MSG.NEXT.RECOURSE_JOURNAL.*", "to look for waits that are overdue"},
		{"$JS.API.CONSUMER.DELETE.RECOURSE_JOURNAL.*", "to remove the consumers it looked with"},
		{"$JS.API.DIRECT.GET.KV_RECOURSE_PIPELINES", "to read pipelines"},
		{"$JS.API.DIRECT.GET.KV_RECOURSE_PIPELINES.>", "to read pipelines"},
		{"$JS.API.CONSUMER.CREATE.KV_RECOURSE_PIPELINES.*.>", "to follow pipelines"},
		{"$JS.API.CONSUMER.INFO.KV_RECOURSE_PIPELINES.*", "to follow pipelines"},
		{"$JS.API.CONSUMER.DELETE.KV_RECOURSE_PIPELINES.*", "to follow pipelines"},
		{"$JS.FC.KV_RECOURSE_PIPELINES.>", "to follow pipelines"},
	}, looksAtAll...),
	Admin: append([]need{
		{"$JS.API.INFO", "to see limits and space"},
		{"$JS.API.STREAM.CREATE.*", "to create the streams"},
		{"$JS.API.STREAM.UPDATE.*", "to change the streams"},
		{"$JS.API.CONSUMER.CREATE.RECOURSE_INBOX.recourse-worker", "to create the workers' consumers"},
		{"$JS.API.CONSUMER.CREATE.RECOURSE_TIMERS.recourse-due.>", "to create the workers' consumers"},
		{"$KV.RECOURSE_PIPELINES.A.>", "to register pipelines"},
	}, looksAtAll...),
}

// pattern is the subject of a need as permissions have it, for one principal and the pipelines of scope; an empty id stands for all.
func (n need) pattern(scope recourse.Ref, principal string) string {
	tokens := strings.Split(n.subject, ".")
	for i, token := range tokens {
		switch token {
		case "A":
			tokens[i] = "*"
			for j, id := range []string{scope.Account, scope.Org, scope.Project, scope.Pipeline} {
				if i+j < len(tokens) && tokens[i+j] == "*" && id != "" {
					tokens[i+j] = recourse.Token(id)
				}
			}
		case "P":
			tokens[i] = recourse.Token(principal)
		}
	}
	return strings.Join(tokens, ".")
}

// literal is a subject that a pattern lets through and that names nothing: no execution, consumer or key is called "=".
func literal(pattern string) string {
	tokens := strings.Split(pattern, ".")
	for i, token := range tokens {
		if token == "*" || token == ">" {
			tokens[i] = "="
		}
	}
	return strings.Join(tokens, ".")
}

// principal is in whose name a role reports: that of the configuration, or the user of the connection, or the role's.
func (e *examination) principal(role Role) string {
	switch {
	case e.Principal != "":
		return e.Principal
	case e.nc.Opts.User != "":
		return e.nc.Opts.User
	}
	return role.String()
}

// lacks returns what a role needs and the user may not do; at most so many.
func (e *examination) lacks(ctx context.Context, role Role, most int) ([]need, error) {
	var lacking []need
	for _, n := range needs[role] {
		n.subject = n.pattern(e.Scope, e.principal(role))
		may, err := e.mayPublish(ctx, literal(n.subject))
		if err != nil {
			return nil, err
		}
		if !may {
			if lacking = append(lacking, n); len(lacking) == most {
				break
			}
		}
	}
	return lacking, nil
}

// permissions tries what the role needs, or finds out for which roles the permissions suffice.
func (e *examination) permissions(ctx context.Context) {
	if e.Role == 0 {
		e.roles(ctx)
		return
	}
	check := "permissions of " + e.Role.String()
	lacking, err := e.lacks(ctx, e.Role, -1)
	if err != nil {
		e.dead(check, err)
		return
	}
	for _, n := range lacking {
		tell := e.fail
		if n.subject == peers.SubjectClaims || n.subject == peers.SubjectInputs { // it works without, and slower
			tell = e.warn
		}
		tell(check, "allow it for this user as deploy/nats/accounts.conf does"+e.hint(n), "may not publish on %s, which it needs %s", n.subject, n.why)
	}
	if e.Role == Worker {
		deaf := false
		for _, l := range listens {
			hears, err := e.maySubscribe(ctx, l.subject)
			if err != nil {
				e.dead(check, err)
				return
			}
			if !hears {
				e.warn(check, "allow it for this user as deploy/nats/accounts.conf does", "may not subscribe to %s: %s", l.subject, l.without)
				deaf = true
			}
		}
		if deaf {
			return
		}
	}
	if len(lacking) == 0 {
		e.ok(check, "all there%s", e.in())
	}
}

// hint says what may be the matter instead.
func (e *examination) hint(n need) string {
	if strings.Contains(n.subject, ".*.*.") && strings.HasPrefix(n.subject, "recourse.") {
		return "; or say --account, --org, --project or --pipeline, where its permissions are for one"
	}
	return ""
}

// in says for what the permissions were tried.
func (e *examination) in() string {
	var ids []string
	for _, id := range []struct{ name, value string }{
		{"account", e.Scope.Account}, {"org", e.Scope.Org}, {"project", e.Scope.Project}, {"pipeline", e.Scope.Pipeline},
	} {
		if id.value != "" {
			ids = append(ids, id.name+" "+id.value)
		}
	}
	if len(ids) == 0 {
		return ", in all accounts"
	}
	return ", in " + strings.Join(ids, ", ")
}

func (e *examination) roles(ctx context.Context) {
	const check = "permissions"
	var enough []string
	for i := range RoleNames {
		role := Role(i + 1)
		lacking, err := e.lacks(ctx, role, 1)
		if err != nil {
			e.dead(check, err)
			return
		}
		if len(lacking) == 0 {
			enough = append(enough, role.String())
		}
	}
	if len(enough) == 0 {
		mend := "say which role it should have with --role"
		if e.Scope.Account == "" {
			mend += ", and --account where its permissions are for one"
		}
		e.warn(check, mend, "this user may not do what any role needs%s", e.in())
		return
	}
	e.ok(check, "enough for %s%s", strings.Join(enough, ", "), e.in())
}
