package online

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/cli"
)

// Waiting is one open intervention.
type Waiting struct {
	// ID is what `recourse answer` takes: EXECUTION/VERSION.
	ID           string              `json:"id"`
	Execution    string              `json:"execution"` // account/org/project/pipeline/execution
	Intervention uint64              `json:"intervention"`
	Node         string              `json:"node"`
	Section      recourse.Section    `json:"section"`
	Attempt      int                 `json:"attempt"`
	Errors       recourse.ErrorTypes `json:"errors"`
	Message      string              `json:"message"`
	Since        time.Time           `json:"since"`
	Deadline     time.Time           `json:"deadline"`
	OnTimeout    recourse.Action     `json:"onTimeout"`
	Allowed      recourse.Actions    `json:"allowed"`
	// AnswerBy is who may answer by the pipeline, principals joined by commas; absent where only the broker's permissions decide.
	AnswerBy string         `json:"answerBy,omitzero"`
	Level    recourse.Level `json:"level"`
	Strategy string         `json:"strategy"`

	ref recourse.Ref
}

func (w *Waiting) matched() *matched {
	return &matched{
		Ref: w.ref, Node: recourse.Node{Path: w.Node, Section: w.Section}, version: w.Intervention, attempt: w.Attempt, errors: w.Errors,
		message: w.Message, level: w.Level, strategy: w.Strategy, then: w.OnTimeout, kind: recourse.WaitIntervention.String(), allowed: w.Allowed,
	}
}

// Interventions returns the command that lists the open interventions.
func Interventions(g *Global) *cobra.Command {
	var (
		filter ids
		only   match
	)
	cmd := &cobra.Command{
		Use:   "interventions",
		Short: "List the interventions that wait for a person",
		Long: `Interventions lists what waits for a person, the earliest deadline first. Answer one with
` + "`recourse answer ID ACTION --why …`" + `, or many with ` + "`recourse answer --match … ACTION --why …`" + `.

` + matchHelp,
		Example: `  recourse interventions
  recourse interventions --match 'pipeline=deploy_web,error=Timeout' -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := only.parse(); err != nil {
				return err
			}
			s, err := g.connect(cmd)
			if err != nil {
				return err
			}
			defer s.close()
			waiting, err := s.waiting(cmd.Context(), filter.Ref, &only)
			if err != nil {
				return err
			}
			return printWaiting(s.Printer, waiting)
		},
	}
	filter.registerFilter(cmd)
	only.register(cmd, "only those that match")
	return cmd
}

// reader is the principal of an operator that only looks.
const reader = "recourse-cli"

// waiting returns the open interventions of a filter that match.
func (s *session) waiting(ctx context.Context, filter recourse.Ref, only *match) ([]Waiting, error) {
	operator, err := client.NewOperator(s.nc, reader)
	if err != nil {
		return nil, err
	}
	open, err := operator.Open(ctx, only.narrow(filter))
	if err != nil {
		return nil, forOneAccount(err)
	}
	waiting := make([]Waiting, 0, len(open))
	for _, o := range open {
		w := Waiting{
			ID: answerID(o.Ref.Execution, o.ID), Execution: o.Ref.String(), Intervention: o.ID, Node: o.Path, Section: o.Section,
			Attempt: o.Attempt, Errors: o.Errors, Message: o.Message, Since: o.OpenedAt, Deadline: o.Deadline, OnTimeout: o.OnTimeout,
			Allowed: o.Allowed, AnswerBy: o.AnswerBy, Level: o.Level, Strategy: o.Strategy, ref: o.Ref,
		}
		if only.matches(w.matched()) {
			waiting = append(waiting, w)
		}
	}
	return waiting, nil
}

func answerID(execution string, version uint64) string {
	return fmt.Sprintf("%s/%d", execution, version)
}

func printWaiting(p *cli.Printer, waiting []Waiting) error {
	if p.Format == cli.JSON {
		return p.JSON(waiting)
	}
	if len(waiting) == 0 {
		p.Note("nothing waits for a person")
		return nil
	}
	rows := p.Rows("ID", "PIPELINE", "NODE", "SINCE", "DEADLINE", "THEN", "BY", "ALLOWED", "ERROR")
	for _, w := range waiting {
		rows.Add(w.ID, w.ref.Pipeline, recourse.Node{Path: w.Node, Section: w.Section}.String(), cli.Time(w.Since), cli.Time(w.Deadline),
			w.OnTimeout.String(), cmp.Or(w.AnswerBy, "anyone permitted"), w.Allowed.String(), whatFailed(w.Errors, w.Message))
	}
	return rows.Flush()
}

// whatFailed is the error of a failure in a table.
func whatFailed(types recourse.ErrorTypes, message string) string {
	if message == "" {
		return types.String()
	}
	return types.String() + ": " + short(message)
}

// short cuts a text that would make a table unreadable; JSON has the whole.
func short(s string) string {
	const most = 120
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return s
}
