package online

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/recourse-dev/recourse"
	"github.com/recourse-dev/recourse/client"
	"github.com/recourse-dev/recourse/internal/cli"
)

// Watch returns the command that shows what happens.
func Watch(g *Global) *cobra.Command {
	w := &watch{}
	cmd := &cobra.Command{
		Use:   "watch [EXECUTION]",
		Short: "Follow failures, decisions and commands",
		Long: `Watch shows failures, decisions, commands, answers and rejected inputs as they happen, until it is interrupted. With an execution
it shows everything of that from its beginning first. An execution is named by its id, or in full as
account/org/project/pipeline/execution. With -o json each event is an object on one line.

Whoever may not read the inbox, where messages are as they were sent, sees the decisions only: each says what it decided on, redacted.`,
		Example: `  recourse watch
  recourse watch ex42
  recourse watch --since 1h --no-follow -o json`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: g.completeExecutions,
		RunE: func(cmd *cobra.Command, args []string) error {
			from, filter, err := w.bounds(args, time.Now())
			if err != nil {
				return err
			}
			p := cli.NewPrinter(cmd, g.Format)
			s, err := g.connect(cmd,
				nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
					if err != nil {
						p.Note("disconnected: %v", err)
					}
				}),
				nats.ReconnectHandler(func(*nats.Conn) { p.Note("connected again") }))
			if err != nil {
				return err
			}
			defer s.close()
			return w.run(cmd.Context(), s, filter, from)
		},
	}
	w.filter.registerFilter(cmd)
	cmd.Flags().StringVar(&w.since, "since", "", "begin `then`: so long ago (1h30m, 2d) or at a time (2026-01-31T08:00:00Z)")
	cmd.Flags().BoolVar(&w.noFollow, "no-follow", false, "end after what is there already")
	return cmd
}

type watch struct {
	filter   ids
	since    string
	noFollow bool

	widths []int // of the columns so far
	shown  int
}

// bounds says where to begin and which executions to show.
func (w *watch) bounds(args []string, now time.Time) (from since, filter recourse.Ref, err error) {
	filter = w.filter.Ref
	if len(args) == 1 {
		if filter, err = w.filter.named(args[0]); err != nil {
			return from, filter, err
		}
	}
	switch {
	case w.since != "":
		from.at, err = parseSince(w.since, now)
	case len(args) == 0 && w.noFollow:
		err = cli.Usagef("--no-follow: say since when with --since, or name an execution")
	case len(args) == 0:
		from.now = true
	}
	return from, filter, err
}

func parseSince(text string, now time.Time) (time.Time, error) {
	var ago recourse.Duration
	if err := ago.UnmarshalText([]byte(text)); err == nil {
		return now.Add(-time.Duration(ago)), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, cli.Usagef("--since %q: want how long ago, like 1h30m or 2d, or a time like 2026-01-31T08:00:00Z", text)
	}
	return at, nil
}

// run shows what is there already in the order of time, then what happens until ctx ends.
func (w *watch) run(ctx context.Context, s *session, filter recourse.Ref, from since) error {
	var tails []*tail
	for _, stream := range []string{recourse.StreamInbox, recourse.StreamJournal, recourse.StreamRejected} {
		t, err := s.follow(ctx, stream, prefix(filter)+".>", from, false)
		if errors.Is(err, client.ErrDenied) && stream != recourse.StreamJournal {
			s.Note("this user may not read %s; the decisions are shown without it", stream)
			continue
		}
		if err != nil {
			return ended(ctx, err)
		}
		defer t.stop()
		tails = append(tails, t)
	}
	if err := w.history(ctx, s, tails); err != nil {
		return ended(ctx, err)
	}
	if w.shown == 0 && filter.Execution != "" {
		if w.noFollow {
			return fmt.Errorf("nothing is known of execution %s", filter.Execution)
		}
		s.Note("nothing is known of execution %s yet", filter.Execution)
	}
	if w.noFollow {
		return nil
	}
	return ended(ctx, w.follow(ctx, s, tails))
}

// ended is no error where somebody ended the watch.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// history merges what was stored when the watch began.
func (w *watch) history(ctx context.Context, s *session, tails []*tail) error {
	heads := make([]*Event, len(tails))
	for {
		first := -1
		for i, t := range tails {
			if heads[i] == nil && t.stored > 0 {
				msg, meta, err := t.next(ctx)
				if err != nil {
					return err
				}
				t.stored--
				heads[i] = eventOf(msg, meta)
			}
			if heads[i] != nil && (first < 0 || compareEvents(heads[i], heads[first]) < 0) {
				first = i
			}
		}
		if first < 0 {
			return nil
		}
		if err := w.show(s, heads[first]); err != nil {
			return err
		}
		heads[first] = nil
	}
}

func compareEvents(a, b *Event) int {
	return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.rank, b.rank), cmp.Compare(a.Sequence, b.Sequence))
}

// hold is how long a live event is held back, so that a failure whose stream is read a moment later still stands before its decision.
const hold = 50 * time.Millisecond

type held struct {
	*Event
	until time.Time
}

func (w *watch) follow(ctx context.Context, s *session, tails []*tail) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	events := make(chan *Event)
	for _, t := range tails {
		go func() {
			for {
				msg, meta, err := t.next(ctx)
				if err != nil {
					cancel(err)
					return
				}
				select {
				case events <- eventOf(msg, meta):
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	var waiting []held
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			for _, h := range waiting {
				if err := w.show(s, h.Event); err != nil {
					return err
				}
			}
			return context.Cause(ctx)
		case e := <-events:
			waiting = append(waiting, held{e, time.Now().Add(hold)})
			slices.SortStableFunc(waiting, func(a, b held) int { return compareEvents(a.Event, b.Event) })
			timer.Reset(time.Until(waiting[0].until))
		case now := <-timer.C:
			for len(waiting) > 0 && !waiting[0].until.After(now) {
				if err := w.show(s, waiting[0].Event); err != nil {
					return err
				}
				waiting = waiting[1:]
			}
			if len(waiting) > 0 {
				timer.Reset(time.Until(waiting[0].until))
			}
		}
	}
}

// show writes one event. The columns are as wide as the widest cell so far: what comes later is not known yet.
func (w *watch) show(s *session, e *Event) error {
	w.shown++
	if s.Format == cli.JSON {
		return s.JSONLine(e)
	}
	if w.widths == nil {
		w.widths = []int{18, 16, 24, 20, 7, 18, 15, 6, 0}
		if err := w.line(s, eventColumns); err != nil {
			return err
		}
	}
	return w.line(s, e.cells())
}

func (w *watch) line(s *session, cells []string) error {
	var b strings.Builder
	for i, cell := range cells {
		cell = cli.Clean(cell)
		b.WriteString(cell)
		if i == len(cells)-1 {
			break
		}
		width := utf8.RuneCountInString(cell)
		w.widths[i] = max(w.widths[i], width)
		b.WriteString(strings.Repeat(" ", w.widths[i]-width+2))
	}
	_, err := fmt.Fprintln(s.Out, strings.TrimRight(b.String(), " "))
	return err
}
