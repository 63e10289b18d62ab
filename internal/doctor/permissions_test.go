package doctor

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/broker"
)

// secured starts a server with the users and permissions that are shipped, and with what change adds to them, and provisions it.
func secured(t *testing.T, change func(*server.Options)) *site {
	t.Helper()
	for _, user := range append([]string{"sys"}, RoleNames...) {
		t.Setenv("RECOURSE_"+strings.ToUpper(user)+"_PASSWORD", "p")
	}
	shipped, err := server.ProcessConfigFile("../../deploy/nats/accounts.conf")
	must(t, err)
	s := bare(t, func(o *server.Options) {
		o.Users, o.Accounts, o.SystemAccount = shipped.Users, shipped.Accounts, shipped.SystemAccount
		if change != nil {
			change(o)
		}
	})
	s.nc = s.as("admin", "admin")
	s.js = s.jetStream(s.nc)
	s.provision()
	return s
}

func (s *site) as(user, inbox string) *nats.Conn {
	s.t.Helper()
	return s.connect(nats.UserInfo(user, "p"), nats.CustomInboxPrefix("_INBOX."+inbox))
}

// TestRoles: each shipped role has what it needs, and nothing that it may not look at is a failure, nor does it take long.
func TestRoles(t *testing.T) {
	s := secured(t, nil)
	for _, d := range broker.Durables() {
		worker := *s
		worker.nc = s.as("worker", "worker")
		pullAs(t, &worker, d)
	}
	for role := Delegate; role <= Admin; role++ {
		t.Run(role.String(), func(t *testing.T) {
			start := time.Now()
			found := examine(t, s.as(role.String(), role.String()), Config{Role: role, Scope: recourse.Ref{Account: "acme"}})
			found.wantFailed(t)
			found.want(t, "permissions of "+role.String(), OK, "all there, in account acme", "")
			if took := time.Since(start); took > patience/2 {
				t.Errorf("took %v", took)
			}
		})
	}
	for role, skipped := range map[string][]string{
		"delegate": {"stream RECOURSE_INBOX", "stream RECOURSE_JOURNAL", "consumer RECOURSE_INBOX/recourse-worker", "clock of this machine", "clocks of the workers", "durability", "space", "undecided inputs", "waits", "rejected inputs"},
		"operator": {"stream RECOURSE_INBOX", "consumer RECOURSE_TIMERS/recourse-due", "durability", "space", "undecided inputs", "rejected inputs"},
		"viewer":   {"space"},
	} {
		found := examine(t, s.as(role, role), Config{Scope: recourse.Ref{Account: "acme"}})
		found.want(t, "permissions", OK, role, "")
		for _, check := range skipped {
			found.want(t, check, Skipped, "", "")
		}
	}
	found := examine(t, s.as("viewer", "viewer"), Config{Scope: recourse.Ref{Account: "acme"}})
	found.want(t, "workers on recourse-worker", OK, "pull", "")
	found.want(t, "clock of this machine", OK, "", "")
	examine(t, s.as("delegate", "delegate"), Config{Scope: recourse.Ref{Account: "other"}}).want(t, "permissions", Warning, "may not do what any role needs, in account other", "--role")
	examine(t, s.as("delegate", "delegate"), Config{Role: Delegate}).want(t, "permissions of delegate", Failed, "recourse.*.*.*.*.*.failure.delegate", "or say --account")
	examine(t, s.as("delegate", "delegate"), Config{Role: Delegate, Scope: recourse.Ref{Account: "acme"}, Principal: "ann"}).want(t, "permissions of delegate", Failed, "recourse.acme.*.*.*.*.failure.ann", "accounts.conf")
	examine(t, s.as("viewer", "viewer"), Config{Role: Worker}).want(t, "permissions of worker", Failed, "may not publish on recourse.*.*.*.*.*.command.*, which it needs to write what was decided", "accounts.conf")
}

// pullAs is pull on the site's own connection.
func pullAs(t *testing.T, s *site, d broker.Durable) {
	t.Helper()
	consumer, err := s.jetStream(s.nc).Consumer(t.Context(), d.Stream, d.Name)
	must(t, err)
	messages, err := consumer.Messages()
	must(t, err)
	go func() { _, _ = messages.Next() }() // which asks
	t.Cleanup(messages.Stop)
}

// TestWrongInbox: what most often goes wrong with the shipped permissions.
func TestWrongInbox(t *testing.T) {
	s := secured(t, nil)
	found := examine(t, s.connect(nats.UserInfo("worker", "p")), Config{Role: Worker})
	found.wantFailed(t, "replies")
	found.want(t, "replies", Failed, "may not subscribe to _INBOX.", "NATS_INBOX_PREFIX")
	found.want(t, "permissions of worker", OK, "all there", "")
	found.want(t, "stream RECOURSE_JOURNAL", Skipped, "", "")
}

