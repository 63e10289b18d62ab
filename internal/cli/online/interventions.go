package online

import (
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
	Level        recourse.Level      `json:"level"`
	Strategy     string              `json:"strategy"`

	pipeline string
}

// Interventions returns the command that lists the open interventions.
func Interventions(g *Global) *cobra.Command {
	var filter ids
	cmd := &cobra.Command{
		Use:   "interventions",
		Short: "List the interventions that wait for a person",
		Long: `Interventions lists what waits for a person, the earliest deadline first. Answer one with
` + "`recourse answer ID ACTION --why …`" + `.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := g.connect(cmd)
			if err != nil {
				return err
			}
			defer s.close()
			waiting, err := s.waiting(cmd.Context(), filter.Ref)
			if err != nil {
				return err
			}
			return printWaiting(s.Printer, waiting)
		},
	}
	filter.registerFilter(cmd)
	return cmd
}

// reader is the principal of an operator that only looks.
const reader = "recourse-cli"

func (s *session) waiting(ctx context.Context, filter recourse.Ref) ([]Waiting, error) {
	operator, err := client.NewOperator(s.nc, reader)
	if err != nil {
		return nil, err
	}
	open, err := operator.Open(ctx, filter)
	if err != nil {
		return nil, err
	}
	waiting := make([]Waiting, len(open))
	for i, o := range open {
		waiting[i] = Waiting{
			ID: answerID(o.Ref.Execution, o.ID), Execution: o.Ref.String(), Intervention: o.ID, Node: o.Path, Section: o.Section,
			Attempt: o.Attempt, Errors: o.Errors, Message: o.Message, Since: o.OpenedAt, Deadline: o.Deadline, OnTimeout: o.OnTimeout,
			Allowed: o.Allowed, Level: o.Level, Strategy: o.Strategy, pipeline: o.Pipeline,
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
	rows := p.Rows("ID", "PIPELINE", "NODE", "SINCE", "DEADLINE", "THEN", "ALLOWED", "ERROR")
	for _, w := range waiting {
		what := w.Errors.String()
		if w.Message != "" {
			what += ": " + short(w.Message)
		}
		rows.Add(w.ID, w.pipeline, recourse.Node{Path: w.Node, Section: w.Section}.String(), cli.Time(w.Since), cli.Time(w.Deadline),
			w.OnTimeout.String(), w.Allowed.String(), what)
	}
	return rows.Flush()
}

// short cuts a text that would make a table unreadable; JSON has the whole.
func short(s string) string {
	const most = 120
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return s
}
