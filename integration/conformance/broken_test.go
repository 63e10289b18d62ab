package conformance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.yaml.in/yaml/v4"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
)

// naiveVariable makes the test program a small orchestrator, which may be wrong in the way that the variable names.
const naiveVariable = "RECOURSE_CONFORMANCE_NAIVE"

// The ways in which the small orchestrator is wrong; right is none.
const (
	right    = "right"
	repeats  = "repeats"  // carries a command out whenever it comes
	early    = "early"    // does not wait for a retry
	attempts = "attempts" // reports every attempt as the first
	silent   = "silent"   // does not say when it is over
)

// naive runs the steps of one stage one after the other and knows the commands retry, pause and mark-success. It is what docs/orchestrators.md asks for,
// as far as it goes, where the mode is right.
func naive(mode string) error {
	ctx := context.Background()
	ref := recourse.Ref{
		Account: os.Getenv("RECOURSE_ACCOUNT"), Org: os.Getenv("RECOURSE_ORG"), Project: os.Getenv("RECOURSE_PROJECT"),
		Pipeline: os.Getenv("RECOURSE_PIPELINE"), Execution: os.Getenv("RECOURSE_EXECUTION"),
	}
	content, err := os.ReadFile(os.Getenv("RECOURSE_FILE"))
	if err != nil {
		return err
	}
	type script struct {
		Step struct {
			Identifier string
			Spec       struct {
				Source struct{ Spec struct{ Script string } }
			}
		}
	}
	var file struct {
		Pipeline struct {
			Stages []struct {
				Stage struct {
					Identifier string
					Spec       struct{ Execution struct{ Steps []script } }
				}
			}
		}
	}
	if err := yaml.Unmarshal(content, &file); err != nil {
		return err
	}
	nc, err := nats.Connect(os.Getenv("NATS_URL"))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	delegate, err := client.NewDelegate(nc, "naive")
	if err != nil {
		return err
	}
	orchestrator, err := client.NewOrchestrator(nc, client.OrchestratorConfig{Principal: "naive"})
	if err != nil {
		return err
	}
	consumer, err := js.OrderedConsumer(ctx, recourse.StreamJournal, jetstream.OrderedConsumerConfig{FilterSubjects: []string{ref.Prefix() + ".command.>"}})
	if err != nil {
		return err
	}
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	handled := uint64(0)
	// decided returns the next command that is not pause.
	decided := func() (*recourse.Record, error) {
		for {
			msg, err := messages.Next()
			if err != nil {
				return nil, err
			}
			record, err := recourse.DecodeRecord(msg.Data())
			if err != nil {
				return nil, err
			}
			if record.Version <= handled && mode != repeats {
				continue
			}
			handled = record.Version
			if record.Command.Verb != recourse.VerbPause {
				return record, nil
			}
		}
	}
	stage := file.Pipeline.Stages[0].Stage
	for _, s := range stage.Spec.Execution.Steps {
		for attempt := 1; ; {
			if exec.Command("bash", "-c", s.Step.Spec.Source.Spec.Script).Run() == nil {
				break
			}
			failure := recourse.Failure{Ref: ref, Node: recourse.Node{Path: stage.Identifier + "/" + s.Step.Identifier}, Attempt: attempt}
			if mode == attempts {
				failure.Attempt, failure.Message = 1, fmt.Sprintf("attempt %d", attempt)
			}
			if _, err := delegate.Report(ctx, failure); err != nil {
				return err
			}
			if mode == early || mode == attempts {
				attempt++
				continue
			}
			command, err := decided()
			if err != nil {
				return err
			}
			if command.Command.Verb == recourse.VerbMarkSuccess {
				break
			}
			attempt = command.Command.Attempt
		}
	}
	if mode == silent {
		return nil
	}
	return orchestrator.Finished(ctx, ref, "")
}

// TestBroken checks orchestrators that are wrong, each in its own way, and wants the suite to notice; and one that is right as far as it
// goes. They are started as anybody's are: by the variables of the environment.
func TestBroken(t *testing.T) {
	if os.Getenv(commandVariable) != "" {
		t.Skip("SKIP: it is another implementation that is checked")
	}
	own := func(mode string) string { return fmt.Sprintf("%s=%s exec '%s'", naiveVariable, mode, os.Args[0]) }
	// rewritten is the reference with a pipeline in which a word is another one, which it does not know.
	rewritten := func(word string) string {
		return fmt.Sprintf(`sed 's/%s:/other:/g' "$RECOURSE_FILE" > "$RECOURSE_FILE.new"; RECOURSE_FILE="$RECOURSE_FILE.new"; %s`, word, suite.Command)
	}
	for _, test := range []struct{ name, command, cases, says string }{
		{"a small one that is right", own(right), "retry|repeated", ""},
		{"repeats a command", own(repeats), "repeated", "the steps ran"},
		{"does not wait for a retry", own(early), "retry", "commands"},
		{"reports every attempt as the first", own(attempts), "retry", "was reported twice, and not the same"},
		{"does not say when it is over", own(silent), "retry", "the end of the execution is reported: not within"},
		{"leaves rollbackSteps out", rewritten("rollbackSteps"), "rollback-stage|rollback-pipeline|rollback-group", "the steps ran"},
		{"does not know when", rewritten("when"), "mark-failure", "the steps ran"},
		{"runs everything twice", strings.Replace(suite.Command, "exec", `RECOURSE_DATA_DIR="$RECOURSE_DATA_DIR-2"`, 1) + " & " + suite.Command, "order", "the steps ran"},
		{"forgets when it is killed", `unset RECOURSE_RESUME; rm -rf "$RECOURSE_DATA_DIR"; ` + suite.Command, "killed-while-paused", "not within"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			patience := suite.Patience
			if strings.Contains(test.says, "not within") {
				patience = suite.Patience / 20 // it is in vain
			}
			cmd := exec.Command(os.Args[0], "-test.v", "-test.run", "^TestConformance$/^("+test.cases+")$")
			cmd.Env = append(os.Environ(), urlVariable+"="+suite.URL, commandVariable+"="+test.command, patienceVariable+"="+patience.String())
			out, err := cmd.CombinedOutput()
			if test.says == "" {
				if err != nil {
					t.Errorf("%v\n%s", err, out)
				}
				return
			}
			for name := range strings.SplitSeq(test.cases, "|") {
				if !strings.Contains(string(out), "--- FAIL: TestConformance/"+name+" ") {
					t.Errorf("%s: the suite did not notice\n%s", name, out)
				}
			}
			if !strings.Contains(string(out), test.says) {
				t.Errorf("%q is missing in\n%s", test.says, out)
			}
		})
	}
}