// TestMayNotListen: a worker without the permission to listen is warned, and has all else.
func TestMayNotListen(t *testing.T) {
	s := secured(t, func(o *server.Options) {
		for _, user := range o.Users {
			if user.Username == "worker" {
				user.Permissions.Subscribe.Allow = []string{"_INBOX.worker.>"}
			}
		}
	})
	found := examine(t, s.as("worker", "worker"), Config{Role: Worker})
	for _, l := range listens {
		found.want(t, "permissions of worker", Warning, "may not subscribe to "+l.subject, "accounts.conf")
	}
}

// withoutEffect are permissions of the shipped roles that the role can do without.
var withoutEffect = []string{
	"$SYS.REQ.SERVER.PING.VARZ", // asked where no monitoring endpoint is given; nobody answers in the account
	"$JS.API.>",                 // of the admin: more than is needed
	"$JS.FC.>", "$JS.SNAPSHOT.>",
}

// TestEachPermissionRemoved takes each permission to publish away from each shipped role, one at a time, and wants exactly that one named.
func TestEachPermissionRemoved(t *testing.T) {
	type removal struct {
		role    Role
		user    string
		subject string
	}
	var removals []removal
	s := secured(t, func(o *server.Options) {
		for _, user := range o.Users {
			var role Role
			if role.UnmarshalText([]byte(user.Username)) != nil || user.Permissions == nil {
				continue
			}
			for i, subject := range user.Permissions.Publish.Allow {
				if slices.Contains(withoutEffect, subject) {
					continue
				}
				less := *user
				less.Username = fmt.Sprint(user.Username, i)
				less.Permissions = &server.Permissions{Subscribe: user.Permissions.Subscribe, Publish: &server.SubjectPermission{
					Allow: slices.Delete(slices.Clone(user.Permissions.Publish.Allow), i, i+1), Deny: user.Permissions.Publish.Deny,
				}}
				o.Users = append(o.Users, &less)
				removals = append(removals, removal{role, less.Username, subject})
			}
		}
	})
	if len(removals) < 50 {
		t.Fatalf("only %d permissions are shipped", len(removals))
	}
	for _, r := range removals {
		// The permissions alone: the rest is looked at elsewhere.
		var missing []string
		status := Failed
		if strings.HasPrefix(r.subject, "recourse-workers.") {
			status = Warning // it works without
		}
		e := &examination{
			Config: Config{Role: r.role, Scope: recourse.Ref{Account: "acme"}, Principal: r.role.String()}, nc: s.as(r.user, r.role.String()), tried: map[string]bool{},
			tell: func(f Finding) {
				if f.Status == status {
					missing = append(missing, f.Says)
				}
			},
		}
		e.permissions(t.Context())
		// Where a role may do it in all accounts, it was tried in one.
		bound := strings.NewReplacer("recourse.*.", "recourse.acme.", "$KV.RECOURSE_PIPELINES.>", "$KV.RECOURSE_PIPELINES.acme.>").Replace(r.subject)
		if len(missing) != 1 || !strings.Contains(missing[0], " "+bound+",") {
			t.Errorf("%s without %s: %q", r.role, r.subject, missing)
		}
		e.nc.Close()
	}
}

func TestPattern(t *testing.T) {
	pipeline := recourse.Ref{Account: "acme", Org: "retail", Project: "web", Pipeline: "deploy web"}
	for _, tc := range []struct {
		subject       string
		scope         recourse.Ref
		want, literal string
	}{
		{"recourse.A.*.*.*.*.control.P", recourse.Ref{}, "recourse.*.*.*.*.*.control.ann", "recourse.=.=.=.=.=.control.ann"},
		{"recourse.A.*.*.*.*.control.P", recourse.Ref{Account: "acme"}, "recourse.acme.*.*.*.*.control.ann", "recourse.acme.=.=.=.=.control.ann"},
		{"recourse.A.*.*.*.*.control.P", pipeline, "recourse.acme.retail.web.deploy=20web.*.control.ann", "recourse.acme.retail.web.deploy=20web.=.control.ann"},
		{"$JS.API.CONSUMER.CREATE.RECOURSE_JOURNAL.*.recourse.A.>", pipeline, "$JS.API.CONSUMER.CREATE.RECOURSE_JOURNAL.*.recourse.acme.>", "$JS.API.CONSUMER.CREATE.RECOURSE_JOURNAL.=.recourse.acme.="},
		{"$JS.ACK.*.*.RECOURSE_JOURNAL.P.>", pipeline, "$JS.ACK.*.*.RECOURSE_JOURNAL.ann.>", "$JS.ACK.=.=.RECOURSE_JOURNAL.ann.="},
	} {
		got := need{subject: tc.subject}.pattern(tc.scope, "ann")
		if got != tc.want || literal(got) != tc.literal {
			t.Errorf("%s: %s and %s, want %s and %s", tc.subject, got, literal(got), tc.want, tc.literal)
		}
	}
}
