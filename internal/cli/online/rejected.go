package online

import (
	"context"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/internal/cli"
	"github.com/recourse-dev/recourse/internal/publish"
)

// RejectedInput is an input nobody could decide.
type RejectedInput struct {
	Sequence uint64    `json:"sequence"` // in the stream of the rejected
	Time     time.Time `json:"time"`
	Subject  string    `json:"subject"` // where it was published
	Reason   string    `json:"reason"`
	Error    string    `json:"error"`
	// Inbox is its sequence in the inbox.
	Inbox uint64 `json:"inbox,omitzero"`
	// Body is what was published; BodyBytes where that is not UTF-8.
	Body      string `json:"body"`
	BodyBytes []byte `json:"bodyBase64,omitzero"`
}

// Rejected returns the command that lists the inputs nobody could decide.
func Rejected(g *Global) *cobra.Command {
	var (
		filter ids
		limit  int
	)
	cmd := &cobra.Command{
		Use:   "rejected",
		Short: "List the inputs that nobody could decide, the newest last",
		Long: `Rejected lists inputs that workers could not decide, with the reason: bad JSON, unknown keys, ids that are not those of the
subject, a later version. With -o json each comes with its body.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return cli.Usagef("--limit: want 0 or more, got %d", limit)
			}
			s, err := g.connect(cmd)
			if err != nil {
				return err
			}
			defer s.close()
			inputs, err := s.rejected(cmd.Context(), filter.Ref, limit)
			if err != nil {
				return err
			}
			return printRejected(s.Printer, inputs)
		},
	}
	filter.registerFilter(cmd)
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many, the newest; 0 for all")
	return cmd
}

// rejected reads the newest rejected inputs, oldest first.
func (s *session) rejected(ctx context.Context, filter recourse.Ref, limit int) ([]RejectedInput, error) {
	from := since{}
	if filter == (recourse.Ref{}) {
		from.last = uint64(limit) // nothing before can be among the newest
	}
	subject := prefix(filter) + "." + string(recourse.FamilyRejected) + ".*"
	t, err := s.follow(ctx, recourse.StreamRejected, subject, from, s.Format == cli.Table)
	if err != nil {
		return nil, err
	}
	defer t.stop()
	inputs := []RejectedInput{}
	for range t.stored {
		msg, meta, err := t.next(ctx)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, rejectedInput(msg, meta))
		if limit > 0 && len(inputs) > limit {
			inputs = inputs[1:]
		}
	}
	return inputs, nil
}

func rejectedInput(msg jetstream.Msg, meta *jetstream.MsgMetadata) RejectedInput {
	header := msg.Headers()
	r := RejectedInput{
		Sequence: meta.Sequence.Stream, Time: meta.Timestamp.UTC(), Subject: header.Get(publish.HeaderSubject),
		Reason: header.Get(publish.HeaderReason), Error: header.Get(publish.HeaderError),
	}
	r.Inbox, _ = strconv.ParseUint(header.Get(publish.HeaderSequence), 10, 64) // 0 where it is not known
	if utf8.Valid(msg.Data()) {
		r.Body = string(msg.Data())
	} else {
		r.BodyBytes = msg.Data()
	}
	return r
}

func printRejected(p *cli.Printer, inputs []RejectedInput) error {
	if p.Format == cli.JSON {
		return p.JSON(inputs)
	}
	if len(inputs) == 0 {
		p.Note("nothing was rejected")
		return nil
	}
	rows := p.Rows("TIME", "SUBJECT", "REASON", "ERROR")
	for _, r := range inputs {
		rows.Add(cli.Time(r.Time), r.Subject, r.Reason, r.Error)
	}
	return rows.Flush()
}
